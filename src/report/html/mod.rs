//! The report as one self-contained page: nothing is fetched, it reads without JavaScript, in light and dark, on paper.
//! The markup is `templates/report.html`; here the report becomes what the template shows.

mod flips;

use askama::Template;

use super::contents::Report;
use super::error::ReportError;
use super::explanation::{FACTOR_HEADINGS, FactorRow, factor_rows};
use super::plots::Plots;
use super::report_files::ReportFiles;
use super::table::{ALONE, Column, lines};
use super::{format, markdown, why};
use flips::Flips;

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: String,
    subject: String,
    style: &'static str,
    script: &'static str,
    partial: Option<String>,
    lead: String,
    differences: Vec<String>,
    comparison: Option<Comparison>,
    cautions: Vec<String>,
    /// Names of variants, and why none of them is exact.
    inexact: Vec<(String, Vec<&'a str>)>,
    findings: Vec<String>,
    plots: Plots,
    flips: Option<Flips<'a>>,
    headings: [&'static str; 4],
    /// The loss of each strategy by group of parameters.
    factors: Vec<(String, Vec<FactorRow<'a>>)>,
    causes: &'a [String],
    provenance: Vec<(&'static str, String)>,
    digests: Vec<(&'a str, &'a str, String)>,
    commands: Vec<String>,
    tool: String,
}

struct Comparison {
    caption: String,
    header: Vec<String>,
    rows: Vec<Row>,
}

impl Row {
    /// The cells, what is in brackets apart.
    fn parts(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.cells.iter().map(|cell| match cell.split_once(" [") {
            Some((value, interval)) => (value, Some(interval.trim_end_matches(']'))),
            None => (cell.as_str(), None),
        })
    }
}

struct Row {
    name: String,
    description: String,
    /// How it compares, in a word or two; empty for the baseline.
    standing: &'static str,
    /// The same as the style sheet has it.
    class: String,
    cells: Vec<String>,
}

/// The report as HTML.
///
/// # Errors
/// [`ReportError::NothingToShow`] for neither a report nor an explanation, [`ReportError::Page`] where the template cannot
/// be filled.
pub fn render_html(files: &ReportFiles<'_>) -> Result<String, ReportError> {
    page(files, Plots::new(files.report, files.explanation, &files.samples))
}

/// The page with plots that have been drawn already.
pub(super) fn page(files: &ReportFiles<'_>, plots: Plots) -> Result<String, ReportError> {
    let (report, explanation) = (files.report, files.explanation);
    let (checkpoint, task, run) = match (report, explanation) {
        (Some(report), _) => (&report.checkpoint, &report.task, &report.run),
        (None, Some(explanation)) => (&explanation.checkpoint, &explanation.task, &explanation.run),
        (None, None) => return Err(ReportError::NothingToShow),
    };
    let (lead, differences) = match (report, explanation) {
        (Some(report), _) => report.verdict_parts(),
        (None, Some(explanation)) => (explanation.findings.first().cloned().unwrap_or_default(), Vec::new()),
        (None, None) => (String::new(), Vec::new()),
    };
    let verb = if report.is_some_and(|report| report.variants.is_empty()) { "Evaluating" } else { "Merging" };
    let mut commands: Vec<String> = report.iter().map(|report| markdown::command_line(&report.run.argv)).collect();
    commands.extend(explanation.iter().map(|found| markdown::command_line(&found.run.argv)));
    let digests = checkpoint.digests.as_deref().unwrap_or_default();
    let explained = explanation.iter().flat_map(|found| &found.strategies);
    let page = Page {
        title: format!("{verb} {}", checkpoint.name),
        subject: format!(
            "{} ({}); {}",
            task.name,
            format::count(task.passages.effective, "passage"),
            why::setting(checkpoint, run)
        ),
        style: include_str!("../templates/report.css"),
        script: include_str!("../templates/report.js"),
        partial: report.and_then(why::partial),
        lead,
        differences,
        comparison: report.map(comparison),
        cautions: report.map(why::cautions).unwrap_or_default(),
        inexact: report.map(why::inexact).unwrap_or_default(),
        findings: report.map(|report| report.findings.clone()).unwrap_or_default(),
        flips: flips::find(files),
        plots,
        headings: FACTOR_HEADINGS,
        factors: explained.map(|effect| (effect.title(), factor_rows(effect))).collect(),
        causes: explanation.map_or(&[], |found| &found.findings),
        provenance: markdown::provenance(checkpoint, task, run, report.map(markdown::statistics_line)),
        digests: digests
            .iter()
            .map(|digest| (digest.file.as_str(), digest.blake3.as_str(), format::grouped(digest.bytes)))
            .collect(),
        commands,
        tool: format!("kintsugi {}", run.versions.kintsugi),
    };
    page.render().map_err(|error| ReportError::Page { reason: error.to_string() })
}

/// Text as HTML, with `<code>` for what is between backticks.
fn rich(text: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let parts: Vec<&str> = text.split('`').collect();
    // An odd backtick is a backtick.
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let parts = parts.into_iter().enumerate().map(|(place, part)| {
        if place.is_multiple_of(2) { escape(part) } else { format!("<code>{}</code>", escape(part)) }
    });
    parts.collect()
}

fn comparison(report: &Report) -> Comparison {
    let is_compared = report.compared().next().is_some();
    let columns = if is_compared { &markdown::COLUMNS[..] } else { &ALONE[..] };
    // The rise of perplexity shows in its ratio.
    let columns: Vec<_> = columns.iter().filter(|column| !matches!(column, Column::PerplexityLoss)).collect();
    let header = columns.iter().map(|column| column.header(report).replace('\n', " ")).collect();
    let level = format::level(report.statistics.confidence);
    let rows = lines(report).into_iter().map(|line| {
        let model = line.model;
        let standing = match line.variant {
            None => "",
            Some(_) if report.noise_floor.as_ref().is_some_and(|floor| floor.model.name == model.name) => "noise",
            Some(row) => row.standing().word(),
        };
        Row {
            name: model.title(),
            description: model.description.clone(),
            standing,
            class: standing.replace(' ', "-"),
            cells: columns.iter().skip(1).map(|column| column.cell(line)).collect(),
        }
    });
    Comparison {
        caption: if is_compared {
            format!("Every model on the same passages: value ± standard error; differences with {level} intervals")
        } else {
            "Value ± standard error".to_owned()
        },
        header,
        rows: rows.collect(),
    }
}
