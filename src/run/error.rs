//! What can go wrong between the parts of a run: its journal, its shards, a signal.

use std::io;
use std::path::PathBuf;

use super::key::Differences;
use crate::error::{Error, ErrorKind};

/// What keeps a run from going on, or its shards from being joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The evaluation itself.
    #[cfg(feature = "libtorch")]
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record could not be added to a journal; those before it are as they were.
    #[error("{path}: could not write the journal: {source}", path = path.display())]
    JournalWrite {
        /// The journal.
        path: PathBuf,
        /// What the file system reported.
        source: io::Error,
    },
    /// A record of a journal, not the last one, is not what was written.
    #[error("{path}: record {record} is damaged: {reason}", path = path.display())]
    JournalDamaged {
        /// The journal.
        path: PathBuf,
        /// 1-based number of the record, which is its line.
        record: usize,
        /// How it is damaged.
        reason: String,
    },
    /// Another process writes to the journal.
    #[error("{path}: another run is writing to this journal", path = path.display())]
    JournalInUse {
        /// The journal.
        path: PathBuf,
    },
    /// A journal that does not begin with a run.
    #[error("{path}: not a journal of this version of kintsugi: {reason}", path = path.display())]
    JournalForm {
        /// The journal.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// A journal holds the results of another run than the one requested.
    #[error("{path}: the journal belongs to a different run: {differences}", path = path.display())]
    DifferentRun {
        /// The journal.
        path: PathBuf,
        /// What differs.
        differences: Differences,
    },
    /// A signal asked the run to stop.
    #[error("interrupted: {done} of {total} slices are in {path}", path = journal.display())]
    Interrupted {
        /// The signal's number.
        signal: i32,
        /// Slices that are done.
        done: usize,
        /// All slices of the run.
        total: usize,
        /// Their journal.
        journal: PathBuf,
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
        /// Which run shards are missing or not finished.
        because: String,
    },
}

impl RunError {
    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            #[cfg(feature = "libtorch")]
            Self::Eval(error) => return error.hint(),
            Self::JournalWrite { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space and run the same command again: it goes on after the last finished slice"
            }
            Self::JournalWrite { .. } => "run the same command again: it goes on after the last finished slice",
            Self::JournalDamaged { .. } => "restore the file from a copy, or give --restart to compute everything anew",
            Self::JournalInUse { .. } => "wait for it, or give another --output-dir",
            Self::JournalForm { .. } | Self::DifferentRun { .. } => {
                "give another --output-dir, or --restart to discard what the journal holds"
            }
            Self::Interrupted { .. } => "run the same command again: it goes on with the next slice",
            Self::Duplicate { .. } => "give every shard once, and shards of one division only",
            Self::Gap { .. } => "run what is missing (the same command goes on where it stopped), then combine again",
            Self::Io(_) | Self::NothingComputed | Self::Overflow { .. } => return None,
        };
        Some(text.to_owned())
    }
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        match error {
            #[cfg(feature = "libtorch")]
            RunError::Eval(error) => error.into(),
            RunError::Io(error) => error.into(),
            RunError::Interrupted { signal, .. } => {
                let code = u8::try_from(128 + signal).unwrap_or(2);
                Self::of(ErrorKind::Interrupted, error.hint(), error).with_exit_code(code)
            }
            error => Self::of(ErrorKind::Run, error.hint(), error),
        }
    }
}
