//! What makes a report impossible to build, write or read.

use std::io;
use std::path::PathBuf;

use crate::files;
use crate::samples::SampleError;
use crate::stats::StatsError;

/// What can go wrong with reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A model has no samples, or another number of them than the report speaks of.
    #[error("`{name}` has {found} samples, expected {expected}")]
    DocumentCount {
        /// The model at fault.
        name: String,
        /// Number of documents evaluated, by the task or by the baseline.
        expected: usize,
        /// Its own number of samples.
        found: usize,
    },
    /// A variant's sample does not belong to the baseline's document at the same position.
    #[error("`{name}`, document {doc_id} (position {position}): {what} is {found}, in the baseline {expected}")]
    DocumentMismatch {
        /// The variant at fault.
        name: String,
        /// The baseline's `doc_id` at that position.
        doc_id: usize,
        /// 0-based position among the samples.
        position: usize,
        /// What differs: `doc_id`, `prompt_hash`, `target_hash`, `target` or `target tokens`.
        what: &'static str,
        /// The baseline's value.
        expected: String,
        /// The variant's value.
        found: String,
    },
    /// Some tokens of a variant carry their divergence from the baseline and others do not.
    #[error("`{name}`, document {doc_id}: a target token has no `kl`, though other tokens of this model have one")]
    MissingKl {
        /// The variant at fault.
        name: String,
        /// The document of the first such token.
        doc_id: usize,
    },
    /// Two models of one report share a name.
    #[error("two models are called `{name}`: rows of a report need names of their own")]
    DuplicateName {
        /// The name used twice.
        name: String,
    },
    /// A statistic could not be computed.
    #[error("`{name}`: {source}")]
    Stats {
        /// The model whose samples were summarised.
        name: String,
        /// What the statistics say.
        source: StatsError,
    },
    /// A number of the report is NaN or infinite. JSON has neither, and a silent `null` would pass for "not measured".
    #[error("report field `{pointer}` is not a finite number")]
    NotFinite {
        /// JSON pointer of the field, such as `/variants/0/loss/acc`.
        pointer: String,
    },
    /// The report does not speak of the model whose samples are to be written.
    #[error("the report has no row called `{name}`")]
    UnknownModel {
        /// The name without a row.
        name: String,
    },
    /// Results could not be written to this directory; found out before anything is evaluated.
    #[error("{path}: the output directory is not writable: {source}", path = path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// A file could not be written whole under its name.
    #[error("{path}: could not be written: {source}", path = path.display())]
    Write {
        /// The intended name.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
    /// A file could not be read.
    #[error(transparent)]
    Read(io::Error),
    /// A file is no report.
    #[error("{path}: not a report: {source}", path = path.display())]
    NotAReport {
        /// The file.
        path: PathBuf,
        /// What the JSON reader says.
        source: serde_json::Error,
    },
    /// A report of another format.
    #[error("{path}: schema_version is \"{found}\", this program reads \"{expected}\"", path = path.display())]
    SchemaVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The version that this program writes and reads.
        expected: &'static str,
    },
    /// The report could not be turned into JSON.
    #[error("the report could not be turned into JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// Neither report nor explanation is where one was expected.
    #[error("{path}: no report.json and no explanation.json", path = path.display())]
    NoReport {
        /// The directory or file given.
        path: PathBuf,
    },
    /// A model's samples are needed and not there.
    #[error("`{name}` has no samples: {file} is missing")]
    NoSamples {
        /// The model.
        name: String,
        /// Its sample file, relative to the output directory.
        file: String,
    },
    /// No slice of the passages has been computed.
    #[error("nothing has been computed yet")]
    NothingComputed,
    /// The numbers of the model that the others are compared with overflow.
    #[error("{message}")]
    Overflow {
        /// Where, in a sentence.
        message: String,
    },
    /// A passage is in two shards.
    #[error("passages {passages} are in both {first} and {second}", first = first.display(), second = second.display())]
    Duplicate {
        /// Their `doc_id`s.
        passages: String,
        /// One journal.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A passage is in no shard.
    #[error("passages {passages} are in none of the journals: {because}")]
    Gap {
        /// Their `doc_id`s.
        passages: String,
        /// Which shards are missing or not finished.
        because: String,
    },
    /// A report that names a file which is not beside it.
    #[error("{folder}: the samples of `{name}` are said to be in `{found}`, expected a file below the report's folder", folder = folder.display())]
    Outside {
        /// The report's folder.
        folder: PathBuf,
        /// The model.
        name: String,
        /// What the report says.
        found: String,
    },
    /// A page of neither a report nor an explanation.
    #[error("there is neither a report nor an explanation to show")]
    NothingToShow,
    /// The page could not be made.
    #[error("the page could not be made: {reason}")]
    Page {
        /// What the template engine says.
        reason: String,
    },
    /// A plot could not be turned into a PNG.
    #[error("plots/{file}.png could not be drawn: {reason}")]
    Png {
        /// The plot.
        file: String,
        /// What the rasteriser says.
        reason: String,
    },
    /// A sample file could not be written or read.
    #[error(transparent)]
    Samples(#[from] SampleError),
}

impl ReportError {
    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotWritable { .. } => Some("choose another --output-dir".to_owned()),
            Self::NotAReport { .. } => Some("give the report.json that `--output-dir` was left with".to_owned()),
            Self::Write { source, .. }
            | Self::Read(source)
            | Self::Samples(SampleError::Io(source) | SampleError::Write { source, .. }) => files::hint(source),
            Self::Outside { .. } => {
                Some("`--output-dir` writes samples/ beside report.json: this report was changed since".to_owned())
            }
            Self::NoReport { .. } => {
                Some("give the --output-dir of a run of `kintsugi compare`, or its report.json".to_owned())
            }
            Self::Duplicate { .. } => Some("give every shard once, and shards of one division only".to_owned()),
            Self::Gap { .. } => {
                Some("run what is missing (the same command goes on where it stopped), then combine again".to_owned())
            }
            Self::Samples(SampleError::Line { .. } | SampleError::LineTooLong { .. }) => {
                Some("samples/ and documents.jsonl are as `--output-dir` writes them: copy the folder anew".to_owned())
            }
            Self::Samples(error) => error.hint(),
            _ => None,
        }
    }
}
