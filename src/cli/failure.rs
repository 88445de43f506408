//! Errors at the edge: the chain of causes and the hint that goes with it.

use std::io::ErrorKind;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::export::ExportError;
use crate::gate::GateError;
use crate::hub::HubError;
use crate::merge::MergeError;
use crate::report::ReportError;
use crate::samples::SampleError;

/// Whether somebody closed the pipe that we write to, as `head` does.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe))
}

/// 2, but 128 and the signal's number where one stopped the run in good order.
pub(super) fn exit_code(error: &anyhow::Error) -> u8 {
    #[cfg(feature = "libtorch")]
    if let Some(crate::eval::EvalError::Interrupted { signal, .. }) = error.downcast_ref() {
        return u8::try_from(128 + signal).unwrap_or(2);
    }
    let _ = error;
    2
}

/// The hint of the first cause that has one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        #[cfg(feature = "libtorch")]
        {
            if let Some(error) = cause.downcast_ref::<crate::eval::EvalError>() {
                return error.hint();
            }
            if let Some(error) = cause.downcast_ref::<crate::eval::data_error::DataError>() {
                return error.hint();
            }
            if let Some(error) = cause.downcast_ref::<crate::model::ModelError>() {
                return error.hint();
            }
        }
        if let Some(error) = cause.downcast_ref::<CheckpointError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<super::settings::SettingError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<MergeError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<GateError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<HubError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<ReportError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<ExportError>() {
            return error.hint();
        }
        if let Some(error) = cause.downcast_ref::<SampleError>() {
            return error.hint();
        }
        cause.downcast_ref::<ConfigError>().and_then(ConfigError::hint)
    })
}

/// The message and its causes, one a line; a cause that its parent already quotes is not repeated.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
    }
    text
}

/// Text without what a terminal takes for a command: file and tensor names are quoted as they stand in files of others.
pub(super) fn printable(text: &str) -> String {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}
