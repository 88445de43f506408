//! Folding: each rank's norm gain γ_r and bias β_r go into that rank's own rows of the layers that read the norm, so
//! that one common gain γ and bias β reproduce what every rank computed with its own.
//!
//! With the common normalised input x̂, rank r computes `W_r(γ_r⊙x̂ + β_r) + c_r`. For any γ without zeros and any β,
//! `W'_r = W_r·diag(γ_r/γ)` and `c'_r = c_r + W_r β_r − W'_r β` give the same. A layer without bias after a LayerNorm has
//! no c to absorb β_r; but there Σx̂ = 0, so adding `u_r(1/γ)ᵀ` to W'_r is invisible to x̂ and adds `u_r·Σ(β/γ)`:
//! `u_r = (W_r β_r − W_r·diag(γ_r/γ) β) / Σ(β/γ)`. RMS norms have no β. Arithmetic in float64, one rounding.

use serde::{Deserialize, Serialize};

use super::fold_choice::{best_gain, best_shift};
use super::norms::NormUnit;
use super::split_head::split_by_slices;
use crate::config::{Architecture, Head};
use crate::partition::{Param, ParamValue, PartitionError, PartitionTable, Role, StageTensors, rank_ranges};
use crate::tensor::{HostTensor, round, round_all};

/// What folding one norm changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FoldSummary {
    /// Largest |W'−W| over all readers.
    pub max_weight_change: f64,
    /// Largest |u| of the rank-one terms; 0 where none was needed.
    pub max_rank_one: f64,
    /// Whether a tied output head had to become a matrix of its own.
    pub unties_head: bool,
}

/// The parameters that folding one norm replaces, in one-rank form, and what changed.
#[derive(Debug, Clone)]
pub(super) struct Folded {
    pub params: Vec<(Role, HostTensor)>,
    pub summary: FoldSummary,
}

/// The replicas of a norm in float64: one gain and (for LayerNorm) one bias per rank.
#[derive(Debug)]
pub(super) struct Replicas {
    pub gains: Vec<Vec<f64>>,
    pub biases: Option<Vec<Vec<f64>>>,
}

impl Replicas {
    /// `width` elements each: the one gain of a scalenorm stands for all.
    fn read(stage: &StageTensors, unit: NormUnit, width: usize) -> Result<Self, PartitionError> {
        let spread = |values: Vec<f64>| if values.len() == 1 { vec![values[0]; width] } else { values };
        let read = |role| {
            let replicas = stage.replicas(role).iter().map(|replica| Ok(spread(replica.to_f64()?)));
            replicas.collect::<Result<Vec<_>, PartitionError>>()
        };
        let biases = read(unit.bias)?;
        Ok(Self { gains: read(unit.gain)?, biases: (!biases.is_empty()).then_some(biases) })
    }
}

/// A reader's joined weight, with the rank that each of its rows belongs to.
pub(super) struct Reader<'a> {
    pub weight: &'a HostTensor,
    pub ranks: Vec<usize>,
    bias: Option<(Role, &'a HostTensor)>,
    role: Role,
}

impl Reader<'_> {
    /// Whether the layer has a bias that can absorb a constant.
    pub(super) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }
}

/// Folds one norm whose replicas differ into its readers.
pub(super) fn fold(
    stage: &StageTensors,
    architecture: &Architecture,
    unit: NormUnit,
) -> Result<Folded, PartitionError> {
    if unit.gain == Role::FinalNormGain && architecture.head.is_row_parallel() {
        return split_by_slices(stage, unit);
    }
    let replicas = Replicas::read(stage, unit, architecture.hidden_size)?;
    let readers = unit
        .readers
        .iter()
        .filter_map(|&(weight, bias)| reader(stage, architecture, weight, bias))
        .collect::<Result<Vec<_>, _>>()?;
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
        for value in common.iter_mut() {
            *value = round(*value, dtype);
        }
    }

    let stored = &gain[..template.element_count().min(gain.len())];
    let mut params = vec![(unit.gain, HostTensor::from_f64(dtype, template.shape().to_vec(), stored)?)];
    if let Some(common) = &common_bias {
        params.push((unit.bias, HostTensor::from_f64(dtype, template.shape().to_vec(), common)?));
    }
    let unties_head = architecture.head == Head::Tied && unit.gain == Role::FinalNormGain;
    let mut summary = FoldSummary { max_weight_change: 0.0, max_rank_one: 0.0, unties_head };
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

/// What folding did to one row of a weight.
struct FoldedRow {
    /// What the layer's bias must gain.
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
    let folded = reader.weight.map_rows(|index, row| {
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
        let largest_change = changes.fold(0.0_f64, |largest, change| if change > largest { change } else { largest });
        row.copy_from_slice(&changed);
        let offset = match (own_bias, common_bias) {
            (Some(own), Some(bias)) => own - dot(row, bias),
            _ => 0.0,
        };
        FoldedRow { offset, rank_one, largest_change }
    })?;
    Ok(folded)
}

/// The reader of a role, unless the model has none.
fn reader<'a>(
    stage: &'a StageTensors,
    architecture: &Architecture,
    weight: Role,
    bias: Option<Role>,
) -> Option<Result<Reader<'a>, PartitionError>> {
    let joined = |role: Role| match stage.get(role) {
        Some(Param { value: ParamValue::Joined(tensor), .. }) => Some(tensor),
        _ => None,
    };
    let tensor = joined(weight)?;
    let ranks = rank_of_rows(architecture, weight, stage.tp_size)?;
    let bias = bias.and_then(|role| Some((role, joined(role)?)));
    Some(ranks.map(|ranks| Reader { weight: tensor, ranks, bias, role: weight }))
}

/// The rank that each row of a joined column-parallel weight belongs to.
pub(super) fn rank_of_rows(
    architecture: &Architecture,
    weight: Role,
    tp_size: usize,
) -> Option<Result<Vec<usize>, PartitionError>> {
    let partition = PartitionTable::new(architecture).partition(weight)?;
    let mut ranks = vec![0; partition.blocks.iter().sum()];
    for tp_rank in 0..tp_size {
        match rank_ranges(&partition, tp_size, tp_rank) {
            Ok(ranges) => ranges.into_iter().for_each(|range| ranks[range].fill(tp_rank)),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(ranks))
}

/// A gain of zero cannot be divided by; any other value serves, since the ratio γ_r/γ makes up for it.
pub(super) fn nonzero(gain: f64) -> f64 {
    if gain == 0.0 { 1.0 } else { gain }
}

pub(super) fn mean_of(vectors: &[Vec<f64>]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let count = vectors.len() as f64;
    let length = vectors.first().map_or(0, Vec::len);
    (0..length).map(|at| vectors.iter().map(|vector| vector[at]).sum::<f64>() / count).collect()
}

pub(super) fn ratio(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).collect()
}

/// In eight running sums, which one addition need not wait for the other in.
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (left, right) in left.iter().zip(right) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += left * right;
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f64>() + rest
}

/// Σ(numerator/denominator).
pub(super) fn dot_ratio(numerators: &[f64], denominators: &[f64]) -> f64 {
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).sum()
}
