//! Errors of gates.

use std::path::PathBuf;

use crate::report::ReportError;
use crate::samples::SampleError;
use crate::stats::StatsError;

/// An error of a gate; a failed limit is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// A report that cannot be read.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Samples that cannot be read.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// A file of limits that cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file of limits with an error in it.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// The cause, with line and column.
        message: String,
    },
    /// Nothing to judge.
    #[error("{path}: nothing to judge: {reason}", path = path.display())]
    NothingToJudge {
        /// The report.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A model that the report does not have.
    #[error("{path}: no model is called `{name}`; there are {known}", path = path.display())]
    NoSuchModel {
        /// The report.
        path: PathBuf,
        /// The name given.
        name: String,
        /// The report's models.
        known: String,
    },
    /// Reports of different passages, which cannot be paired.
    #[error("{path}: {what}: expected {expected}, found {found}", path = path.display())]
    OtherPassages {
        /// The report at fault.
        path: PathBuf,
        /// The field that differs.
        what: String,
        /// Its value in the report judged.
        expected: String,
        /// Its value in this one.
        found: String,
    },
    /// A statistic that cannot be computed.
    #[error("`{name}`: {source}")]
    Stats {
        /// The model.
        name: String,
        /// Why.
        source: StatsError,
    },
}

impl GateError {
    /// Advice for the user, where there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Report(error) => error.hint(),
            Self::Samples(_) => Some(
                "a gate pairs models passage by passage: keep samples/ beside report.json, as --output-dir writes them"
                    .to_owned(),
            ),
            Self::Io(error) => crate::files::hint(error),
            Self::Syntax { .. } => Some("evals/gates.yml of the source shows every key".to_owned()),
            Self::OtherPassages { .. } => Some("evaluate both on the same data, with the same --limit".to_owned()),
            _ => None,
        }
    }
}
