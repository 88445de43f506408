//! What a number of passages can show, before or after a run.

use super::GateError;
use crate::limits::Criterion;
use crate::limits::LimitsError;
use crate::limits::{Comparisons, Reference};
use crate::limits::{Gates, Limits};
use crate::limits::{Rounding, limit, loss};
use crate::report::{Entry, TerminalStyle, render_table};
use crate::stats::{Measured, POWER, Threshold, assumed_mean, passages_to_prove, smallest_detectable};
use crate::words::grouped;

/// What the plan is made of where there is no report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Assumed {
    pub passages: u32,
    /// Share of the passages that only one of two models answers.
    pub discordant: Option<f64>,
    /// Standard deviation over passages of the difference of log-likelihoods, in nats.
    pub spread: Option<f64>,
}

/// A limit, and what it takes.
pub(crate) struct Row {
    task: String,
    model: String,
    criterion: Criterion,
    limit: f64,
    passages: f64,
    /// The smallest loss that would be found beyond the limit.
    detectable: Option<f64>,
    /// How many passages prove the limit.
    needed: Option<u64>,
}

/// The plan for every limit of every comparison with a baseline.
pub(crate) fn plan(compared: &Comparisons, significance: f64) -> Result<Vec<Row>, GateError> {
    let mut rows = Vec::new();
    for comparison in compared.comparisons.iter().filter(|one| one.reference == Reference::Baseline) {
        for criterion in Criterion::ALL {
            let Some(bound) = comparison.limits.bound(criterion) else { continue };
            let measured = comparison.outcomes.measured(criterion);
            let measured = measured.map_err(|source| LimitsError::Stats { name: comparison.model.clone(), source })?;
            if let Some(seen) = measured {
                rows.push(row(
                    (&comparison.task, &comparison.model),
                    criterion,
                    Threshold { limit: bound.limit, noise: comparison.noise.of(criterion) },
                    seen,
                    significance,
                ));
            }
        }
    }
    Ok(rows)
}

/// The plan for models of which only rates are assumed.
pub(crate) fn plan_assumed(assumed: Assumed, gates: &Gates) -> Vec<Row> {
    let limits: Limits = gates.default;
    let count = f64::from(assumed.passages);
    let accuracy = assumed.discordant.map(|share| {
        let one_way = share * count / 2.0;
        (Criterion::AccuracyLoss, Measured::Paired { lost: one_way, gained: one_way, count })
    });
    let perplexity = assumed.spread.map(|spread| (Criterion::PerplexityIncrease, assumed_mean(count, spread)));
    let rows = perplexity.into_iter().chain(accuracy).filter_map(|(criterion, seen)| {
        let bound = limits.bound(criterion)?;
        Some(row(("", "assumed"), criterion, bound.limit.into(), seen, gates.significance))
    });
    rows.collect()
}

fn row(
    (task, model): (&str, &str),
    criterion: Criterion,
    threshold: Threshold,
    seen: Measured,
    significance: f64,
) -> Row {
    // Accuracy and perplexity go both ways around no loss; a distance is at best as small as it was.
    let hoped = match criterion {
        Criterion::AccuracyLoss | Criterion::PerplexityIncrease => seen.without_loss(),
        Criterion::KlDivergence | Criterion::TopTokenChange => seen,
    };
    Row {
        task: task.to_owned(),
        model: model.to_owned(),
        criterion,
        limit: threshold.limit,
        passages: seen.count(),
        detectable: smallest_detectable(seen, threshold, significance),
        needed: passages_to_prove(hoped, threshold.limit, significance),
    }
}

/// A table of the plan.
pub(crate) fn render_plan(rows: &[Row], significance: f64, style: TerminalStyle) -> String {
    let with_task = rows.iter().any(|row| row.task != rows[0].task);
    let columns = ["model", "limit on", "limit", "passages", "loss found beyond it", "passages to prove it"];
    let header = with_task.then_some("task").into_iter().chain(columns).map(str::to_owned).collect();
    let cells = rows.iter().map(|row| with_task.then(|| row.task.clone()).into_iter().chain(row.cells()).collect());
    let entries: Vec<Entry> = rows
        .iter()
        .map(|row| Entry {
            name: format!("{} {}", row.task, row.model).trim().to_owned(),
            sentences: vec![row.sentence()],
        })
        .collect();
    let notes = [format!(
        "A loss of this size is found beyond the limit, and a model that loses nothing (a KL divergence and top tokens as seen) is \
         proven within it, with a probability of {:.0} % at a significance of {significance}.",
        100.0 * POWER
    )];
    let closing = format!("{} limits planned", rows.len());
    render_table(header, cells.collect(), &entries, &notes, &closing, style)
}

impl Row {
    fn cells(&self) -> [String; 6] {
        [
            self.model.clone(),
            self.criterion.name().to_owned(),
            limit(self.criterion, self.limit),
            format!("{:.0}", self.passages),
            self.detectable.map_or_else(|| "none".to_owned(), |found| loss(self.criterion, found, Rounding::Up)),
            self.needed.map_or_else(|| "no number".to_owned(), grouped),
        ]
    }

    fn sentence(&self) -> String {
        let [_, criterion, limit, passages, detectable, needed] = self.cells();
        format!("{criterion}, limit {limit}: {passages} passages find {detectable}; {needed} prove it")
    }
}
