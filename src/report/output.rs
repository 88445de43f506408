//! Writes the output directory: `report.json`, `report.html` with `plots/`, `report.md`, `samples/NAME.jsonl`,
//! `passages.jsonl`, `lm-eval/`.

use super::build::ReportInput;
use super::contents::Report;
use super::error::ReportError;
use super::explanation::Explanation;
use super::output_dir::{EXPLANATION, LM_EVAL, OutputDir, PASSAGES, PLOTS, write_atomically};
use super::plots::Plots;
use super::report_files::{ReportFiles, Results, explanation_beside};
use super::{html, json, lm_eval, markdown};
use crate::samples::{PassageText, write_jsonl};

/// Writes samples and passages first, then plots, page and Markdown, then `report.json`: where that file is, all others
/// are. An explanation of the same checkpoint and data in the directory becomes part of the page.
///
/// # Errors
/// A row without samples in `input`, a number that is not finite, or whatever keeps a file from being written.
pub fn write_all(
    report: &Report,
    input: &ReportInput,
    passages: &[PassageText],
    output: &OutputDir,
) -> Result<(), ReportError> {
    let explanation = explanation_beside(report, output);
    let files = ReportFiles { explanation: explanation.as_ref(), ..ReportFiles::new(report, input, passages) };
    for row in report.models() {
        write_jsonl(&output.path().join(&row.samples), files.samples_of(row)?)?;
    }
    write_jsonl(&output.path().join(PASSAGES), passages)?;
    write_page(&files, output)?;
    lm_eval::write_lm_eval(&files, &output.path().join(LM_EVAL))?;
    write_atomically(&output.report_markdown(), markdown::render_markdown(report).as_bytes())?;
    json::write_json(&output.report_json(), report)
}

/// Writes `explanation.json`, and the page: with the comparison in it where the directory has one of the same checkpoint and
/// data.
///
/// # Errors
/// A `report.json` or samples in the directory that cannot be read, or whatever keeps a file from being written.
pub fn write_explanation(explanation: &Explanation, output: &OutputDir) -> Result<(), ReportError> {
    write_atomically(&output.path().join(EXPLANATION), json::pretty(explanation)?.as_bytes())?;
    let results = Results::read(output.path())?;
    if results.explanation.is_some() {
        return write_page(&results.files(), output);
    }
    tracing::warn!(
        "report.json in {} belongs to a different run: report.html shows the explanation alone",
        output.path().display()
    );
    write_page(&ReportFiles { explanation: Some(explanation), ..ReportFiles::default() }, output)
}

/// Writes `report.html`, and every plot in it as SVG and PNG.
fn write_page(files: &ReportFiles<'_>, output: &OutputDir) -> Result<(), ReportError> {
    let plots = Plots::new(files.report, files.explanation, &files.samples);
    let folder = output.path().join(PLOTS);
    for picture in plots.iter() {
        write_atomically(&folder.join(format!("{}.svg", picture.file)), picture.svg().as_bytes())?;
        write_atomically(&folder.join(format!("{}.png", picture.file)), &picture.png()?)?;
    }
    write_atomically(&output.report_html(), html::page(files, plots)?.as_bytes())
}
