//! The output directory: `report.json`, `report.html` with `plots/`, `report.md`, `samples/NAME.jsonl`, `documents.jsonl`,
//! `lm-eval/`. It is tried out before anything is evaluated, and every file is there whole or not at all.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::material::{self, Material, Results};
use super::plots::Plots;
use super::{Explanation, ModelRow, Outcome, Report, ReportError, html, json, lm_eval, markdown};
use crate::files;
use crate::samples::{DocumentText, write_jsonl};

/// Folder of the sample files inside the output directory.
const SAMPLES: &str = "samples";
/// Folder of the plots.
const PLOTS: &str = "plots";
/// Folder of what lm-evaluation-harness's tools read.
const LM_EVAL: &str = "lm-eval";
/// The report that programs read.
pub(super) const REPORT: &str = "report.json";
/// What costs what.
pub(super) const EXPLANATION: &str = "explanation.json";
/// The texts of the passages.
pub(super) const DOCUMENTS: &str = "documents.jsonl";

/// A directory that results can be written to, as [`prepare_output`] found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDir {
    root: PathBuf,
}

impl OutputDir {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Where the report goes.
    #[must_use]
    pub fn report_json(&self) -> PathBuf {
        self.root.join(REPORT)
    }

    /// Where its Markdown goes.
    #[must_use]
    pub fn report_markdown(&self) -> PathBuf {
        self.root.join("report.md")
    }

    /// Where its page goes.
    #[must_use]
    pub fn report_html(&self) -> PathBuf {
        self.root.join("report.html")
    }
}

/// Makes the directory and writes a file into each of its folders that is gone again: a run that cannot keep its
/// results must fail before it computes them.
///
/// # Errors
/// [`ReportError::NotWritable`] names the directory and what the file system says.
pub fn prepare_output(dir: &Path) -> Result<OutputDir, ReportError> {
    for folder in [dir.to_owned(), dir.join(SAMPLES), dir.join(PLOTS), dir.join(LM_EVAL)] {
        let not_writable = |source| ReportError::NotWritable { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(not_writable)?;
        let mut probe = files::temporary_sibling(&folder.join("report")).map_err(not_writable)?;
        probe.write_all(b"kintsugi\n").map_err(not_writable)?;
    }
    Ok(OutputDir { root: dir.to_owned() })
}

/// Writes samples and passages first, then plots, page and Markdown, then `report.json`: where that file is, all others
/// are. An explanation of the same checkpoint and data that the directory holds becomes part of the page.
///
/// # Errors
/// Samples of a model without a row in the report, a number that is not finite, or whatever keeps a file from being
/// written.
pub fn write_all<'a>(
    report: &'a Report,
    outcomes: impl IntoIterator<Item = &'a Outcome> + Clone,
    documents: &'a [DocumentText],
    output: &OutputDir,
) -> Result<(), ReportError> {
    let models: Vec<_> = std::iter::once(&report.baseline).chain(report.compared().map(|row| &row.model)).collect();
    for outcome in outcomes.clone() {
        let row = models
            .iter()
            .find(|row| row.name == outcome.name)
            .ok_or_else(|| ReportError::UnknownModel { name: outcome.name.clone() })?;
        write_jsonl(&output.root.join(&row.samples), &outcome.samples)?;
    }
    write_jsonl(&output.root.join(DOCUMENTS), documents)?;
    let explanation = material::explanation_beside(report, output);
    let material = Material::new(report, outcomes, documents).with_explanation(explanation.as_ref());
    write_page(&material, output)?;
    lm_eval::write_lm_eval(&material, &output.root.join(LM_EVAL))?;
    write_atomically(&output.report_markdown(), markdown::render_markdown(report).as_bytes())?;
    json::write_json(&output.report_json(), report)
}

/// Writes `explanation.json`, and the page: with the comparison in it where the directory holds one of the same checkpoint
/// and data.
///
/// # Errors
/// A `report.json` or samples in the directory that cannot be read, or whatever keeps a file from being written.
pub fn write_explanation(explanation: &Explanation, output: &OutputDir) -> Result<(), ReportError> {
    let mut text = serde_json::to_string_pretty(explanation).map_err(ReportError::Json)?;
    text.push('\n');
    write_atomically(&output.root.join(EXPLANATION), text.as_bytes())?;
    let results = Results::read(&output.root)?;
    if results.explanation.is_some() {
        return write_page(&results.material(), output);
    }
    tracing::warn!(
        "report.json in {} is of another run: report.html shows the explanation alone",
        output.root.display()
    );
    write_page(&Material { explanation: Some(explanation), ..Material::default() }, output)
}

/// Writes `report.html`, and every plot in it as SVG and PNG.
fn write_page(material: &Material<'_>, output: &OutputDir) -> Result<(), ReportError> {
    let plots = Plots::new(material.report, material.explanation, &material.samples);
    let folder = output.root.join(PLOTS);
    for picture in plots.iter() {
        write_atomically(&folder.join(format!("{}.svg", picture.file)), picture.svg().as_bytes())?;
        write_atomically(&folder.join(format!("{}.png", picture.file)), &picture.png()?)?;
    }
    write_atomically(&output.report_html(), html::page(material, plots)?.as_bytes())
}

/// Writes to a temporary file beside `path`, syncs it and gives it its name.
///
/// # Errors
/// [`ReportError::Write`] names the file and what the file system says.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    files::write_atomically(path, bytes).map_err(|source| ReportError::Write { path: path.to_owned(), source })
}

/// Names of sample files: those of the models, made safe as file names and told apart where that makes them equal.
#[derive(Debug, Default)]
pub(super) struct SampleFiles {
    taken: HashSet<String>,
}

impl SampleFiles {
    /// The baseline's file, whatever its row is called.
    pub(super) fn baseline(&mut self) -> String {
        self.variant("baseline")
    }

    pub(super) fn variant(&mut self, name: &str) -> String {
        let safe = file_stem(name);
        let mut stem = safe.clone();
        let mut number = 2;
        // Lower case, because some file systems do not tell cases apart.
        while !self.taken.insert(stem.to_lowercase()) {
            stem = format!("{safe}-{number}");
            number += 1;
        }
        format!("{SAMPLES}/{stem}.jsonl")
    }
}

/// A model's part of file names: that of its samples, which no other model has.
pub(super) fn stem_of(row: &ModelRow) -> String {
    let stem = Path::new(&row.samples).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    file_stem(&stem.unwrap_or_else(|| row.name.clone()))
}

/// Letters, digits, `.`, `_`, `+` and `-` stay; anything else becomes `-`. Never empty, hidden or a parent directory.
fn file_stem(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '-' }).take(100).collect();
    let stem = safe.trim_start_matches(['.', '-']);
    if stem.is_empty() { "model".to_owned() } else { stem.to_owned() }
}
