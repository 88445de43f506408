//! Errors of host tensors.

use super::DType;

/// An error of host tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum TensorError {
    #[error("a {dtype} tensor of shape {shape:?} needs {expected} bytes, found {found}")]
    ByteCount { dtype: DType, shape: Vec<usize>, expected: usize, found: usize },
    #[error("shape {0:?} is too large")]
    TooLarge(Vec<usize>),
    #[error("expected {expected_dtype} {expected_shape:?}, found {found_dtype} {found_shape:?}")]
    Mismatch { expected_dtype: DType, expected_shape: Vec<usize>, found_dtype: DType, found_shape: Vec<usize> },
    #[error("expected a matrix, found shape {0:?}")]
    NotAMatrix(Vec<usize>),
    #[error("no tensors to combine")]
    Empty,
    #[error("dimension {dim}, elements {start}..{end}: outside shape {shape:?}")]
    OutOfRange { dim: usize, start: usize, end: usize, shape: Vec<usize> },
    #[error("shape {shape:?}: the order of its rows does not have each of them once")]
    RowOrder { shape: Vec<usize> },
    #[error("{0} tensors have no merge arithmetic")]
    NotFloat(DType),
}
