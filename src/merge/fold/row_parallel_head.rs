//! A row-parallel head reads slice r of rank r's final norm, so the merged norm takes each slice from its owner: exact,
//! and no weight changes. The one gain of a scalenorm has no slices: there the head's columns take up the difference.

use super::folded::{FoldSummary, Folded};
use super::operands::joined;
use super::vectors::{largest, mean_of, nonzero, not_far_below};
use crate::merge::norms::NormUnit;
use crate::partition::{PartitionError, Role, StageTensors};
use crate::tensor::{HostTensor, Piece, concatenate, round};

/// The merged final norm before a row-parallel head.
pub(super) fn fold_into_head(stage: &StageTensors, unit: NormUnit) -> Result<Folded, PartitionError> {
    if let [first, ..] = stage.replicas(unit.gain)
        && first.element_count() == 1
    {
        return scale_columns(stage, unit, first);
    }
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
    Ok(Folded { params, summary: FoldSummary::default() })
}

fn scale_columns(stage: &StageTensors, unit: NormUnit, first: &HostTensor) -> Result<Folded, PartitionError> {
    let gains = stage.replicas(unit.gain).iter().map(HostTensor::to_f64).collect::<Result<Vec<_>, _>>()?;
    let common = not_far_below(mean_of(&gains)[0], largest(&gains)[0]);
    let common = nonzero(round(common, first.dtype()));
    let mut params = vec![(unit.gain, HostTensor::from_f64(first.dtype(), first.shape().to_vec(), &[common])?)];
    let mut summary = FoldSummary::default();
    if let Some(head) = joined(stage, Role::HeadWeight) {
        let (scaled, changes) = head.map_rows(|_, row| {
            let width = row.len() / gains.len();
            let mut largest_change = 0.0_f64;
            for (at, value) in row.iter_mut().enumerate() {
                let new = round(*value * (gains[at / width][0] / common), head.dtype());
                largest_change = largest_change.max((new - *value).abs());
                *value = new;
            }
            largest_change
        })?;
        summary.max_weight_change = changes.into_iter().fold(0.0, f64::max);
        params.push((Role::HeadWeight, scaled));
    }
    Ok(Folded { params, summary })
}
