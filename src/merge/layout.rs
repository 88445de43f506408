//! Stages of two models in one layout.

use crate::config::Architecture;
use crate::partition::{PartitionError, StageTensors, canonical};
use crate::tensor::{HostTensor, Piece, TensorError, concatenate};

/// A stage and the architecture that decides the layout of its matrices.
#[derive(Debug, Clone, Copy)]
pub struct ModelStage<'a> {
    pub architecture: &'a Architecture,
    pub tensors: &'a StageTensors,
}

impl ModelStage<'_> {
    /// Both stages with their matrices laid out alike.
    pub(super) fn in_one_layout(self, other: Self) -> Result<(StageTensors, StageTensors), PartitionError> {
        let (own, their) = (self.architecture, other.architecture);
        if own.qkv == their.qkv && own.mlp_matrices == their.mlp_matrices {
            return Ok((self.tensors.clone(), other.tensors.clone()));
        }
        Ok((canonical(own, self.tensors)?, canonical(their, other.tensors)?))
    }
}

pub(super) fn common_rows(left: &HostTensor, right: &HostTensor) -> Result<(HostTensor, HostTensor), TensorError> {
    let rows = |tensor: &HostTensor| tensor.shape().first().copied().unwrap_or(0);
    let common = rows(left).min(rows(right));
    let first = |tensor| concatenate(0, &[Piece { tensor, range: 0..common }]);
    Ok((first(left)?, first(right)?))
}
