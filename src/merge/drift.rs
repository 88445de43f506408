//! Drift: how far the replicas of a parameter have strayed from each other. Ranks begin with the same values and, bit for
//! bit, should keep them; low precision and reductions in another order let them part. Computed in float64.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::partition::{Kind, Param, StageId};
use crate::tensor::{DType, HostTensor, TensorError};

/// How far the replicas of one parameter differ. Where there are more than two ranks, every pair of them counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Drift {
    /// Whether all ranks hold the same bits. Zeros of different sign are equal values and different bits.
    pub bit_identical: bool,
    /// Largest absolute difference of an element between two ranks.
    pub max_abs: f64,
    /// Mean absolute difference over all elements and pairs of ranks.
    pub mean_abs: f64,
    /// Root mean square of the difference, over all elements and pairs of ranks, divided by the root mean square of the
    /// values; 0 where all values are 0.
    pub relative: f64,
    /// Largest number of steps from a value to its replica through the numbers that the storage type can hold (units in
    /// the last place).
    pub max_ulps: u64,
    /// Smallest cosine between the replicas of two ranks; between a vector of zeros and another one it is 0, between two
    /// vectors of zeros 1.
    pub min_cosine: f64,
    /// The two ranks between which `max_abs` was found; absent where all ranks hold the same bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_different_ranks: Option<[usize; 2]>,
}

/// The drift of one parameter of one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ParamDrift {
    /// The stage.
    pub stage: StageId,
    /// Name of the parameter inside its layer file.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Whether the model uses it; drift of what it does not use costs nothing.
    pub used: bool,
    /// How far its replicas differ.
    #[serde(flatten)]
    pub drift: Drift,
}

impl ParamDrift {
    /// The drift of a replicated parameter.
    ///
    /// # Errors
    /// Replicas that differ in type or shape, or hold integers.
    pub fn of(stage: StageId, param: &Param, used: bool) -> Result<Self, TensorError> {
        let drift = Drift::between(param.value.tensors())?;
        Ok(Self { stage, name: param.name.clone(), kind: param.kind, used, drift })
    }
}

impl Drift {
    /// Where all ranks agree.
    const NONE: Self = Self {
        bit_identical: true,
        max_abs: 0.0,
        mean_abs: 0.0,
        relative: 0.0,
        max_ulps: 0,
        min_cosine: 1.0,
        most_different_ranks: None,
    };

    /// Compares replicas, given in rank order, of finite values. Every number of the result is finite.
    ///
    /// # Errors
    /// Replicas that differ in type or shape, or hold integers.
    pub fn between(replicas: &[HostTensor]) -> Result<Self, TensorError> {
        let Some(first) = replicas.first() else { return Ok(Self::NONE) };
        for other in replicas {
            first.check_same_form(other)?;
        }
        if replicas.iter().all(|replica| replica.same_bits(first)) {
            return Ok(Self::NONE);
        }
        let vectors = replicas.iter().map(HostTensor::to_f64).collect::<Result<Vec<_>, _>>()?;
        let largest = vectors.iter().flatten().fold(0.0_f64, |max, value| max.max(value.abs()));
        let scale = power_of_two_below(largest);
        let squares: Vec<f64> = vectors.iter().map(|vector| scaled_square_sum(vector, scale)).collect();

        let mut drift = Self { bit_identical: false, ..Self::NONE };
        let (mut total, mut total_squares, mut pair_count) = (0.0, 0.0, 0_usize);
        for (second, other) in vectors.iter().enumerate() {
            for (first, one) in vectors[..second].iter().enumerate() {
                let pair = compare(one, other, scale, replicas[0].dtype());
                total += pair.scaled_sum;
                total_squares += pair.scaled_squares;
                pair_count += 1;
                let is_largest = drift.most_different_ranks.is_none() || pair.max_abs > drift.max_abs;
                if is_largest && !replicas[first].same_bits(&replicas[second]) {
                    drift.most_different_ranks = Some([first, second]);
                }
                drift.max_abs = drift.max_abs.max(pair.max_abs);
                drift.max_ulps = drift.max_ulps.max(pair.max_ulps);
                drift.min_cosine = drift.min_cosine.min(cosine(pair.scaled_product, squares[first], squares[second]));
            }
        }
        let compared = to_f64(pair_count * first.element_count());
        let held = to_f64(replicas.len() * first.element_count());
        drift.mean_abs = (total / compared * scale).min(f64::MAX);
        let value_squares: f64 = squares.iter().sum();
        drift.relative =
            if value_squares > 0.0 { (total_squares / compared / (value_squares / held)).sqrt() } else { 0.0 };
        Ok(drift)
    }
}

/// Sums over the elements of two replicas, all values divided by the scale.
struct Pair {
    max_abs: f64,
    max_ulps: u64,
    scaled_sum: f64,
    scaled_squares: f64,
    scaled_product: f64,
}

fn scaled_square_sum(values: &[f64], scale: f64) -> f64 {
    values.iter().map(|value| (value / scale).powi(2)).sum()
}

fn compare(one: &[f64], other: &[f64], scale: f64, dtype: DType) -> Pair {
    let mut pair = Pair { max_abs: 0.0, max_ulps: 0, scaled_sum: 0.0, scaled_squares: 0.0, scaled_product: 0.0 };
    for (&one, &other) in one.iter().zip(other) {
        // Two float64 of different sign can be further apart than float64 reaches.
        pair.max_abs = pair.max_abs.max((one - other).abs().min(f64::MAX));
        pair.max_ulps = pair.max_ulps.max(dtype.steps_between(one, other));
        let (one, other) = (one / scale, other / scale);
        pair.scaled_sum += (one - other).abs();
        pair.scaled_squares += (one - other).powi(2);
        pair.scaled_product += one * other;
    }
    pair
}

/// The power of two at or below a number: dividing by it is exact and keeps squares within reach.
fn power_of_two_below(value: f64) -> f64 {
    const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
    f64::from_bits(value.to_bits() & EXPONENT).max(f64::MIN_POSITIVE)
}

fn cosine(product: f64, one_squared: f64, other_squared: f64) -> f64 {
    let norms = (one_squared * other_squared).sqrt();
    if norms > 0.0 {
        return (product / norms).clamp(-1.0, 1.0);
    }
    f64::from(one_squared.total_cmp(&other_squared).is_eq())
}

#[expect(clippy::cast_precision_loss, reason = "a count of elements in memory")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
