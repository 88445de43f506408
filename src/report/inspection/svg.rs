//! The heat map of the drift as a picture that needs no program to draw it and can be read aloud.

use std::fmt::Write;

use super::Inspection;
use super::heat_map::{HeatMap, Shade, shade};
use crate::merge::ParamDrift;
use crate::partition::StageId;
use crate::report::format;

const CELL: usize = 16;
const MARGIN: usize = 16;
/// Space above the grid: title and the numbers of the layers.
const TOP: usize = 72;
/// Width of a letter, roughly.
const LETTER: usize = 7;

/// Draws how far the replicas of every parameter differ in every layer.
#[must_use]
pub fn render_drift_svg(inspection: &Inspection) -> String {
    let map = HeatMap::new(inspection);
    let names = map.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) * LETTER;
    let left = MARGIN + names + 8;
    let legend_width: usize = Shade::ALL.iter().map(|shade| legend_step(*shade)).sum();
    let title = format!("Drift of replicated parameters: {}", subject(inspection));
    let inner = (names + 8 + map.stages.len() * CELL).max(legend_width).max(title.chars().count() * (LETTER + 1));
    let (width, bottom) = (inner + 2 * MARGIN, TOP + map.rows.len() * CELL);
    let height = bottom + 48;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"drift-title drift-desc\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222222\">\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!("<title id=\"drift-title\">{}</title>", escape(&title)));
    line(format!("<desc id=\"drift-desc\">{}</desc>", escape(&description(&map))));
    line(format!("<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>"));
    line(text(MARGIN, 24, "font-size=\"14\" font-weight=\"bold\"", &title));
    line(text(
        MARGIN,
        42,
        "",
        "rms of the difference between ranks / rms of the value; columns are layers (E embedding, O output)",
    ));
    for (column, stage) in map.stages.iter().enumerate() {
        let label = match stage {
            StageId::Layer(number) if map.stages.len() < 20 || number % 5 == 0 => number.to_string(),
            StageId::Layer(_) => continue,
            StageId::Embedding => "E".to_owned(),
            StageId::Output => "O".to_owned(),
        };
        line(text(left + column * CELL + CELL / 2, TOP - 6, "text-anchor=\"middle\" font-size=\"10\"", &label));
    }
    for (index, row) in map.rows.iter().enumerate() {
        let y = TOP + index * CELL;
        line(text(left - 8, y + 12, "text-anchor=\"end\"", row.name));
        for (column, entry) in row.cells.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let x = left + column * CELL;
            line(format!("{}<title>{}</title></rect>", open_cell(x, y, shade(entry)), escape(&cell_title(entry))));
        }
    }
    let mut x = MARGIN;
    for shade in Shade::ALL {
        line(format!("{}</rect>", open_cell(x, bottom + 16, shade)));
        line(text(x + CELL + 4, bottom + 28, "", shade.meaning()));
        x += legend_step(shade);
    }
    svg.push_str("</svg>\n");
    svg
}

fn subject(inspection: &Inspection) -> String {
    let checkpoint = &inspection.checkpoint;
    let ranks = format::count(checkpoint.tp_size, "rank");
    format!("{}, {ranks}, {}", checkpoint.name, checkpoint.dtype)
}

/// The picture in words.
fn description(map: &HeatMap<'_>) -> String {
    if !map.has_drift() {
        return "All replicas are bit-identical.".to_owned();
    }
    let worst = map.rows.iter().filter_map(|row| {
        let entries = row.cells.iter().flatten();
        let worst = entries.max_by(|one, other| one.drift.relative.total_cmp(&other.drift.relative))?;
        Some(format!("{}: at most {} in {}.", row.name, format::percent(worst.drift.relative), worst.stage))
    });
    worst.collect::<Vec<_>>().join(" ")
}

fn cell_title(entry: &ParamDrift) -> String {
    let drift = &entry.drift;
    let what = match drift.most_different_ranks {
        None => "identical on all ranks".to_owned(),
        Some([one, other]) => format!(
            "{} relative, at most {} (ranks {one} and {other}), {} ulps",
            format::percent(drift.relative),
            format::scientific(drift.max_abs),
            drift.max_ulps
        ),
    };
    let unused = if entry.used { "" } else { "; not used by the model" };
    format!("{}, {}: {what}{unused}", entry.stage, entry.name)
}

fn open_cell(x: usize, y: usize, shade: Shade) -> String {
    let size = CELL - 1;
    format!("<rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" fill=\"{}\">", shade.colour())
}

fn legend_step(shade: Shade) -> usize {
    CELL + 16 + shade.meaning().len() * LETTER
}

fn text(x: usize, y: usize, attributes: &str, content: &str) -> String {
    let mut element = format!("<text x=\"{x}\" y=\"{y}\"");
    if !attributes.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(element, " {attributes}");
    }
    format!("{element}>{}</text>", escape(content))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
