//! Forest plots: what each merge loses, with its interval, beside the noise floor.

use kuva::plot::ForestPlot;
use kuva::plot::annotations::{ReferenceLine, ShadedRegion};
use kuva::prelude::{Layout, Plot};

use crate::limits::Criterion;
use crate::report::picture::{Ink, Picture, label};
use crate::report::{Report, VariantRow, format};
use crate::stats::Interval;

/// Accuracy loss and log-perplexity ratio; none where nothing is compared.
pub(super) fn draw(report: &Report) -> Vec<Picture> {
    if report.compared().next().is_none() {
        return Vec::new();
    }
    let level = format::level(report.statistics.confidence);
    let accuracy = forest(
        report,
        "accuracy-loss",
        format!("Accuracy lost against the baseline, with {level} interval"),
        "points of accuracy (right of zero: the merge is worse)",
        (Criterion::AccuracyLoss, 100.0),
        |row| (100.0 * row.loss.acc, scaled(row.loss.acc_interval, 100.0)),
    );
    let perplexity = forest(
        report,
        "perplexity-ratio",
        format!("Log-perplexity ratio to the baseline, with {level} interval"),
        "ln(perplexity / perplexity of the baseline)",
        (Criterion::PerplexityIncrease, 1.0),
        |row| {
            let value = -row.loss.delta_loglikelihood;
            let interval = row.loss.delta_loglikelihood_interval;
            // A gain of likelihood is a fall of log-perplexity.
            let interval = interval.map(|ends| Interval { lower: -ends.upper, upper: -ends.lower });
            (value, interval.unwrap_or(Interval { lower: value, upper: value }))
        },
    );
    vec![accuracy, perplexity]
}

fn forest(
    report: &Report,
    file: &str,
    title: String,
    axis: &str,
    (criterion, unit): (Criterion, f64),
    estimate: impl Fn(&VariantRow) -> (f64, Interval),
) -> Picture {
    let mut plot = ForestPlot::new().with_null_value(0.0).with_marker_size(5.0).with_whisker_width(2.0);
    let (mut lines, mut extent) = (Vec::new(), (0.0_f64, 0.0_f64));
    for row in report.compared() {
        let (value, interval) = estimate(row);
        let is_noise = report.noise_floor.as_ref().is_some_and(|floor| floor.model.name == row.model.name);
        let colour = if is_noise { Ink::NOISE } else { Ink::GOLD };
        plot = plot.with_colored_row(label(&row.model.title()), value, interval.lower, interval.upper, colour);
        extent = (extent.0.min(interval.lower), extent.1.max(interval.upper));
        lines.push(format!(
            "{}: {} [{}, {}]",
            row.model.title(),
            short(value),
            short(interval.lower),
            short(interval.upper)
        ));
    }
    let mut limits: Vec<f64> = report
        .variants
        .iter()
        .flat_map(|row| &row.verdicts)
        .filter(|limit| limit.criterion == criterion)
        .map(|limit| unit * limit.limit)
        .collect();
    limits.sort_by(f64::total_cmp);
    limits.dedup();
    for &limit in &limits {
        extent = (extent.0.min(limit), extent.1.max(limit));
    }
    let count = lines.len();
    let plots = vec![Plot::Forest(plot)];
    // A little air, so that caps do not lie on the frame; something to see where all is zero.
    let margin = (0.06 * (extent.1 - extent.0)).max(1e-6);
    #[expect(clippy::cast_precision_loss, reason = "a height in pixels")]
    let height = 120.0 + 30.0 * count as f64;
    let mut layout = Layout::auto_from_plots(&plots)
        .with_x_label(axis)
        .with_width(640.0)
        .with_height(height)
        .with_x_axis_min(extent.0 - margin)
        .with_x_axis_max(extent.1 + margin);
    if let Some(floor) = &report.noise_floor {
        let Interval { lower, upper } = estimate(floor).1;
        layout =
            layout.with_shaded_region(ShadedRegion::vertical(lower, upper).with_color(Ink::NOISE).with_opacity(0.15));
    }
    for &limit in &limits {
        layout = layout.with_reference_line(ReferenceLine::vertical(limit).with_color(Ink::LIMIT).with_label("limit"));
    }
    let named: Vec<_> = limits.iter().map(|&limit| format!("limit at {}", short(limit))).collect();
    let description = format!("{}.", lines.into_iter().chain(named).collect::<Vec<_>>().join("; "));
    Picture::of_plots(file, title, description, plots, layout)
}

fn scaled(interval: Interval, factor: f64) -> Interval {
    Interval { lower: factor * interval.lower, upper: factor * interval.upper }
}

fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size < 0.001 {
        format::scientific(value)
    } else {
        format::plain(value, 3)
    }
}
