//! The last pipeline stage's copy of the word embedding.

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::torch_file::TorchFile;

/// Whether two tensors of two files are the same, by their types, shapes and checksums; read where a file has none.
pub(super) fn is_same(one: (&TorchFile, &str), other: (&TorchFile, &str)) -> Result<bool, CheckpointError> {
    let (one_form, other_form) = (one.0.form(one.1), other.0.form(other.1));
    if one_form != other_form {
        return Ok(false);
    }
    match (one.0.checksum(one.1), other.0.checksum(other.1)) {
        (Some(one), Some(other)) => Ok(one == other),
        _ => Ok(one.0.read(one.1)?.same_bits(&other.0.read(other.1)?)),
    }
}
