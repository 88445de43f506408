//! First-order correction where ranks' residual streams differ by token-independent offsets: what a column-parallel layer
//! puts out on average over calibration tokens is made equal to what the ranks put out.
//!
//! Rank r's rows put out `W_r n̄_r + c_r` on average, with n̄_r the mean of that rank's own norm; the merge puts out
//! `W' n̄ + c'`. So `c'_r = c_r + W_r n̄_r − W' n̄`. A layer without bias after a LayerNorm takes the difference as a
//! rank-one term, as in [`super::fold`].

use super::fold::{dot, dot_ratio, rank_of_rows};
use super::norms::NormUnit;
use super::{FoldSummary, MergeError};
use crate::config::{Architecture, Head};
use crate::partition::{ParamValue, PartitionError, Role, StageTensors};
use crate::tensor::HostTensor;

/// Which norm of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalibratedNorm {
    /// Before the attention.
    Input,
    /// Before the MLP.
    Mlp,
    /// Before the head.
    Final,
}

/// Corrects, in `merged`, the layers that read a norm. `rank_means` are the norm's mean outputs in the unmerged model,
/// one per rank; `merged_mean` is its mean output in the merged one.
///
/// Returns what the correction did to weights; biases are not counted.
///
/// # Errors
/// Tensors that do not fit together.
pub fn correct(
    unmerged: &StageTensors,
    merged: &mut StageTensors,
    architecture: &Architecture,
    norm: CalibratedNorm,
    rank_means: &[Vec<f64>],
    merged_mean: &[f64],
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
    let Some(unit) = NormUnit::of_stage(architecture, unmerged.id).into_iter().find(|unit| unit.gain == gain_role)
    else {
        return Ok(summary);
    };
    for &(weight, bias) in unit.readers {
        let rank_one = correct_reader(unmerged, merged, architecture, unit, (weight, bias), rank_means, merged_mean)
            .map_err(|source| MergeError::Fold { stage: unmerged.id, source })?;
        summary.max_rank_one = summary.max_rank_one.max(rank_one);
        summary.unties_head |= rank_one > 0.0 && weight == Role::HeadWeight && architecture.head == Head::Tied;
    }
    Ok(summary)
}

/// Corrects one reader of a norm; returns the largest element of the rank-one term, 0 where a bias took the difference.
fn correct_reader(
    unmerged: &StageTensors,
    merged: &mut StageTensors,
    architecture: &Architecture,
    unit: NormUnit,
    (weight, bias): (Role, Option<Role>),
    rank_means: &[Vec<f64>],
    merged_mean: &[f64],
) -> Result<f64, PartitionError> {
    let (Some(own), Some(new)) = (joined(unmerged, weight).cloned(), joined(merged, weight).cloned()) else {
        return Ok(0.0);
    };
    let Some(ranks) = rank_of_rows(architecture, weight, unmerged.tp_size) else { return Ok(0.0) };
    let ranks = ranks?;
    let (_, own_means) = own.map_rows(|index, row| dot(row, &rank_means[ranks[index]]))?;
    let (_, new_means) = new.map_rows(|_, row| dot(row, merged_mean))?;
    let differences: Vec<f64> = own_means.iter().zip(&new_means).map(|(own, new)| own - new).collect();
    if let Some((role, own_bias)) = bias.and_then(|role| Some((role, joined(unmerged, role)?))) {
        let values: Vec<f64> =
            own_bias.to_f64()?.iter().zip(&differences).map(|(bias, change)| bias + change).collect();
        let corrected = HostTensor::from_f64(own_bias.dtype(), own_bias.shape().to_vec(), &values)?;
        replace(merged, role, corrected);
        return Ok(0.0);
    }
    let Some(gain) = merged.replicas(unit.gain).first().map(HostTensor::to_f64).transpose()? else { return Ok(0.0) };
    let reach = dot_ratio(merged_mean, &gain);
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let usable = gain.iter().all(|&gain| gain != 0.0) && reach.abs() > 1e-3 * gain.len() as f64;
    // RMS norms and norms without a bias of note give a constant nowhere to go.
    if !usable || merged.replicas(unit.bias).is_empty() {
        return Ok(0.0);
    }
    let (corrected, _) = new.map_rows(|index, row| {
        for (value, gain) in row.iter_mut().zip(&gain) {
            *value += differences[index] / reach / gain;
        }
    })?;
    replace(merged, weight, corrected);
    Ok(differences.iter().map(|difference| (difference / reach).abs()).fold(0.0, f64::max))
}

fn joined(stage: &StageTensors, role: Role) -> Option<&HostTensor> {
    match stage.get(role).map(|param| &param.value) {
        Some(ParamValue::Joined(tensor)) => Some(tensor),
        _ => None,
    }
}

fn replace(stage: &mut StageTensors, role: Role, tensor: HostTensor) {
    if let Some(param) = stage.params.get_mut(&role) {
        param.value = ParamValue::Joined(tensor);
    }
}
