//! What can go wrong with what was measured, on disk.

use std::path::PathBuf;

use super::Differences;

/// What can go wrong with sample files and journals.
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
        /// What the JSON reader says.
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
        /// What the file system says.
        source: std::io::Error,
    },
    /// A record could not be added to a journal; those before it are as they were.
    #[error("{path}: the journal could not be written: {source}", path = path.display())]
    JournalWrite {
        /// The journal.
        path: PathBuf,
        /// What the file system says.
        source: std::io::Error,
    },
    /// A record of a journal, not the last one, is not what was written.
    #[error("{path}: record {record} is damaged: {reason}", path = path.display())]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// 1-based number of the record, which is its line.
        record: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process writes to the journal.
    #[error("{path}: another run writes to this journal", path = path.display())]
    JournalInUse {
        /// The journal.
        path: PathBuf,
    },
    /// A journal begins with something else than a run.
    #[error("{path}: not a journal of this version of kintsugi: {reason}", path = path.display())]
    JournalForm {
        /// The journal.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// A journal holds the results of another run than the one that was asked for.
    #[error("{path}: the journal is of another run: {differences}", path = path.display())]
    AnotherRun {
        /// The journal.
        path: PathBuf,
        /// What differs.
        differences: Differences,
    },
}

impl SampleError {
    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::JournalWrite { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space and run the same command again: it goes on after the last finished slice"
            }
            Self::JournalWrite { .. } => "run the same command again: it goes on after the last finished slice",
            Self::JournalDamaged { .. } => "restore the file from a copy, or give --restart to compute everything anew",
            Self::JournalInUse { .. } => "wait for it, or give another --output-dir",
            Self::JournalForm { .. } | Self::AnotherRun { .. } => {
                "give another --output-dir, or --restart to discard what the journal holds"
            }
            Self::Io(_) | Self::Line { .. } | Self::LineTooLong { .. } | Self::Write { .. } => return None,
        };
        Some(text.to_owned())
    }
}
