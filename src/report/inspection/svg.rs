//! The heat map of the drift as a picture that needs no program to draw it and can be read aloud.

use kuva::render::color::Color;
use kuva::render::render::{Primitive, Scene, TextAnchor};

use super::Inspection;
use super::heat_map::{HeatMap, Shade};
use crate::merge::ParamDrift;
use crate::partition::StageId;
use crate::report::picture::{Ink, Picture, text};
use crate::report::{CheckpointInfo, format};

const CELL: usize = 16;
const MARGIN: usize = 16;
/// Space above the grid: title and the numbers of the layers.
const TOP: usize = 72;
const SUBTITLE: &str =
    "rms of the difference between ranks / rms of the value; columns are layers (E embedding, O output)";
/// Width of a letter, roughly.
const LETTER: usize = 7;

/// Draws how far the replicas of every parameter differ in every layer.
pub fn render_drift_svg(inspection: &Inspection) -> String {
    draw_drift(inspection.drift.as_deref().unwrap_or_default(), &inspection.checkpoint).svg()
}

pub(in crate::report) fn draw_drift(drift: &[ParamDrift], checkpoint: &CheckpointInfo) -> Picture {
    let map = HeatMap::new(drift);
    let ranks = format::count(checkpoint.tp_size, "rank");
    let title = format!("Drift of replicated parameters: {}, {ranks}, {}", checkpoint.name, checkpoint.dtype);
    let scene = scene(&map, &title);
    Picture::new("drift", title, description(&map), scene)
}

fn scene(map: &HeatMap<'_>, title: &str) -> Scene {
    let names = map.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) * LETTER;
    let left = MARGIN + names + 8;
    let legend_width: usize = Shade::ALL.iter().map(|shade| legend_step(*shade)).sum();
    let heading = (title.chars().count() * (LETTER + 1)).max(SUBTITLE.chars().count() * LETTER);
    let inner = (names + 8 + map.stages.len() * CELL).max(legend_width).max(heading);
    let (width, bottom) = (inner + 2 * MARGIN, TOP + map.rows.len() * CELL);
    let mut scene = Scene::new(pixels(width), pixels(bottom + 48)).with_background(Some(Ink::PAPER));
    scene.font_family = Some("system-ui, sans-serif".to_owned());
    scene.text_color = Some(Ink::TEXT.to_owned());
    let mut label = |x: usize, y: usize, content: &str, size: u32, anchor: TextAnchor| {
        scene.add(text(pixels(x), pixels(y), content, size, anchor));
    };
    label(MARGIN, 24, title, 15, TextAnchor::Start);
    label(MARGIN, 42, SUBTITLE, 12, TextAnchor::Start);
    for (column, stage) in map.stages.iter().enumerate() {
        let name = match stage {
            StageId::Layer(number) if map.stages.len() < 20 || number % 5 == 0 => number.to_string(),
            StageId::Layer(_) => continue,
            StageId::Embedding => "E".to_owned(),
            StageId::Output => "O".to_owned(),
        };
        label(left + column * CELL + CELL / 2, TOP - 6, &name, 10, TextAnchor::Middle);
    }
    for (index, row) in map.rows.iter().enumerate() {
        label(left - 8, TOP + index * CELL + 12, row.name, 12, TextAnchor::End);
    }
    let mut at = MARGIN;
    for shade in Shade::ALL {
        label(at + CELL + 4, bottom + 28, shade.meaning(), 12, TextAnchor::Start);
        at += legend_step(shade);
    }
    for (index, row) in map.rows.iter().enumerate() {
        for (column, entry) in row.cells.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let title = Some(cell_title(entry));
            scene.add(Primitive::GroupStart { transform: None, title, extra_attrs: None });
            scene.add(cell(left + column * CELL, TOP + index * CELL, Shade::of(entry)));
            scene.add(Primitive::GroupEnd);
        }
    }
    let mut at = MARGIN;
    for shade in Shade::ALL {
        scene.add(cell(at, bottom + 16, shade));
        at += legend_step(shade);
    }
    scene
}

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

fn cell(x: usize, y: usize, shade: Shade) -> Primitive {
    let size = pixels(CELL - 1);
    let fill = Color::from(shade.colour());
    Primitive::Rect {
        x: pixels(x),
        y: pixels(y),
        width: size,
        height: size,
        fill,
        stroke: None,
        stroke_width: None,
        opacity: None,
    }
}

fn legend_step(shade: Shade) -> usize {
    CELL + 16 + shade.meaning().len() * LETTER
}

#[expect(clippy::cast_precision_loss, reason = "places in a picture")]
fn pixels(value: usize) -> f64 {
    value as f64
}
