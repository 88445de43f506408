//! The comparison as rows of text cells; the renderings differ in which columns they show and how they draw them.

use super::contents::Report;
use super::format;
use super::rows::{Loss, ModelRow, VariantRow};

/// One row: the baseline, or a model compared with it.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub model: &'a ModelRow,
    pub variant: Option<&'a VariantRow>,
}

/// Every row of the report: the baseline, the variants, the noise floor.
pub(super) fn lines(report: &Report) -> Vec<Line<'_>> {
    let baseline = Line { model: &report.baseline, variant: None };
    let compared = report.compared().map(|row| Line { model: &row.model, variant: Some(row) });
    std::iter::once(baseline).chain(compared).collect()
}

#[derive(Clone, Copy)]
pub(super) enum Column {
    Name,
    Accuracy,
    AccuracyLoss,
    Discordant,
    PValue,
    Perplexity,
    PerplexityLoss,
    PerplexityRatio,
    KlMean,
    SameTop1,
    LargestChange,
    Exact,
}

/// The columns for one model alone.
pub(super) const ALONE: [Column; 3] = [Column::Name, Column::Accuracy, Column::Perplexity];

impl Column {
    /// Its heading; line breaks show where a narrow column may break it.
    pub(super) fn header(self, report: &Report) -> String {
        let level = format::level(report.statistics.confidence);
        match self {
            Self::Name => "strategy".to_owned(),
            Self::Accuracy => "accuracy %".to_owned(),
            Self::AccuracyLoss => format!("accuracy lost,\npoints [{level}]"),
            Self::Discordant => "only base\n/ only\nvariant".to_owned(),
            Self::PValue => "p\n(Holm)".to_owned(),
            Self::Perplexity => "perplexity".to_owned(),
            Self::PerplexityLoss => format!("perplexity rise\n[{level}]"),
            Self::PerplexityRatio => format!("perplexity ratio\n[{level}]"),
            Self::KlMean => "KL mean,\nnats".to_owned(),
            Self::SameTop1 => "same\ntop token".to_owned(),
            Self::LargestChange => "largest change of\na passage, nats".to_owned(),
            Self::Exact => "exact".to_owned(),
        }
    }

    pub(super) fn cell(self, line: Line<'_>) -> String {
        let model = line.model;
        let loss = |cell: fn(&Loss) -> String| line.variant.map(|variant| cell(&variant.loss));
        let fidelity = line.variant.and_then(|variant| variant.fidelity.as_ref());
        let cell = match self {
            Self::Name => Some(model.title()),
            Self::Accuracy => Some(with(format::points(model.acc), " ± ", model.acc_stderr.map(format::points))),
            Self::AccuracyLoss => loss(|loss| {
                format!("{} {}", format::signed_points(loss.acc), format::points_interval(loss.acc_interval))
            }),
            Self::Discordant => loss(|loss| format!("{} / {}", loss.baseline_only, loss.variant_only)),
            Self::PValue => loss(|loss| format::p_value(loss.mcnemar_p_holm)),
            Self::Perplexity => {
                let stderr = model.perplexity_stderr.map(|stderr| format::perplexity_stderr(stderr, model.perplexity));
                Some(with(format::perplexity(model.perplexity), " ± ", stderr))
            }
            Self::PerplexityLoss => loss(|loss| {
                let interval = loss.perplexity_interval.map(format::perplexity_interval);
                with(format::signed_perplexity(loss.perplexity), " ", interval)
            }),
            Self::PerplexityRatio => loss(|loss| {
                let interval = loss.perplexity_ratio_interval.map(format::ratio_interval);
                with(format::ratio(loss.perplexity_ratio), " ", interval)
            }),
            Self::KlMean => fidelity.map(|fidelity| format::divergence(fidelity.kl_mean)),
            Self::SameTop1 => fidelity.map(|fidelity| format!("{} %", format::points(fidelity.same_top1_pct / 100.0))),
            Self::LargestChange => loss(|loss| format::scientific(loss.max_abs_delta_loglikelihood)),
            Self::Exact => {
                let word = |variant: &VariantRow| match (&variant.exact, &variant.candidate) {
                    (Some(exact), _) => Some(if exact.exact { "yes" } else { "no" }),
                    (None, Some(_)) => Some("unknown"),
                    (None, None) => None,
                };
                line.variant.and_then(word).map(str::to_owned)
            }
        };
        cell.unwrap_or_else(|| format::NOTHING.to_owned())
    }
}

fn with(value: String, separator: &str, further: Option<String>) -> String {
    match further {
        Some(further) => value + separator + &further,
        None => value,
    }
}
