//! What keeps a gate from judging.

use std::path::PathBuf;

use crate::report::ReportError;
use crate::samples::SampleError;
use crate::stats::StatsError;

/// What can go wrong with gates. A gate that judges and finds a loss is no error.
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
    /// A file of limits that is none.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// What the YAML reader says, with line and column.
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
    /// A model that was asked for and is not there.
    #[error("{path}: no model is called `{name}`; there are {known}", path = path.display())]
    NoSuchModel {
        /// The report.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Reports of different passages, which cannot be paired.
    #[error("{path}: {what}: expected {expected}, found {found}", path = path.display())]
    OtherPassages {
        /// The report at fault.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What the report judged has.
        expected: String,
        /// What this one has.
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
    /// What the user can do about it, where we know.
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
