//! How far each residual stream strays from the baseline's, layer by layer.

use std::sync::Arc;

use kuva::plot::{LinePlot, LineStyle};
use kuva::prelude::{Layout, Plot, TickFormat};

use crate::report::picture::{Ink, Picture, label};
use crate::report::{DivergenceCurve, format};
use crate::words::minus;

/// A curve for every variant that strays at all; variants that stray alike share one.
pub(super) fn draw(curves: &[DivergenceCurve]) -> Option<Picture> {
    let mut groups: Vec<(Vec<&str>, &[f64])> = Vec::new();
    for curve in curves.iter().filter(|curve| curve.relative.iter().any(|&value| value > 0.0)) {
        match groups.iter_mut().find(|(_, relative)| alike(relative, &curve.relative)) {
            Some((names, _)) => names.push(&curve.strategy),
            None => groups.push((vec![&curve.strategy], &curve.relative)),
        }
    }
    let layer_count = groups.iter().map(|(_, relative)| relative.len()).max()?;
    let styles = [LineStyle::Solid, LineStyle::Dashed, LineStyle::DashDot, LineStyle::Dotted];
    let mut plots = Vec::new();
    let mut lines = Vec::new();
    for (index, (names, relative)) in groups.iter().enumerate() {
        // A logarithm has no place for zero: a stream that has not strayed yet begins where it does.
        #[expect(clippy::cast_precision_loss, reason = "the number of a layer")]
        let points = relative.iter().enumerate().map(|(place, &value)| (place as f64, value));
        let points: Vec<_> = points.filter(|&(_, value)| value > 0.0).collect();
        let name = format::list(names);
        if let Some(&(_, last)) = points.last() {
            lines.push(format!("{name}: {} after the last layer", format::scientific(last)));
        }
        plots.push(Plot::Line(
            LinePlot::new()
                .with_data(points)
                .with_color(Ink::SERIES[index % Ink::SERIES.len()])
                .with_stroke_width(2.0)
                .with_line_style(styles[index % styles.len()].clone())
                .with_legend(legend(names)),
        ));
    }
    #[expect(clippy::cast_precision_loss, reason = "the number of a layer")]
    let last = (layer_count - 1) as f64;
    let layout = Layout::auto_from_plots(&plots)
        .with_log_y()
        .with_x_tick_format(TickFormat::Integer)
        .with_y_tick_format(TickFormat::Custom(Arc::new(|value| minus(&format!("{value:e}")))))
        .with_x_tick_step(tick_step(layer_count))
        .with_x_axis_min(0.0)
        .with_x_axis_max(last.max(1.0))
        .with_x_label("layers passed (0: the embedding)")
        .with_y_label("relative distance")
        .with_width(760.0)
        .with_height(380.0);
    let title = "Distance of the residual stream from the baseline's".to_owned();
    Some(Picture::of_plots("divergence", title, format!("{}.", lines.join("; ")), plots, layout))
}

/// The names as far as there is room beside the curves.
fn legend(names: &[&str]) -> String {
    let all = format::list(names);
    match names {
        [first, others @ ..] if !others.is_empty() && label(&all) != all => {
            format!("{} and {} more", label(first), others.len())
        }
        _ => label(&all),
    }
}

/// Layers from one tick to the next: about ten ticks, all on whole layers.
fn tick_step(layer_count: usize) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
    #[expect(clippy::cast_precision_loss, reason = "a number of layers")]
    let fitting = steps.into_iter().find(|step| layer_count as f64 / step <= 12.0);
    fitting.unwrap_or(100.0)
}

/// Whether two curves would be drawn over each other.
fn alike(one: &[f64], other: &[f64]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| (one - other).abs() <= 1e-3 * one.abs())
}
