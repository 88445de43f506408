//! A report with its samples and passages, an explanation, or both: fresh from a run, or back from the files of an output
//! directory.

use std::collections::HashMap;
use std::path::Path;

use fs_err as fs;

use super::build::ReportInput;
use super::contents::Report;
use super::error::ReportError;
use super::explanation::Explanation;
use super::json;
use super::output_dir::{EXPLANATION, OutputDir, PASSAGES, REPORT};
use super::rows::ModelRow;
use crate::samples::{PassageText, Sample, read_jsonl};

/// Everything that a page shows.
#[derive(Debug, Clone, Default)]
pub struct ReportFiles<'a> {
    /// The comparison.
    pub report: Option<&'a Report>,
    /// Samples by the name of the model.
    pub samples: HashMap<&'a str, &'a [Sample]>,
    /// The texts of the passages.
    pub passages: &'a [PassageText],
    /// The factor analysis.
    pub explanation: Option<&'a Explanation>,
}

impl<'a> ReportFiles<'a> {
    /// A report fresh from its run.
    pub fn new(report: &'a Report, input: &'a ReportInput, passages: &'a [PassageText]) -> Self {
        let samples = input.evaluated().map(|(model, samples)| (model.name.as_str(), samples)).collect();
        Self { report: Some(report), samples, passages, explanation: None }
    }

    pub(super) fn samples_of(&self, row: &ModelRow) -> Result<&'a [Sample], ReportError> {
        let missing = || ReportError::NoSamples { name: row.name.clone(), file: row.samples.clone() };
        self.samples.get(row.name.as_str()).copied().ok_or_else(missing)
    }
}

/// The contents of an output directory.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// The comparison.
    pub report: Option<Report>,
    /// Samples by the name of the model, where their files are there.
    pub samples: Vec<(String, Vec<Sample>)>,
    /// The texts of the passages, where their file is there.
    pub passages: Vec<PassageText>,
    /// The factor analysis, where it is of the same checkpoint and data.
    pub explanation: Option<Explanation>,
}

impl Results {
    /// Reads an output directory, or a report and the files beside it.
    ///
    /// # Errors
    /// A directory with neither report nor explanation, a file that is not what its name says, or samples that do not
    /// belong to the report.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let (folder, report_file) = if path.is_dir() {
            (path.to_owned(), path.join(REPORT))
        } else {
            (path.parent().map(Path::to_owned).unwrap_or_default(), path.to_owned())
        };
        let explanation_file = folder.join(EXPLANATION);
        let explanation = explanation_file.is_file().then(|| json::read_explanation(&explanation_file)).transpose()?;
        if !report_file.is_file() {
            return match explanation {
                Some(_) if path.is_dir() => Ok(Self { explanation, ..Self::default() }),
                _ => Err(ReportError::NoReport { path: path.to_owned() }),
            };
        }
        let report = json::read_json(&report_file)?;
        let mut samples = Vec::new();
        for row in report.models() {
            if let Some(of_model) = read_samples(&folder, row)? {
                samples.push((row.name.clone(), of_model));
            }
        }
        let passages_file = folder.join(PASSAGES);
        let passages = if passages_file.is_file() { read_jsonl(&passages_file)? } else { Vec::new() };
        let explanation = explanation.filter(|found| belongs(&report, found));
        Ok(Self { report: Some(report), samples, passages, explanation })
    }

    /// The same, as pages take it.
    pub fn files(&self) -> ReportFiles<'_> {
        ReportFiles {
            report: self.report.as_ref(),
            samples: self.samples.iter().map(|(name, samples)| (name.as_str(), samples.as_slice())).collect(),
            passages: &self.passages,
            explanation: self.explanation.as_ref(),
        }
    }
}

/// The explanation in an output directory, where it is of the report's checkpoint and data.
pub(super) fn explanation_beside(report: &Report, output: &OutputDir) -> Option<Explanation> {
    let file = output.path().join(EXPLANATION);
    if !file.is_file() {
        return None;
    }
    match json::read_explanation(&file) {
        Ok(found) => Some(found).filter(|found| belongs(report, found)),
        Err(error) => {
            tracing::warn!("left out of report.html: {error}");
            None
        }
    }
}

fn read_samples(folder: &Path, row: &ModelRow) -> Result<Option<Vec<Sample>>, ReportError> {
    let file = row.samples_file(folder)?;
    match read_jsonl::<Sample>(&file) {
        Ok(samples) if samples.len() == row.n => Ok(Some(samples)),
        Ok(samples) => Err(ReportError::PassageCount { name: row.name.clone(), expected: row.n, found: samples.len() }),
        Err(_) if !fs::exists(&file).unwrap_or(false) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether both are of the same model and passages.
fn belongs(report: &Report, explanation: &Explanation) -> bool {
    let (one, other) = (&report.checkpoint, &explanation.checkpoint);
    let same_files = match (&one.digests, &other.digests) {
        (Some(one), Some(other)) => one == other,
        _ => (&one.path, one.iteration, one.bytes) == (&other.path, other.iteration, other.bytes),
    };
    same_files && report.task.data.sha256 == explanation.task.data.sha256
}
