//! Errors of building, writing and reading reports.

use std::io;
use std::path::PathBuf;

use crate::files;
use crate::samples::SampleError;
use crate::stats::StatsError;

/// An error of building, writing or reading a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A model has no samples, or a different number of them than the report.
    #[error("`{name}` has {found} samples, expected {expected}")]
    PassageCount {
        /// The model at fault.
        name: String,
        /// Number of passages evaluated, by the task or by the baseline.
        expected: usize,
        /// Its own number of samples.
        found: usize,
    },
    /// A variant's sample does not belong to the baseline's passage at the same position.
    #[error("`{name}`, passage {doc_id} (position {position}): {what} is {found}, in the baseline {expected}")]
    PassageMismatch {
        /// The variant at fault.
        name: String,
        /// The baseline's `doc_id` at that position.
        doc_id: usize,
        /// 0-based position among the samples.
        position: usize,
        /// The field that differs: `doc_id`, `prompt_hash`, `target_hash`, `target` or `target tokens`.
        what: &'static str,
        /// The baseline's value.
        expected: String,
        /// The variant's value.
        found: String,
    },
    /// Some tokens of a variant carry their divergence from the baseline and others do not.
    #[error("`{name}`, passage {doc_id}: a target token has no `kl`, though other tokens of this model have one")]
    MissingKl {
        /// The variant at fault.
        name: String,
        /// The passage of the first such token.
        doc_id: usize,
    },
    /// Two models of one report share a name.
    #[error("two models are called `{name}`: every row of a report needs a name of its own")]
    DuplicateName {
        /// The name used twice.
        name: String,
    },
    /// A statistic could not be computed.
    #[error("`{name}`: {source}")]
    Stats {
        /// The model whose samples were summarised.
        name: String,
        /// The cause.
        source: StatsError,
    },
    /// A number of the report is NaN or infinite. JSON has neither, and a silent `null` would pass for "not measured".
    #[error("report field `{pointer}` is not a finite number")]
    NotFinite {
        /// JSON pointer of the field, such as `/variants/0/loss/acc`.
        pointer: String,
    },
    /// Results could not be written to this directory; found out before anything is evaluated.
    #[error("{path}: the output directory is not writable: {source}", path = path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file could not be written whole under its name.
    #[error("{path}: could not be written: {source}", path = path.display())]
    Write {
        /// The intended name.
        path: PathBuf,
        /// The cause.
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
        /// The cause.
        source: serde_json::Error,
    },
    /// A report of a different version.
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
    /// A passage is in two run shards.
    #[error("passages {passages} are in both {first} and {second}", first = first.display(), second = second.display())]
    Duplicate {
        /// Their `doc_id`s.
        passages: String,
        /// One journal.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A passage is in no run shard.
    #[error("passages {passages} are in none of the journals: {because}")]
    Gap {
        /// Their `doc_id`s.
        passages: String,
        /// The run shards that are missing or not finished.
        because: String,
    },
    /// A report that names a file which is not beside it.
    #[error("{folder}: the report names `{found}` as the samples of `{name}`, expected a file below the report's folder", folder = folder.display())]
    Outside {
        /// The report's folder.
        folder: PathBuf,
        /// The model.
        name: String,
        /// The file that the report names.
        found: String,
    },
    /// A page of neither a report nor an explanation.
    #[error("there is neither a report nor an explanation to show")]
    NothingToShow,
    /// The page could not be made.
    #[error("the page could not be made: {reason}")]
    Page {
        /// The cause.
        reason: String,
    },
    /// A plot could not be turned into a PNG.
    #[error("plots/{file}.png could not be drawn: {reason}")]
    Png {
        /// The plot.
        file: String,
        /// The cause.
        reason: String,
    },
    /// A sample file could not be written or read.
    #[error(transparent)]
    Samples(#[from] SampleError),
}

impl ReportError {
    /// Advice for the user, where there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotWritable { .. } => Some("choose another --output-dir".to_owned()),
            Self::NotAReport { .. } => Some("pass the report.json of an --output-dir".to_owned()),
            Self::Write { source, .. }
            | Self::Read(source)
            | Self::Samples(SampleError::Io(source) | SampleError::Write { source, .. }) => files::hint(source),
            Self::Outside { .. } => {
                Some("`--output-dir` writes samples/ beside report.json: this report was changed afterwards".to_owned())
            }
            Self::NoReport { .. } => {
                Some("pass the --output-dir of a run of `kintsugi compare`, or its report.json".to_owned())
            }
            Self::Duplicate { .. } => Some("give every run shard once, all of the same run".to_owned()),
            Self::Gap { .. } => {
                Some("run the missing parts (the same command resumes where it stopped), then combine again".to_owned())
            }
            Self::Samples(SampleError::Line { .. } | SampleError::LineTooLong { .. }) => Some(
                "samples/ and passages.jsonl must be as `--output-dir` wrote them: copy the folder again".to_owned(),
            ),
            Self::Samples(error) => error.hint(),
            _ => None,
        }
    }
}
