//! Fingerprints of tensors, to tell a layer's parameter from another layer's when its values are no longer in memory.

use rayon::prelude::*;

use crate::tensor::{DType, HostTensor, TensorError, to_f64};

/// Projections of a tensor onto directions that are drawn once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fingerprint {
    projections: [f64; COUNT],
    squared_norm: f64,
}

const COUNT: usize = 4;

/// Elements after which the directions repeat, but for a factor.
const PERIOD: usize = 1 << 12;

/// How many times the rounding of the whole tensor the projections of equal ones may differ by: each is the sum of as many
/// roundings of either sign as there are elements.
const ROUNDINGS: f64 = 8.0;

impl Fingerprint {
    /// # Errors
    /// Integers.
    pub(super) fn of(tensor: &HostTensor) -> Result<Self, TensorError> {
        let dtype = tensor.dtype();
        let directions = directions();
        // In order, so that sums do not depend on the number of threads.
        let parts: Vec<Self> = tensor
            .bytes()
            .par_chunks(PERIOD * dtype.size())
            .enumerate()
            .map(|(at, bytes)| {
                let values = to_f64(dtype, bytes)?;
                let projections = directions.each_ref().map(|direction| factor(at) * dot(&values, direction));
                Ok(Self { projections, squared_norm: dot(&values, &values) })
            })
            .collect::<Result<_, TensorError>>()?;
        let zero = Self { projections: [0.0; COUNT], squared_norm: 0.0 };
        Ok(parts.into_iter().fold(zero, |mut total, part| {
            total.projections.iter_mut().zip(part.projections).for_each(|(total, part)| *total += part);
            total.squared_norm += part.squared_norm;
            total
        }))
    }

    /// Whether both are of the same values, to the rounding of `dtype`.
    pub(super) fn agrees(&self, other: &Self, dtype: DType) -> bool {
        let tolerance = ROUNDINGS * dtype.epsilon() * self.squared_norm.max(other.squared_norm).sqrt();
        let near = |(one, other): (&f64, &f64)| (one - other).abs() <= tolerance;
        self.projections.iter().zip(&other.projections).all(near)
    }
}

fn dot(values: &[f64], direction: &[f64]) -> f64 {
    crate::merge::fold::dot(
        &values[..values.len().min(direction.len())],
        &direction[..values.len().min(direction.len())],
    )
}

/// Of −1 and 1.
fn directions() -> [Vec<f64>; COUNT] {
    let mut state = 0;
    [(); COUNT].map(|()| {
        let bits = (0..PERIOD).map(|_| splitmix(&mut state) & 1 == 0);
        bits.map(|positive| if positive { 1.0 } else { -1.0 }).collect()
    })
}

/// Between ½ and 1, another for each chunk: chunks that are exchanged do not go unseen.
#[expect(clippy::cast_precision_loss, reason = "a random number of 52 bits")]
fn factor(chunk: usize) -> f64 {
    let mut state = chunk as u64 ^ 0x5851_f42d_4c95_7f2d;
    0.5 + (splitmix(&mut state) >> 12) as f64 / (1_u64 << 53) as f64
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn equal_to_rounding_and_nothing_else() {
        let values: Vec<f64> = (0..3 * PERIOD + 5).map(|at| (at as f64 * 0.7).sin() * 0.02).collect();
        let tensor = |values: &[f64]| HostTensor::from_f64(DType::F32, vec![values.len()], values).unwrap();
        let own = Fingerprint::of(&tensor(&values)).unwrap();
        let rounded = Fingerprint::of(&tensor(&values).cast(DType::BF16).unwrap()).unwrap();
        assert!(own.agrees(&own, DType::F32) && own.agrees(&rounded, DType::BF16) && !own.agrees(&rounded, DType::F32));
        let mut exchanged = values.clone();
        exchanged.rotate_left(PERIOD);
        let mut one = values;
        one[7] += 0.001;
        for other in [exchanged, one] {
            assert!(!own.agrees(&Fingerprint::of(&tensor(&other)).unwrap(), DType::F32));
        }
    }
}
