//! Errors of sample files and journals.

use std::path::PathBuf;

use super::identity::Differences;

/// An error of a sample file or a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line is not a sample, or not a passage.
    #[error("{path}: line {line} is not a sample or passage: {source}", path = path.display())]
    Line {
        /// The sample file.
        path: PathBuf,
        /// 1-based line number.
        line: usize,
        /// The cause.
        source: serde_json::Error,
    },
    /// A line is longer than any sample.
    #[error("{path}: line {line} is longer than {limit_bytes} bytes", path = path.display())]
    LineTooLong {
        /// The sample file.
        path: PathBuf,
        /// 1-based line number.
        line: usize,
        /// The longest line read.
        limit_bytes: u64,
    },
    /// The file could not be written whole under its name.
    #[error("{path}: could not be written: {source}", path = path.display())]
    Write {
        /// The intended name.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A record could not be added to a journal; those before it are as they were.
    #[error("{path}: the journal could not be written: {source}", path = path.display())]
    JournalWrite {
        /// The journal.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A record of a journal, not the last one, is not what was written.
    #[error("{path}: record {record} is damaged: {reason}", path = path.display())]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// 1-based number of the record, which is its line.
        record: usize,
        /// The cause.
        reason: String,
    },
    /// Another process writes to the journal.
    #[error("{path}: another run is writing to this journal", path = path.display())]
    JournalInUse {
        /// The journal.
        path: PathBuf,
    },
    /// A file that is no journal.
    #[error("{path}: not a journal of this version of kintsugi: {reason}", path = path.display())]
    JournalForm {
        /// The journal.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A journal with the results of a different run.
    #[error("{path}: the journal belongs to a different run: {differences}", path = path.display())]
    AnotherRun {
        /// The journal.
        path: PathBuf,
        /// The settings that differ.
        differences: Differences,
    },
}

impl SampleError {
    /// Advice for the user, where there is any.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::JournalWrite { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space and run the same command again: it resumes after the last finished slice"
            }
            Self::JournalWrite { .. } => "run the same command again: it resumes after the last finished slice",
            Self::JournalDamaged { .. } => {
                "restore the file from a copy, or pass --restart to compute everything again"
            }
            Self::JournalInUse { .. } => "wait for it, or choose another --output-dir",
            Self::JournalForm { .. } | Self::AnotherRun { .. } => {
                "choose another --output-dir, or pass --restart to discard the journal"
            }
            Self::Io(_) | Self::Line { .. } | Self::LineTooLong { .. } | Self::Write { .. } => return None,
        };
        Some(text.to_owned())
    }
}
