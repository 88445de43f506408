//! The report on a terminal: plain text that says everything without colour.

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};

use super::table::{Column, lines};
use super::{Report, format, why};

/// One table, where it fits.
const WIDE: [Column; 8] = [
    Column::Name,
    Column::Accuracy,
    Column::AccuracyLoss,
    Column::Discordant,
    Column::PValue,
    Column::Perplexity,
    Column::PerplexityLoss,
    Column::Exact,
];
/// Two tables, where one does not fit.
const NARROW: [&[Column]; 2] = [
    &[Column::Name, Column::Accuracy, Column::AccuracyLoss, Column::Discordant, Column::PValue, Column::Exact],
    &[Column::Name, Column::Perplexity, Column::PerplexityLoss, Column::PerplexityRatio],
];
/// One model alone loses nothing.
const ALONE: [Column; 3] = [Column::Name, Column::Accuracy, Column::Perplexity];
/// A name may be broken down to this width before the table is.
const NAME_WIDTH: usize = 16;
/// Space between columns.
const GAP: u16 = 2;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalStyle {
    /// Width of the terminal in columns.
    pub width: usize,
    /// Whether headings are bold; whoever asks has looked at `NO_COLOR` and at whether this is a terminal.
    pub styled: bool,
}

/// The report as text with a final line break.
#[must_use]
pub fn render_terminal(report: &Report, style: TerminalStyle) -> String {
    let mut page = Page { style, text: String::new() };
    page.title(&why::question(report), &why::subject(report));
    if let Some(partial) = why::partial(report) {
        page.heading(&partial);
    }
    for columns in layout(report, style.width) {
        page.blank();
        page.table(report, columns);
    }
    for caution in why::cautions(report) {
        page.blank();
        page.paragraph(&caution, 0);
    }
    let inexact = why::inexact(report);
    if !inexact.is_empty() {
        page.blank();
        page.heading("why not exact");
        for (names, because) in inexact {
            page.paragraph(&format::list(&names), 2);
            for line in because {
                page.paragraph(line, 4);
            }
        }
    }
    if !report.findings.is_empty() {
        page.blank();
        page.heading("findings");
        for finding in &report.findings {
            page.paragraph(finding, 2);
        }
    }
    page.blank();
    page.heading(&report.verdict());
    page.text
}

/// The tables to draw.
fn layout(report: &Report, width: usize) -> Vec<&'static [Column]> {
    if report.compared().next().is_none() {
        return vec![&ALONE];
    }
    let widths = column_widths(&table(report, &WIDE));
    let (name, others) = widths.split_first().map_or((0, 0), |(name, others)| (*name, others.iter().sum::<usize>()));
    if name.min(NAME_WIDTH) + others <= width { vec![&WIDE] } else { NARROW.to_vec() }
}

/// The table without any limit to its width.
fn table(report: &Report, columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| Cell::new(column.header(report))));
    for line in lines(report) {
        table.add_row(columns.iter().map(|column| Cell::new(column.cell(line))));
    }
    let last = columns.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
    }
    table
}

/// Natural width of every column, its gap included.
fn column_widths(table: &Table) -> Vec<usize> {
    let contents = table.column_max_content_widths();
    table.column_iter().zip(contents).map(|(column, content)| usize::from(content + column.padding_width())).collect()
}

struct Page {
    style: TerminalStyle,
    text: String,
}

impl Page {
    fn line(&mut self, line: &str, bold: bool) {
        if bold && self.style.styled {
            self.text.push_str("\u{1b}[1m");
            self.text.push_str(line);
            self.text.push_str("\u{1b}[0m");
        } else {
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Both ends of one line, or two lines where it is too short.
    fn title(&mut self, left: &str, right: &str) {
        let used = left.chars().count() + right.chars().count();
        match self.style.width.checked_sub(used) {
            Some(space) if space >= usize::from(GAP) => self.line(&format!("{left}{}{right}", " ".repeat(space)), true),
            _ => {
                self.heading(left);
                self.heading(right);
            }
        }
    }

    fn heading(&mut self, text: &str) {
        for line in wrap(text, self.style.width, 0) {
            self.line(&line, true);
        }
    }

    fn paragraph(&mut self, text: &str, indent: usize) {
        for line in wrap(text, self.style.width, indent) {
            self.line(&line, false);
        }
    }

    /// A table in which the names give way first: numbers are not broken while that suffices.
    fn table(&mut self, report: &Report, columns: &[Column]) {
        let mut table = table(report, columns);
        let widths = column_widths(&table);
        if let Some((name, others)) = widths.split_first()
            && name + others.iter().sum::<usize>() > self.style.width
        {
            let room = self.style.width.saturating_sub(others.iter().sum()).max(NAME_WIDTH.min(*name));
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(self.style.width).unwrap_or(u16::MAX));
            if let (Some(column), Ok(room)) = (table.column_mut(0), u16::try_from(room)) {
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(room)));
            }
        }
        let text = table.trim_fmt();
        let mut in_header = true;
        for line in text.lines() {
            in_header &= !line.starts_with('─');
            self.line(line, in_header);
        }
    }
}

/// Lines of at most `width` characters, `indent` spaces before each; where they are indented, two more before
/// all but the first. A word that
/// is longer than that stays whole: it may be a path to be copied.
fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let hanging_indent = if indent == 0 { 0 } else { indent + 2 };
    let mut lines = Vec::new();
    let mut line = " ".repeat(indent);
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(hanging_indent)));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}
