//! Errors of configurations, with hints.

use std::fmt;
use std::path::PathBuf;

use crate::files;

/// A key's file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// The configuration file.
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
    /// No configuration file was given.
    #[error("no configuration file was given")]
    NoFiles,

    /// A file could not be opened or read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },

    /// A file is far larger than any configuration.
    #[error("{}: expected a configuration of at most {limit_bytes} bytes, found more", path.display())]
    TooLarge {
        /// The configuration file.
        path: PathBuf,
        /// The largest size that is read, in bytes.
        limit_bytes: u64,
    },

    /// A file is not the YAML or JSON that gpt-neox reads.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The configuration file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted in characters from 1.
        column: usize,
        /// The parser's message.
        message: String,
        /// The probable mistake, if the text around the place shows it.
        suggestion: Option<String>,
    },

    /// A key appears twice, in one file or in two, after `-` became `_`.
    #[error("key `{key}` is given twice: {first} and {second}")]
    DuplicateKey {
        /// The key with `_`.
        key: String,
        /// Where it appears first.
        first: KeyPlace,
        /// Where it appears again.
        second: KeyPlace,
    },

    /// A key without a default is missing.
    #[error("{files}: key `{key}` is missing")]
    MissingKey {
        /// The missing key.
        key: String,
        /// The files that were searched.
        files: String,
    },

    /// A value has the wrong type, is out of range or does not fit another value.
    #[error("{file}: `{key}` should be {expected}, found {found}")]
    InvalidValue {
        /// The key; a key inside a section is written `section.key`.
        key: String,
        /// A description of accepted values.
        expected: String,
        /// The value in the file.
        found: String,
        /// The file that holds the key.
        file: String,
    },

    /// Two settings exclude each other.
    #[error("{file}: `{key}` is {value}, but `{other_key}` is {other_value}")]
    Conflict {
        /// One key.
        key: String,
        /// Its value.
        value: String,
        /// The other key.
        other_key: String,
        /// The other key's value.
        other_value: String,
        /// The file that holds the first key.
        file: String,
    },

    /// The configuration and the arguments stored in the checkpoint disagree.
    #[error("{file}: `{key}` is {config}, but the checkpoint was written with {checkpoint}")]
    CheckpointMismatch {
        /// The key.
        key: String,
        /// The value in the configuration (gpt-neox's default where the key is absent).
        config: String,
        /// The value stored in the checkpoint.
        checkpoint: String,
        /// The file that holds the key.
        file: String,
    },
}

impl ConfigError {
    /// What to do about it, where that is known: one sentence without a trailing period.
    #[must_use]
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
