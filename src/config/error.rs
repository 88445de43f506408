//! Errors of configurations, with hints.

use std::fmt;
use std::path::PathBuf;

use crate::files;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.path.display(), self.line)
    }
}

/// Why a configuration cannot be used. Every message names the file and, where there is one, the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("no configuration file was given")]
    NoFiles,
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: expected a configuration of at most {limit_bytes} bytes, found more", path.display())]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String, suggestion: Option<String> },
    #[error("key `{key}` is given twice: {first} and {second}")]
    DuplicateKey { key: String, first: KeyPlace, second: KeyPlace },
    #[error("{files}: key `{key}` is missing")]
    MissingKey { key: String, files: String },
    #[error("{file}: `{key}` should be {expected}, found {found}")]
    InvalidValue { key: String, expected: String, found: String, file: String },
    #[error("{file}: `{key}` is {value}, but `{other_key}` is {other_value}")]
    Conflict { key: String, value: String, other_key: String, other_value: String, file: String },
    #[error("{file}: `{key}` is {config}, but the checkpoint was written with {checkpoint}")]
    CheckpointMismatch { key: String, config: String, checkpoint: String, file: String },
}

impl ConfigError {
    /// What to do about it, where that is known: one sentence without a trailing period.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoFiles | Self::MissingKey { .. } => {
                "gpt-neox saves every configuration file of a run in `global_stepN/configs`, before 2021-11 in \
                 `configs`; pass all of them together"
            }
            Self::Syntax { suggestion, .. } => return suggestion.clone(),
            Self::TooLarge { .. } => "check that this is a configuration file, not weights or data",
            Self::DuplicateKey { .. } => {
                "`-` and `_` mean the same in a key; keep the value the model was trained with and remove the other"
            }
            Self::Conflict { .. } => "gpt-neox refuses the two together; keep the one the model was trained with",
            Self::CheckpointMismatch { .. } => {
                "the configuration belongs to another checkpoint or was edited after training; use the files saved \
                 with this checkpoint"
            }
            Self::Read { source, .. } => return files::hint(source),
            Self::InvalidValue { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
