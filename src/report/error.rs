//! Errors of building, writing and reading reports.

use std::io;
use std::path::PathBuf;

use crate::files;
use crate::limits::LimitsError;
use crate::samples::SampleError;
use crate::stats::StatsError;

#[doc(hidden)]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    #[error("`{name}` has {found} samples, expected {expected}")]
    PassageCount { name: String, expected: usize, found: usize },
    #[error("`{name}`, passage {doc_id} (position {position}): {what} is {found}, in the baseline {expected}")]
    PassageMismatch {
        name: String,
        doc_id: usize,
        position: usize,
        what: &'static str,
        expected: String,
        found: String,
    },
    #[error("`{name}`, passage {doc_id}: a target token has no `kl`, though other tokens of this model have one")]
    MissingKl { name: String, doc_id: usize },
    #[error("two models are called `{name}`: every row of a report needs a name of its own")]
    DuplicateName { name: String },
    #[error("`{name}`: {source}")]
    Stats { name: String, source: StatsError },
    #[error("report field `{pointer}` is not a finite number")]
    NotFinite { pointer: String },
    #[error("{path}: the output directory is not writable: {source}", path = path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("{path}: could not be written: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Read(io::Error),
    #[error("{path}: not a report: {source}", path = path.display())]
    NotAReport { path: PathBuf, source: serde_json::Error },
    #[error("{path}: schema_version is \"{found}\", this program reads \"{expected}\"", path = path.display())]
    SchemaVersion { path: PathBuf, found: String, expected: &'static str },
    #[error("the report could not be turned into JSON: {0}")]
    Json(#[source] serde_json::Error),
    #[error("{path}: no report.json and no explanation.json", path = path.display())]
    NoReport { path: PathBuf },
    #[error("`{name}` has no samples: {file} is missing")]
    NoSamples { name: String, file: String },
    #[error("nothing has been computed yet")]
    NothingComputed,
    #[error("{folder}: the report names `{found}` as the samples of `{name}`, expected a file below the report's folder", folder = folder.display())]
    Outside { folder: PathBuf, name: String, found: String },
    #[error("{path}: not a certificate: {source}", path = path.display())]
    NotACertificate { path: PathBuf, source: serde_json::Error },
    #[error("{path}: certificate_version is \"{found}\", this program reads \"{expected}\"", path = path.display())]
    CertificateVersion { path: PathBuf, found: String, expected: &'static str },
    #[error("the report has no row `{name}`, only {known}")]
    NoRow { name: String, known: String },
    #[error("the report has several rows: {known}")]
    ManyRows { known: String },
    #[error("the report has no merge, only the model itself")]
    NothingToCertify,
    #[error("`{name}` cannot be certified: the report has no {lacks}")]
    NotCertifiable { name: String, lacks: &'static str },
    #[error("there is neither a report nor an explanation to show")]
    NothingToShow,
    #[error("the page could not be made: {reason}")]
    Page { reason: String },
    #[error("plots/{file}.png could not be drawn: {reason}")]
    Png { file: String, reason: String },
    #[error(transparent)]
    Samples(#[from] SampleError),
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl ReportError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotWritable { .. } => Some("choose another --output-dir".to_owned()),
            Self::NotAReport { .. } => Some("pass the report.json of an --output-dir".to_owned()),
            Self::Write { source, .. }
            | Self::Read(source)
            | Self::Samples(SampleError::Io(source) | SampleError::Write { source, .. }) => files::hint(source),
            Self::Limits(error) => error.hint(),
            Self::NotACertificate { .. } => {
                Some("pass what `kintsugi report OUT --format certificate` has written".to_owned())
            }
            Self::ManyRows { .. } => Some("a certificate is of one merge: name it with --model".to_owned()),
            Self::NotCertifiable { .. } => {
                Some("`kintsugi compare` of this version writes what a certificate needs: run it again".to_owned())
            }
            Self::Outside { .. } => {
                Some("`--output-dir` writes samples/ beside report.json: this report was changed afterwards".to_owned())
            }
            Self::NoReport { .. } => {
                Some("pass the --output-dir of a run of `kintsugi compare`, or its report.json".to_owned())
            }
            Self::Samples(SampleError::Line { .. } | SampleError::LineTooLong { .. }) => Some(
                "samples/ and passages.jsonl must be as `--output-dir` wrote them: copy the folder again".to_owned(),
            ),
            _ => None,
        }
    }
}
