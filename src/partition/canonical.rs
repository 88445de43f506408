//! One layout for all, in which models whose files order the same matrices differently can be compared.

use super::error::PartitionError;
use super::kinds::Role;
use super::stage::{Param, ParamValue, StageTensors};
use crate::config::{Architecture, MlpMatrices, QkvLayout};
use crate::tensor::{HostTensor, Piece, concatenate};

/// The stage with queries, keys and values in blocks `[Q | K | V]` and the MLP's first layer as one matrix
/// `[up | gate]`, whatever the architecture has. Copies bytes; no arithmetic.
pub(crate) fn canonical(architecture: &Architecture, stage: &StageTensors) -> Result<StageTensors, PartitionError> {
    let mut canonical = stage.clone();
    for role in [Role::QkvWeight, Role::QkvBias] {
        reorder(&mut canonical, role, &qkv_ranges(architecture))?;
    }
    match architecture.mlp_matrices {
        MlpMatrices::TransformerEngine if architecture.gated => {
            let inner = architecture.mlp_inner_size;
            for role in [Role::MlpInputWeight, Role::MlpInputBias] {
                reorder(&mut canonical, role, &[inner..2 * inner, 0..inner])?;
            }
        }
        MlpMatrices::UpGate | MlpMatrices::TransformerEngine => {}
        MlpMatrices::Separate => {
            let parts = (canonical.params.remove(&Role::MlpUpWeight), canonical.params.remove(&Role::MlpGateWeight));
            if let (Some(up), Some(gate)) = parts {
                let tensors: Vec<_> = up.value.tensors().iter().chain(gate.value.tensors()).collect();
                let joined = concatenate(0, &tensors.into_iter().map(whole).collect::<Vec<_>>())?;
                let name = format!("{} and {}", up.name, gate.name);
                let param = Param { name, kind: up.kind, value: ParamValue::Joined(joined) };
                canonical.params.insert(Role::MlpInputWeight, param);
            }
        }
    }
    Ok(canonical)
}

fn whole(tensor: &HostTensor) -> Piece<'_> {
    Piece { tensor, range: 0..tensor.shape().first().copied().unwrap_or(0) }
}

/// Rows of the matrix, in the order of `[Q | K | V]`.
fn qkv_ranges(architecture: &Architecture) -> Vec<std::ops::Range<usize>> {
    let (heads, size) = (architecture.head_count, architecture.head_size);
    // Keys, and values, behind each query head.
    let share = match architecture.qkv {
        QkvLayout::Blocks => return Vec::new(),
        QkvLayout::Interleaved => size,
        QkvLayout::InterleavedGroups => size * architecture.kv_head_count / heads,
    };
    let stride = size + 2 * share;
    let parts = [(0, size), (size, share), (size + share, share)];
    parts
        .into_iter()
        .flat_map(|(start, length)| (0..heads).map(move |head| head * stride + start..head * stride + start + length))
        .collect()
}

/// Puts these rows of a joined parameter one behind another; no rows leave it as it is.
fn reorder(stage: &mut StageTensors, role: Role, rows: &[std::ops::Range<usize>]) -> Result<(), PartitionError> {
    let Some(param) = stage.params.get_mut(&role) else { return Ok(()) };
    if let (ParamValue::Joined(tensor), false) = (&param.value, rows.is_empty()) {
        let pieces: Vec<_> = rows.iter().map(|range| Piece { tensor, range: range.clone() }).collect();
        param.value = ParamValue::Joined(concatenate(0, &pieces)?);
    }
    Ok(())
}
