//! Folding a norm into the rows of the column-parallel layers that read it.

use super::choice::{best_gain, best_shift};
use super::folded::{FoldSummary, Folded};
use super::operands::{Reader, Replicas};
use super::row_parallel_head::fold_into_head;
use super::vectors::{dot, dot_ratio, mean_of, nonzero, ratio};
use crate::config::{Architecture, Head};
use crate::merge::norms::NormUnit;
use crate::partition::{PartitionError, Role, StageTensors};
use crate::tensor::{HostTensor, round, round_all};

/// Folds one norm whose replicas differ into its readers.
pub(in crate::merge) fn fold(
    stage: &StageTensors,
    architecture: &Architecture,
    unit: NormUnit,
) -> Result<Folded, PartitionError> {
    if unit.gain == Role::FinalNormGain && architecture.head.is_row_parallel() {
        return fold_into_head(stage, unit);
    }
    let replicas = Replicas::read(stage, unit, architecture.hidden_size)?;
    let readers = unit.readers.iter().filter_map(|&roles| Reader::find(stage, architecture, roles).transpose());
    let readers = readers.collect::<Result<Vec<_>, _>>()?;
    let template = &stage.replicas(unit.gain)[0];
    let dtype = template.dtype();
    // The stored gain, rounded, is what the ratios are taken to: its rounding costs nothing.
    let gain: Vec<f64> =
        best_gain(&replicas, &readers).into_iter().map(|value| round(value, dtype)).map(nonzero).collect();
    let mut common_bias = replicas.biases.as_ref().map(|biases| mean_of(biases));
    if let (Some(biases), Some(common)) = (&replicas.biases, &mut common_bias)
        && readers.iter().any(|reader| reader.bias.is_none())
    {
        let shift = best_shift(&replicas.gains, biases, &gain, common, &readers)?;
        for (value, gain) in common.iter_mut().zip(&gain) {
            *value += shift * gain;
        }
    }
    if let Some(common) = &mut common_bias {
        round_all(common, dtype);
    }

    let stored = &gain[..template.element_count().min(gain.len())];
    let mut params = vec![(unit.gain, HostTensor::from_f64(dtype, template.shape().to_vec(), stored)?)];
    if let Some(common) = &common_bias {
        params.push((unit.bias, HostTensor::from_f64(dtype, template.shape().to_vec(), common)?));
    }
    let unties_head = architecture.head == Head::Tied && unit.gain == Role::FinalNormGain;
    let mut summary = FoldSummary { unties_head, ..FoldSummary::default() };
    for reader in &readers {
        let (weight, rows) = fold_reader(reader, &replicas, &gain, common_bias.as_deref())?;
        for row in &rows {
            summary.max_weight_change = summary.max_weight_change.max(row.largest_change);
            summary.max_rank_one = summary.max_rank_one.max(row.rank_one.abs());
        }
        if let (Some((role, bias)), Some(_)) = (reader.bias, &common_bias) {
            let shifted: Vec<f64> = bias.to_f64()?.iter().zip(&rows).map(|(value, row)| value + row.offset).collect();
            params.push((role, HostTensor::from_f64(bias.dtype(), bias.shape().to_vec(), &shifted)?));
        }
        params.push((reader.role, weight));
    }
    Ok(Folded { params, summary })
}

/// The change of one row of a weight.
struct FoldedRow {
    /// To be added to the layer's bias.
    offset: f64,
    /// The row's u.
    rank_one: f64,
    largest_change: f64,
}

fn fold_reader(
    reader: &Reader<'_>,
    replicas: &Replicas,
    gain: &[f64],
    common_bias: Option<&[f64]>,
) -> Result<(HostTensor, Vec<FoldedRow>), PartitionError> {
    let dtype = reader.weight.dtype();
    let ratios: Vec<Vec<f64>> = replicas.gains.iter().map(|own| ratio(own, gain)).collect();
    // Σ(β/γ), for readers without a bias.
    let sum = common_bias.filter(|_| reader.bias.is_none()).map(|bias| dot_ratio(bias, gain));
    Ok(reader.weight.map_rows(|index, row| {
        let tp_rank = reader.ranks[index];
        let own_bias = replicas.biases.as_ref().map(|biases| dot(row, &biases[tp_rank]));
        let scaled: Vec<f64> = row.iter().zip(&ratios[tp_rank]).map(|(value, ratio)| value * ratio).collect();
        let rank_one = match (own_bias, common_bias, sum) {
            (Some(own), Some(bias), Some(sum)) if sum != 0.0 => (own - dot(&scaled, bias)) / sum,
            _ => 0.0,
        };
        let mut changed = scaled;
        if rank_one != 0.0 {
            changed.iter_mut().zip(gain).for_each(|(value, gain)| *value += rank_one / gain);
        }
        // Rounded here, so that the bias makes up for the rounding as far as it meets β.
        round_all(&mut changed, dtype);
        let changes = row.iter().zip(&changed).map(|(old, new)| (new - old).abs());
        // A comparison vectorises; `f64::max` would not.
        let largest_change = changes.fold(0.0_f64, |largest, change| if change > largest { change } else { largest });
        row.copy_from_slice(&changed);
        let offset = match (own_bias, common_bias) {
            (Some(own), Some(bias)) => own - dot(row, bias),
            _ => 0.0,
        };
        FoldedRow { offset, rank_one, largest_change }
    })?)
}
