//! The free choices of folding: which common gain loses least when the folded weights are rounded to the storage type,
//! and how far to shift the common bias so that the rank-one term stays small.

use super::operands::{Reader, Replicas};
use super::vectors::{dot, dot_ratio, largest, mean_magnitude, mean_of, not_far_below, ratio};
use crate::partition::PartitionError;
use crate::tensor::{round, to_f64};

/// Rows of each reader that the choice of the gain is judged by.
const SAMPLED_ROWS: usize = 128;

/// Shifts tried for the common bias, in units of the gain. A shift moves the norm's output by as much, so small ones
/// are preferred.
const SHIFTS: [f64; 9] = [0.0, 0.02, -0.02, 0.05, -0.05, 0.1, -0.1, 0.25, -0.25];

/// The smallest gain, in units of their mean magnitude, that a rank-one term is divided by.
const SMALLEST_GAIN: f64 = 1.0 / 8.0;

/// The common gain: of the mean and every rank's own, the one that changes the stored weights least.
pub(super) fn best_gain(replicas: &Replicas, readers: &[Reader<'_>]) -> Vec<f64> {
    let candidates = std::iter::once(mean_of(&replicas.gains)).chain(replicas.gains.iter().cloned());
    let largest = largest(&replicas.gains);
    let needs_rank_one = replicas.biases.is_some() && readers.iter().any(|reader| reader.bias.is_none());
    // A rank-one term u(1/γ)ᵀ would leave the range of float16 where γ is tiny: there γ is the mean magnitude.
    let typical = if needs_rank_one { mean_magnitude(&largest) } else { 0.0 };
    let mut best: Option<(f64, Vec<f64>)> = None;
    for candidate in candidates {
        let usable = candidate
            .iter()
            .zip(&largest)
            .map(|(&gain, &largest)| not_far_below(gain, largest))
            .map(|gain| if gain.abs() < typical * SMALLEST_GAIN { typical.copysign(gain) } else { gain });
        let candidate: Vec<f64> = usable.collect();
        let cost: f64 = readers.iter().map(|reader| rounding_cost(reader, replicas, &candidate)).sum();
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, candidate));
        }
    }
    best.map(|(_, gain)| gain).unwrap_or_default()
}

/// Squared difference between folded weights as stored and as they should be, over a sample of rows.
fn rounding_cost(reader: &Reader<'_>, replicas: &Replicas, gain: &[f64]) -> f64 {
    let dtype = reader.weight.dtype();
    let stored: Vec<f64> = gain.iter().map(|&value| round(value, dtype)).collect();
    let row_bytes = gain.len() * dtype.size();
    let rows = reader.ranks.len();
    let step = rows.div_ceil(SAMPLED_ROWS).max(1);
    let ratios: Vec<_> = replicas.gains.iter().map(|own| ratio(own, &stored)).collect();
    let mut cost = 0.0;
    for index in (0..rows).step_by(step) {
        let Ok(row) = to_f64(dtype, &reader.weight.bytes()[index * row_bytes..][..row_bytes]) else { return 0.0 };
        for (value, ratio) in row.iter().zip(&ratios[reader.ranks[index]]) {
            let exact = value * ratio;
            cost += (round(exact, dtype) - exact).powi(2);
        }
    }
    cost
}

/// How many times the common gain to add to the common bias β, so that Σ(β/γ) is well conditioned and the rank-one terms
/// of readers without bias stay small.
pub(super) fn best_shift(
    gains: &[Vec<f64>],
    biases: &[Vec<f64>],
    gain: &[f64],
    common_bias: &[f64],
    readers: &[Reader<'_>],
) -> Result<f64, PartitionError> {
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let width = gain.len() as f64;
    let sum = dot_ratio(common_bias, gain);
    let normalised = ratio(common_bias, gain);
    // For every row: W_r β_r − A_r(β/γ), and A_r·1, with A_r = W_r diag(γ_r). A shift s makes u = (first − s·second)/(Σ + s·width).
    let mut terms = Vec::new();
    for reader in readers.iter().filter(|reader| reader.bias.is_none()) {
        let (_, found) = reader.weight.map_rows(|index, row| {
            let tp_rank = reader.ranks[index];
            let own = dot(row, &biases[tp_rank]);
            let scaled: Vec<f64> = row.iter().zip(&gains[tp_rank]).map(|(value, gain)| value * gain).collect();
            (own - dot(&scaled, &normalised), scaled.iter().sum::<f64>())
        })?;
        terms.extend(found);
    }
    let cost = |shift: f64| {
        let denominator = sum + shift * width;
        let largest = terms.iter().map(|(first, second)| (first - shift * second).abs()).fold(0.0, f64::max);
        if largest == 0.0 {
            // Nothing to make up for, whatever the denominator.
            return 0.0;
        }
        if denominator.abs() < 1e-6 * width { f64::INFINITY } else { largest / denominator.abs() * (1.0 + shift.abs()) }
    };
    Ok(SHIFTS.into_iter().min_by(|&left, &right| cost(left).total_cmp(&cost(right))).unwrap_or(0.0))
}
