//! Errors of gates.

use std::path::PathBuf;

use crate::limits::LimitsError;
use crate::report::ReportError;
use crate::samples::SampleError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Samples(#[from] SampleError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error("{path}: nothing to judge: {reason}", path = path.display())]
    NothingToJudge { path: PathBuf, reason: String },
    #[error("{path}: no model is called `{name}`; there are {known}", path = path.display())]
    NoSuchModel { path: PathBuf, name: String, known: String },
    #[error("{path}: {what}: expected {expected}, found {found}", path = path.display())]
    OtherPassages { path: PathBuf, what: String, expected: String, found: String },
    #[error("{path}: {what}", path = path.display())]
    NotHarness { path: PathBuf, what: String },
    #[error("{task}: {what}: {baseline} in the baseline, {model} in `{name}`")]
    OtherSettings { task: String, name: String, what: &'static str, baseline: String, model: String },
}

impl GateError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Report(error) => error.hint(),
            Self::Samples(_) => Some(
                "a gate pairs models passage by passage: keep samples/ beside report.json, as --output-dir writes them"
                    .to_owned(),
            ),
            Self::Io(error) => crate::files::hint(error),
            Self::Limits(error) => error.hint(),
            Self::NotHarness { .. } => Some(
                "--baseline and --model take samples_*.jsonl of lm-evaluation-harness (--log_samples), or a folder with them"
                    .to_owned(),
            ),
            Self::OtherSettings { .. } => Some("evaluate both models with the same settings".to_owned()),
            Self::OtherPassages { .. } => Some("evaluate both on the same data, with the same --limit".to_owned()),
            _ => None,
        }
    }
}
