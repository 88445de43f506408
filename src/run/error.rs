//! What can go wrong between the parts of a run: its journal, its shards, a signal.

use std::io;
use std::path::PathBuf;

use super::key::Differences;
use crate::error::{Error, ErrorKind};
use crate::limits::LimitsError;

#[doc(hidden)]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    #[cfg(feature = "libtorch")]
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{path}: could not write the journal: {source}", path = path.display())]
    JournalWrite { path: PathBuf, source: io::Error },
    #[error("{path}: record {record} is damaged: {reason}", path = path.display())]
    JournalDamaged { path: PathBuf, record: usize, reason: String },
    #[error("{path}: another run is writing to this journal", path = path.display())]
    JournalInUse { path: PathBuf },
    #[error("{path}: not a journal of this version of kintsugi: {reason}", path = path.display())]
    JournalForm { path: PathBuf, reason: String },
    #[error("{path}: the journal belongs to a different run: {differences}", path = path.display())]
    DifferentRun { path: PathBuf, differences: Differences },
    #[error("interrupted: {done} of {total} slices are in {path}", path = journal.display())]
    Interrupted { signal: i32, done: usize, total: usize, journal: PathBuf },
    #[error("nothing has been computed yet")]
    NothingComputed,
    #[error("{message}")]
    Overflow { message: String },
    #[error("passages {passages} are in both {first} and {second}", first = first.display(), second = second.display())]
    Duplicate { passages: String, first: PathBuf, second: PathBuf },
    #[error("passages {passages} are in none of the journals: {because}")]
    Gap { passages: String, because: String },
}

impl RunError {
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            #[cfg(feature = "libtorch")]
            Self::Eval(error) => return error.hint(),
            Self::Limits(error) => return error.hint(),
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
            RunError::Limits(error) => error.into(),
            RunError::Io(error) => error.into(),
            RunError::Interrupted { signal, .. } => {
                let code = u8::try_from(128 + signal).unwrap_or(2);
                Self::of(ErrorKind::Interrupted, error.hint(), error).with_exit_code(code)
            }
            error => Self::of(ErrorKind::Run, error.hint(), error),
        }
    }
}
