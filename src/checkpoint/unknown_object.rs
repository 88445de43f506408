//! Pickles that are sound and hold Python objects which pytorch-reader does not accept.

use pytorch_reader::PickleError;

/// Whether an error is about such an object, not about damage or a hostile file.
pub(super) fn is_cause_of(error: &PickleError) -> bool {
    match error {
        PickleError::UnexpectedOpCode(_) | PickleError::UnsupportedOpCode(_) | PickleError::UnsupportedType(_) => true,
        // As in a dictionary by tuples.
        PickleError::InvalidData(message) => message.starts_with("dict key"),
        _ => false,
    }
}
