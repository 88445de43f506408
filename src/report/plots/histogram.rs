//! How the log-probability of the targets changes: one panel a variant, all on the same axis.

use std::collections::HashMap;

use kuva::plot::Histogram;
use kuva::prelude::{Layout, Plot, TickFormat};

use crate::report::output_dir::stem_of;
use crate::report::picture::{Ink, Picture, label};
use crate::report::{ModelRow, Report, format};
use crate::samples::Sample;
use crate::stats::quantile;

const BIN_COUNT: usize = 61;
/// Changes beyond this quantile of their size are counted in the outermost bins.
const SHOWN: f64 = 0.99;

/// A histogram for every variant that has samples.
pub(super) fn draw(report: &Report, samples: &HashMap<&str, &[Sample]>) -> Vec<Picture> {
    let Some(baseline) = samples.get(report.baseline.name.as_str()) else { return Vec::new() };
    let changes = report.variants.iter().filter_map(|row| {
        let variant = samples.get(row.model.name.as_str())?;
        let pairs = baseline.iter().zip(*variant);
        let changes: Vec<f64> = pairs.map(|(one, other)| other.loglikelihood - one.loglikelihood).collect();
        Some((&row.model, changes))
    });
    let changes: Vec<(&ModelRow, Vec<f64>)> = changes.collect();
    let sizes = changes.iter().filter_map(|(_, changes)| {
        let sizes: Vec<f64> = changes.iter().map(|change| change.abs()).collect();
        quantile(&sizes, SHOWN).ok()
    });
    let extent = round_up(sizes.fold(0.0, f64::max));
    changes.iter().map(|(model, changes)| panel(model, changes, extent)).collect()
}

/// The next of 1, 2 and 5 times a power of ten; 1 for nothing at all.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.map(|step| step * power).into_iter().find(|&step| step >= value).unwrap_or(value)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers of bins and heights of bars"
)]
fn panel(model: &ModelRow, changes: &[f64], extent: f64) -> Picture {
    let width = 2.0 * extent / BIN_COUNT as f64;
    let edges: Vec<f64> = (0..=BIN_COUNT).map(|bin| width * bin as f64 - extent).collect();
    let mut counts = vec![0.0; BIN_COUNT];
    for change in changes {
        let bin = ((change + extent) / width).floor().max(0.0) as usize;
        counts[bin.min(BIN_COUNT - 1)] += 1.0;
    }
    let tallest = counts.iter().copied().fold(1.0, f64::max);
    let plots = vec![Plot::Histogram(Histogram::from_bins(edges, counts).with_color(Ink::GOLD))];
    let layout = Layout::auto_from_plots(&plots)
        .with_x_axis_min(-extent)
        .with_x_axis_max(extent)
        .with_x_tick_step(extent / 2.0)
        .with_y_axis_min(0.0)
        .with_y_axis_max(tallest * 1.05)
        .with_y_tick_step(round_up(tallest / 4.0).max(1.0))
        .with_y_tick_format(TickFormat::Integer)
        .with_x_label("Δ log-probability of the target, nats")
        .with_y_label("passages")
        .with_width(400.0)
        .with_height(250.0);
    let worse = changes.iter().filter(|&&change| change < 0.0).count();
    let largest = changes.iter().fold(0.0_f64, |largest, change| largest.max(change.abs()));
    let names = model.title();
    let title = label(&names);
    let name = if title == names { String::new() } else { format!("{names}: ") };
    let description = format!(
        "{name}{worse} of {} became less probable; the largest change is {} nats.",
        format::count(changes.len(), "target"),
        format::scientific(largest)
    );
    Picture::of_plots(&format!("delta-logprob-{}", stem_of(model)), title, description, plots, layout)
}
