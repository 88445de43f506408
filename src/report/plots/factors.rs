//! Which group of parameters costs what: a bar for each group under each strategy.

use kuva::plot::BarPlot;
use kuva::prelude::{Layout, Plot};

use crate::report::explanation::NEGLIGIBLE_KL;
use crate::report::picture::{Ink, Picture, label};
use crate::report::{Explanation, format};

/// Shares of the loss; none where no strategy loses anything.
pub(super) fn draw(explanation: &Explanation) -> Option<Picture> {
    let lossy: Vec<_> = explanation
        .strategies
        .iter()
        .filter(|effect| effect.whole.kl_mean >= NEGLIGIBLE_KL && !effect.factors.is_empty())
        .collect();
    let factors: Vec<&str> = lossy.first()?.factors.iter().map(|factor| factor.factor.as_str()).collect();
    let (mut bars, mut lines) = (BarPlot::new(), Vec::new());
    for effect in &lossy {
        let values = effect.factors.iter().enumerate().map(|(index, factor)| {
            (factor.share_pct.clamp(0.0, 100.0), Ink::SERIES[index % Ink::SERIES.len()].to_owned())
        });
        bars = bars.with_group(label(&effect.title()), values.collect::<Vec<_>>());
        let shares =
            effect.factors.iter().map(|factor| format!("{} {} %", factor.factor, format::plain(factor.share_pct, 1)));
        lines.push(format!("{}: {}", effect.title(), shares.collect::<Vec<_>>().join(", ")));
    }
    let plots = vec![Plot::Bar(bars.with_legend(factors))];
    let layout = Layout::auto_from_plots(&plots)
        .with_y_label("share of the mean KL, %")
        .with_y_axis_min(0.0)
        .with_y_axis_max(100.0)
        .with_width(760.0)
        .with_height(360.0);
    let title = "Share of the loss due to each group of parameters".to_owned();
    Some(Picture::of_plots("factors", title, format!("{}.", lines.join("; ")), plots, layout))
}
