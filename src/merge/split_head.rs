//! A row-parallel head reads slice r of rank r's final norm, so the merged norm takes each slice from its owner: exact,
//! and no weight changes.

use super::fold::{FoldSummary, Folded};
use super::norms::NormUnit;
use crate::partition::{PartitionError, Role, StageTensors};
use crate::tensor::{HostTensor, Piece, concatenate};

/// The merged final norm before a row-parallel head.
pub(super) fn split_by_slices(stage: &StageTensors, unit: NormUnit) -> Result<Folded, PartitionError> {
    let slices = |role: Role| -> Result<Option<(Role, HostTensor)>, PartitionError> {
        let replicas = stage.replicas(role);
        let Some(first) = replicas.first() else { return Ok(None) };
        let width = first.element_count() / replicas.len();
        let pieces: Vec<_> = replicas
            .iter()
            .enumerate()
            .map(|(tp_rank, tensor)| Piece { tensor, range: tp_rank * width..(tp_rank + 1) * width })
            .collect();
        Ok(Some((role, concatenate(0, &pieces)?)))
    };
    let params = slices(unit.gain)?.into_iter().chain(slices(unit.bias)?).collect();
    Ok(Folded { params, summary: FoldSummary { max_weight_change: 0.0, max_rank_one: 0.0, unties_head: false } })
}
