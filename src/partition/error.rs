//! Errors of names and shapes.

use super::kinds::StageKind;

/// Names and shapes that do not fit the table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// No row of the table knows the name.
    #[error("unexpected tensor `{name}` in the {stage}")]
    UnknownName {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
    },
    /// A known name of a model that is not supported.
    #[error("tensor `{name}` in the {stage}: {reason}")]
    Refused {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
        /// Why.
        reason: &'static str,
        /// What to do instead.
        needed: &'static str,
    },
    /// A parameter that a setting excludes.
    #[error("tensor `{name}` in the {stage}: the configuration excludes it ({reason})")]
    NotInModel {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
        /// The setting that excludes it.
        reason: &'static str,
    },
    /// Shards cannot be joined or a tensor cannot be split.
    #[error("extent {extent} does not divide into {tp_size} ranks with blocks {blocks:?}")]
    Indivisible {
        /// Extent of the joined tensor along the partition dimension.
        extent: usize,
        /// Number of ranks.
        tp_size: usize,
        /// Extents of the blocks that are partitioned one by one.
        blocks: Vec<usize>,
    },
    /// The tensors do not fit together.
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
}
