//! How far two tensors are from each other, element by element, in float64 and without a copy of either.

use rayon::prelude::*;

use super::host_tensor::to_f64;
use super::{DType, HostTensor, TensorError, round_to_bf16, round_to_f16};

/// Elements that are decoded at once.
const CHUNK: usize = 1 << 16;

/// How far two tensors of one shape are from each other.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Difference {
    /// Elements compared.
    pub count: u64,
    /// Elements whose values differ.
    pub differing: u64,
    /// Largest |a − b|.
    pub max_abs: f64,
    /// Σ|a − b|.
    pub sum_abs: f64,
    /// Σ(a − b)².
    pub squared: f64,
    /// Σa².
    pub squared_norm: f64,
    /// Most steps of the coarser of the two types between the elements, both rounded to it.
    pub max_ulps: u64,
}

impl Difference {
    #[expect(clippy::cast_precision_loss, reason = "a count of elements")]
    pub fn mean_abs(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_abs / self.count as f64 }
    }

    /// √(Σ(a − b)² / Σa²); 0 where both are zero.
    pub fn relative(&self) -> f64 {
        match (self.squared, self.squared_norm) {
            (0.0, _) => 0.0,
            (_, 0.0) => f64::INFINITY,
            (squared, norm) => (squared / norm).sqrt(),
        }
    }

    /// Of both sets of elements together.
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            differing: self.differing + other.differing,
            max_abs: self.max_abs.max(other.max_abs),
            sum_abs: self.sum_abs + other.sum_abs,
            squared: self.squared + other.squared,
            squared_norm: self.squared_norm + other.squared_norm,
            max_ulps: self.max_ulps.max(other.max_ulps),
        }
    }
}

/// Compares two tensors of one shape, whatever their types.
///
/// # Errors
/// Tensors of different shape, or integers.
pub fn difference(left: &HostTensor, right: &HostTensor) -> Result<Difference, TensorError> {
    if left.shape != right.shape {
        left.check_same_form(right)?;
    }
    let steps = if left.dtype.significant_bits() <= right.dtype.significant_bits() { left.dtype } else { right.dtype };
    let chunks =
        left.bytes().par_chunks(CHUNK * left.dtype.size()).zip(right.bytes().par_chunks(CHUNK * right.dtype.size()));
    // In order, so that sums do not depend on the number of threads.
    let parts: Vec<_> = chunks
        .map(|(own, other)| {
            let mut part = Difference::default();
            for (a, b) in to_f64(left.dtype, own)?.iter().zip(to_f64(right.dtype, other)?) {
                part.add(*a, b, steps);
            }
            Ok(part)
        })
        .collect::<Result<_, TensorError>>()?;
    Ok(parts.into_iter().fold(Difference::default(), Difference::and))
}

impl Difference {
    fn add(&mut self, a: f64, b: f64, steps: DType) {
        let distance = (a - b).abs();
        self.count += 1;
        self.squared_norm += a * a;
        if distance > 0.0 {
            self.differing += 1;
            self.max_abs = self.max_abs.max(distance);
            self.sum_abs += distance;
            self.squared += distance * distance;
            self.max_ulps = self.max_ulps.max(steps.steps_between(a, b));
        }
    }
}

impl DType {
    /// Bits of precision of a floating-point type; 0 for integers.
    pub(super) fn significant_bits(self) -> u32 {
        match self {
            Self::BF16 => 8,
            Self::F16 => 11,
            Self::F32 => 24,
            Self::F64 => 53,
            Self::U8 | Self::I8 | Self::I16 | Self::I32 | Self::I64 => 0,
        }
    }

    /// Steps from one value to the other through the numbers of this type, both rounded to it (units in the last place).
    pub(crate) fn steps_between(self, one: f64, other: f64) -> u64 {
        self.ordinal(one).abs_diff(self.ordinal(other))
    }

    /// Neighbours differ by one, both zeros are 0.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the type is what is meant")]
    fn ordinal(self, value: f64) -> i64 {
        let magnitude = match self {
            Self::F16 => i64::from(round_to_f16(value).to_bits() & 0x7fff),
            Self::BF16 => i64::from(round_to_bf16(value).to_bits() & 0x7fff),
            Self::F32 => i64::from((value as f32).to_bits() & 0x7fff_ffff),
            _ => (value.to_bits() & (u64::MAX >> 1)).cast_signed(),
        };
        if value.is_sign_negative() { -magnitude } else { magnitude }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
mod tests {
    use super::*;

    fn tensor(dtype: DType, values: &[f64]) -> HostTensor {
        HostTensor::from_f64(dtype, vec![values.len()], values).unwrap()
    }

    #[test]
    fn a_difference_worked_by_hand() {
        let found =
            difference(&tensor(DType::F32, &[1.0, -2.0, 0.0]), &tensor(DType::F32, &[1.0, -1.5, -0.0])).unwrap();
        assert_eq!((found.count, found.differing, found.max_abs, found.sum_abs), (3, 1, 0.5, 0.5));
        assert_eq!((found.squared, found.squared_norm), (0.25, 5.0));
        assert_eq!(found.relative(), 0.05_f64.sqrt());
        // Between 1.5 and 2 lie half of the 2^23 numbers from 1 to 2.
        assert_eq!(found.max_ulps, 1 << 22);
    }

    #[test]
    fn neighbours_are_one_step_apart_in_every_type() {
        let neighbours = [
            (DType::F64, 1.0 + f64::EPSILON),
            (DType::F32, 1.0 + f64::from(f32::EPSILON)),
            (DType::F16, 1.0 + 1.0 / 1024.0),
            (DType::BF16, 1.0 + 1.0 / 128.0),
        ];
        for (dtype, next) in neighbours {
            for sign in [1.0, -1.0] {
                let found = difference(&tensor(dtype, &[sign]), &tensor(dtype, &[sign * next])).unwrap();
                assert_eq!(found.max_ulps, 1, "{dtype}");
            }
        }
        // Across zero: the smallest float16 on either side.
        let tiny = 2.0_f64.powi(-24);
        assert_eq!(difference(&tensor(DType::F16, &[tiny]), &tensor(DType::F16, &[-tiny])).unwrap().max_ulps, 2);
    }

    #[test]
    fn steps_are_those_of_the_coarser_type() {
        let found = difference(&tensor(DType::F16, &[1.0]), &tensor(DType::F32, &[1.0 + 1e-6])).unwrap();
        assert_eq!((found.differing, found.max_ulps), (1, 0));
    }

    #[test]
    fn what_cannot_be_compared() {
        assert!(difference(&tensor(DType::F32, &[1.0]), &tensor(DType::F32, &[1.0, 2.0])).is_err());
        let integers = HostTensor::new(DType::U8, vec![1], vec![1]).unwrap();
        assert!(difference(&integers, &integers).is_err());
    }

    #[test]
    fn long_tensors_are_compared_to_their_end() {
        let mut values = vec![1.0; CHUNK + 3];
        let left = tensor(DType::BF16, &values);
        values[CHUNK + 2] = 3.0;
        let found = difference(&left, &tensor(DType::BF16, &values)).unwrap();
        assert_eq!((found.count, found.differing, found.max_abs), (CHUNK as u64 + 3, 1, 2.0));
    }
}
