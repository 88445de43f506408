//! The report on a terminal: plain text, complete without colour.

use comfy_table::Table;

use super::contents::Report;
use super::page::{Page, TerminalStyle, fits, plain_table};
use super::table::{ALONE, Column, lines};
use super::why;

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
/// Distances that show a change long before an answer flips.
const FIDELITY: [Column; 4] = [Column::Name, Column::KlMean, Column::SameTop1, Column::LargestChange];

/// The report as text with a final line break.
pub fn render_terminal(report: &Report, style: TerminalStyle) -> String {
    let mut page = Page::new(style);
    page.title(&why::question(report), &why::subject(&report.checkpoint, &report.run));
    if let Some(partial) = why::partial(report) {
        page.heading(&partial);
    }
    for columns in layout(report, style.width) {
        page.blank();
        page.table(table(report, &columns));
    }
    for caution in why::cautions(report) {
        page.blank();
        page.paragraph(&caution, 0);
    }
    page.groups("why not exact", why::inexact(report));
    page.section("findings", &report.findings);
    let (lead, clauses) = report.verdict_parts();
    page.section("what was proven", &clauses);
    page.blank();
    page.heading(&lead);
    page.text
}

/// The tables to draw: as few as the width allows.
fn layout(report: &Report, width: usize) -> Vec<Vec<Column>> {
    let fits = |columns: &[Column]| fits(&table(report, columns), width);
    if report.compared().next().is_none() {
        return vec![ALONE.to_vec()];
    }
    let mut tables = if fits(&WIDE) { vec![&WIDE[..]] } else { NARROW.to_vec() };
    if report.compared().any(|row| row.fidelity.is_some()) {
        tables.push(&FIDELITY);
    }
    tables.into_iter().flat_map(|columns| pieces(columns, fits)).collect()
}

/// A table cut between columns into tables that fit, the names before each.
fn pieces(columns: &[Column], fits: impl Fn(&[Column]) -> bool) -> Vec<Vec<Column>> {
    let Some((&name, others)) = columns.split_first() else { return Vec::new() };
    let mut pieces: Vec<Vec<Column>> = Vec::new();
    for &column in others {
        let wider = pieces.last().map(|piece| [piece.as_slice(), &[column]].concat());
        match wider.filter(|piece| fits(piece)) {
            Some(piece) => {
                pieces.pop();
                pieces.push(piece);
            }
            None => pieces.push(vec![name, column]),
        }
    }
    pieces
}

/// The table without any limit to its width.
fn table(report: &Report, columns: &[Column]) -> Table {
    let header = columns.iter().map(|column| column.header(report));
    let rows = lines(report).into_iter().map(|line| columns.iter().map(move |column| column.cell(line)).collect());
    plain_table(header.collect(), rows)
}
