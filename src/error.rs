//! The crate's error: what failed, why, what to do about it, and the exit code that goes with it.
//!
//! Modules have errors of their own, whose variants name file, tensor and rank; at the edge every one of them becomes an
//! [`Error`].

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind as IoErrorKind;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::export::ExportError;
use crate::gate::GateError;
use crate::hub::HubError;
use crate::limits::LimitsError;
use crate::merge::MergeError;
use crate::report::ReportError;
use crate::samples::SampleError;

/// What an [`Error`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Options that contradict each other, or that this build or machine cannot follow.
    Usage,
    /// The model's configuration.
    Config,
    /// The files of a checkpoint or of a Hugging Face directory.
    Checkpoint,
    /// A strategy, or merging by it.
    Merge,
    /// Task, passages or tokenizer.
    Data,
    /// The forward pass or its device.
    Evaluation,
    /// Writing a merge.
    Export,
    /// Files of the Hugging Face Hub.
    Hub,
    /// Sample files.
    Samples,
    /// A report or its renderings.
    Report,
    /// The limits of a gate.
    Gate,
    /// The journal of a run, or its shards.
    Run,
    /// A signal stopped the run in good order; finished slices are kept.
    Interrupted,
    /// The reader of the output has gone, as `head` does.
    BrokenPipe,
    /// Anything else that the operating system refused.
    Io,
}

/// Why a command or a [`Comparison`](crate::Comparison) could not finish. `Debug`, which the error of a `main` is printed
/// with, is the message and its hint.
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    exit_code: u8,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What it is about.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What can be done about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code of the command line: 2, or 128 and the signal's number.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// An error without a cause.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, exit_code: 2, source: None }
    }

    /// Options that cannot be followed.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// An error of a module, with the causes that its own message does not quote, one a line.
    pub(crate) fn of(kind: ErrorKind, hint: Option<String>, error: impl StdError + Send + Sync + 'static) -> Self {
        let mut message = error.to_string();
        let mut kind = kind;
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str("\n  caused by: ");
                message.push_str(&text);
            }
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == IoErrorKind::BrokenPipe) {
                kind = ErrorKind::BrokenPipe;
            }
            cause = error.source();
        }
        Self { kind, message, hint, exit_code: 2, source: Some(Box::new(error)) }
    }

    /// The same with a hint.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with another exit code.
    pub(crate) fn with_exit_code(self, exit_code: u8) -> Self {
        Self { exit_code, ..self }
    }

    /// The same, with what was being done before it.
    #[cfg(feature = "libtorch")]
    pub(crate) fn context(self, doing: impl fmt::Display) -> Self {
        Self { message: format!("{doing}\n  caused by: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().and_then(StdError::source)
    }
}

macro_rules! from {
    ($($error:ty => $kind:ident,)*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::of(ErrorKind::$kind, error.hint(), error)
            }
        })*
    };
}

from! {
    CheckpointError => Checkpoint,
    ConfigError => Config,
    ExportError => Export,
    GateError => Gate,
    HubError => Hub,
    LimitsError => Gate,
    MergeError => Merge,
    ReportError => Report,
}

#[cfg(feature = "libtorch")]
from! {
    crate::eval::data_error::DataError => Data,
    crate::model::ModelError => Evaluation,
}

#[cfg(feature = "libtorch")]
impl From<crate::eval::EvalError> for Error {
    fn from(error: crate::eval::EvalError) -> Self {
        use crate::eval::EvalError;
        match error {
            EvalError::Checkpoint(error) => error.into(),
            EvalError::Merge(error) => error.into(),
            EvalError::Data(error) => error.into(),
            error => Self::of(ErrorKind::Evaluation, error.hint(), error),
        }
    }
}

impl From<SampleError> for Error {
    fn from(error: SampleError) -> Self {
        Self::of(ErrorKind::Samples, None, error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::of(ErrorKind::Io, None, error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::of(ErrorKind::Report, None, error)
    }
}
