//! One picture: its drawing, and its title and description for screen readers.

use kuva::backend::png::PngBackend;
use kuva::backend::svg::SvgBackend;
use kuva::prelude::{Layout, Plot, Theme};
use kuva::render::color::Color;
use kuva::render::render::{Primitive, Scene, TextAnchor, render_multiple};

use super::error::ReportError;

/// Pixels of a PNG for each unit of its drawing.
const PNG_SCALE: f32 = 2.0;
/// Characters of a name that fit beside a plot.
const MOST_LABEL: usize = 32;

/// Colours. The page replaces ink, faint ink and paper where it is dark; the others are readable on both.
pub(super) struct Ink;

impl Ink {
    pub(super) const TEXT: &str = "#1f2328";
    pub(super) const FAINT: &str = "#d8dde3";
    pub(super) const PAPER: &str = "#ffffff";
    /// For the noise floor.
    pub(super) const NOISE: &str = "#7d8590";
    /// For results.
    pub(super) const GOLD: &str = "#b7791f";
    /// For limits.
    pub(super) const LIMIT: &str = "#d1495b";
    pub(super) const SERIES: [&str; 8] =
        ["#d1495b", "#d97706", "#9a6dd7", "#3b82c4", "#2e9d6a", "#1d98a8", "#cf5d9c", "#8a7a3b"];
}

pub(super) struct Picture {
    /// File name without its ending.
    pub file: String,
    pub title: String,
    /// Its contents in words.
    pub description: String,
    scene: Scene,
}

impl Picture {
    pub(super) fn new(file: &str, title: String, description: String, mut scene: Scene) -> Self {
        // Titles of cells are wanted, kuva's style sheet for them is not: it would apply to the whole page.
        scene.has_tooltips = false;
        Self { file: file.to_owned(), title, description, scene }
    }

    pub(super) fn of_plots(file: &str, title: String, description: String, plots: Vec<Plot>, layout: Layout) -> Self {
        let theme = Theme {
            background: Ink::PAPER.to_owned(),
            axis_color: Ink::TEXT.to_owned(),
            grid_color: Ink::FAINT.to_owned(),
            tick_color: Ink::TEXT.to_owned(),
            text_color: Ink::TEXT.to_owned(),
            legend_bg: Ink::PAPER.to_owned(),
            legend_border: Ink::FAINT.to_owned(),
            ..Theme::light()
        };
        let layout = layout
            .with_theme(theme)
            .with_font_family("system-ui, sans-serif")
            .with_title(title.clone())
            .with_title_size(15)
            .with_label_size(13)
            .with_tick_size(12)
            .with_body_size(12);
        Self::new(file, title, description, render_multiple(plots, layout))
    }

    /// The picture as SVG that scales and can be read aloud; a file of its own, or part of a page.
    pub(super) fn svg(&self) -> String {
        let drawn = SvgBackend::new().render_scene(&self.scene);
        let Some((_, rest)) = drawn.split_once(" width=") else { return drawn };
        let Some((attributes, content)) = rest.split_once('>') else { return drawn };
        let (file, width, height) = (&self.file, self.scene.width, self.scene.height);
        let (title, description) = (escape(&self.title), escape(&self.description));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             aria-labelledby=\"{file}-title {file}-desc\" width={attributes}>\n<title id=\"{file}-title\">{title}</title>\n\
             <desc id=\"{file}-desc\">{description}</desc>\n{content}\n"
        )
    }

    pub(super) fn png(&self) -> Result<Vec<u8>, ReportError> {
        let drawn = PngBackend::new().with_scale(PNG_SCALE).render_scene(&self.scene);
        drawn.map_err(|reason| ReportError::Png { file: self.file.clone(), reason })
    }
}

/// A name as plots write it: whole, or its beginning and end where that would leave no room for the plot.
pub(super) fn label(name: &str) -> String {
    let count = name.chars().count();
    if count <= MOST_LABEL {
        return name.to_owned();
    }
    let kept = MOST_LABEL / 2 - 1;
    let (start, end) = (name.chars().take(kept), name.chars().skip(count - kept));
    start.chain(std::iter::once('…')).chain(end).collect()
}

pub(super) fn text(x: f64, y: f64, content: &str, size: u32, anchor: TextAnchor) -> Primitive {
    let color = Some(Color::from(Ink::TEXT));
    Primitive::Text { x, y, content: content.to_owned(), size, anchor, rotate: None, bold: false, color }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
