//! Errors of names and shapes.

use super::kinds::StageKind;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    #[error("unexpected tensor `{name}` in the {stage}")]
    UnknownName { name: String, stage: StageKind },
    #[error("tensor `{name}` in the {stage}: {reason}")]
    Refused { name: String, stage: StageKind, reason: &'static str, needed: &'static str },
    #[error("tensor `{name}` in the {stage}: the configuration excludes it ({reason})")]
    NotInModel { name: String, stage: StageKind, reason: &'static str },
    #[error("extent {extent} does not divide into {tp_size} ranks with blocks {blocks:?}")]
    Indivisible { extent: usize, tp_size: usize, blocks: Vec<usize> },
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
}
