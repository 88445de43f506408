//! First-order correction where ranks' residual streams differ by token-independent offsets: the mean output of a
//! column-parallel layer over calibration tokens is made equal to that of the ranks.
//!
//! The mean output of rank r's rows is `W_r n̄_r + c_r`, with n̄_r the mean of that rank's own norm; that of the merge is
//! `W' n̄ + c'`. So `c'_r = c_r + W_r n̄_r − W' n̄`. A layer without bias after a LayerNorm takes the difference as a
//! rank-one term, as in [`super::fold`].

use super::MergeError;
use super::fold::{FoldSummary, dot, dot_ratio, joined, rank_of_rows};
use super::norms::{NormUnit, ReaderRoles};
use crate::config::{Architecture, Head};
use crate::partition::{ParamValue, PartitionError, Role, StageTensors};
use crate::tensor::HostTensor;

/// The norm whose readers are corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibratedNorm {
    /// Before the attention.
    Input,
    /// Before the MLP.
    Mlp,
    /// Before the head.
    Final,
}

/// Mean outputs of a norm over the calibration tokens.
#[derive(Debug, Clone, Copy)]
pub struct NormOutputMeans<'a> {
    /// In the unmerged model, one per rank.
    pub ranks: &'a [Vec<f64>],
    pub merged: &'a [f64],
}

/// Corrects, in `merged`, the layers that read a norm. Returns how far it changed weights; biases are not counted.
///
/// # Errors
/// Tensors that do not fit together.
pub fn correct(
    unmerged: &StageTensors,
    merged: &mut StageTensors,
    architecture: &Architecture,
    norm: CalibratedNorm,
    means: NormOutputMeans<'_>,
) -> Result<FoldSummary, MergeError> {
    let mut summary = FoldSummary::default();
    let gain_role = match norm {
        CalibratedNorm::Input => Role::InputNormGain,
        CalibratedNorm::Mlp => Role::MlpNormGain,
        CalibratedNorm::Final => Role::FinalNormGain,
    };
    // A row-parallel head has no rows of one rank, and no bias to take a constant.
    if norm == CalibratedNorm::Final && architecture.head.is_row_parallel() {
        return Ok(summary);
    }
    let units = NormUnit::of_stage(architecture, unmerged.id);
    let Some(unit) = units.into_iter().find(|unit| unit.gain == gain_role) else { return Ok(summary) };
    for &reader in unit.readers {
        let rank_one = correct_reader(unmerged, merged, architecture, unit, reader, means)
            .map_err(|source| MergeError::Fold { stage: unmerged.id, source })?;
        summary.max_rank_one = summary.max_rank_one.max(rank_one);
        summary.unties_head |= rank_one > 0.0 && reader.weight == Role::HeadWeight && architecture.head == Head::Tied;
    }
    Ok(summary)
}

/// Corrects one reader of a norm; returns the largest element of the rank-one term, 0 where a bias took the difference.
fn correct_reader(
    unmerged: &StageTensors,
    merged: &mut StageTensors,
    architecture: &Architecture,
    unit: NormUnit,
    reader: ReaderRoles,
    means: NormOutputMeans<'_>,
) -> Result<f64, PartitionError> {
    let (Some(own), Some(new)) = (joined(unmerged, reader.weight), joined(merged, reader.weight)) else {
        return Ok(0.0);
    };
    let Some(ranks) = rank_of_rows(architecture, reader.weight, unmerged.tp_size)? else { return Ok(0.0) };
    let (_, own_means) = own.map_rows(|index, row| dot(row, &means.ranks[ranks[index]]))?;
    let (_, new_means) = new.map_rows(|_, row| dot(row, means.merged))?;
    let differences: Vec<f64> = own_means.iter().zip(&new_means).map(|(own, new)| own - new).collect();
    if let Some((role, own_bias)) = reader.bias.and_then(|role| Some((role, joined(unmerged, role)?))) {
        let values: Vec<f64> =
            own_bias.to_f64()?.iter().zip(&differences).map(|(bias, change)| bias + change).collect();
        let corrected = HostTensor::from_f64(own_bias.dtype(), own_bias.shape().to_vec(), &values)?;
        replace(merged, role, corrected);
        return Ok(0.0);
    }
    let Some(gain) = merged.replicas(unit.gain).first().map(HostTensor::to_f64).transpose()? else { return Ok(0.0) };
    let sum = dot_ratio(means.merged, &gain);
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let usable = gain.iter().all(|&gain| gain != 0.0) && sum.abs() > 1e-3 * gain.len() as f64;
    // With an RMS norm, or a norm whose bias is near zero, no rank-one term makes a constant.
    if !usable || merged.replicas(unit.bias).is_empty() {
        return Ok(0.0);
    }
    let (corrected, _) = new.map_rows(|index, row| {
        for (value, gain) in row.iter_mut().zip(&gain) {
            *value += differences[index] / sum / gain;
        }
    })?;
    replace(merged, reader.weight, corrected);
    Ok(differences.iter().map(|difference| (difference / sum).abs()).fold(0.0, f64::max))
}

fn replace(stage: &mut StageTensors, role: Role, tensor: HostTensor) {
    if let Some(param) = stage.params.get_mut(&role) {
        param.value = ParamValue::Joined(tensor);
    }
}
