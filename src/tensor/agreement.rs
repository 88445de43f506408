//! Whether the values of one tensor are another's but for rounding: element by element, each by its own magnitude, so that a
//! few elements that are off do not hide in the norm of the rest.

use rayon::prelude::*;

use super::host_tensor::to_f64;
use super::{DType, HostTensor, TensorError, round};

/// Elements that are decoded at once.
const CHUNK: usize = 1 << 14;

/// Types whose rounding may explain a difference, the finest first.
const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// How closely a tensor agrees with the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The type whose rounding explains all differences: no element is further off than one step of it. None: all values
    /// are equal.
    pub rounding: Option<DType>,
    /// Whether every element is the nearest to the expected one that the type has.
    pub nearest: bool,
}

impl Agreement {
    const EQUAL: Self = Self { rounding: None, nearest: true };

    /// Of both tensors together.
    pub(crate) fn and(self, other: Self) -> Self {
        let rounding = match (self.rounding, other.rounding) {
            (Some(one), Some(other)) => Some(one.coarser(other)),
            (one, other) => one.or(other),
        };
        Self { rounding, nearest: self.nearest && other.nearest }
    }
}

/// What holds of all elements so far: a bit for each of [`TYPES`].
#[derive(Debug, Clone, Copy)]
struct Seen {
    equal: bool,
    within: [bool; 3],
    nearest: [bool; 3],
}

/// Why elements need not be looked at any further.
pub(super) enum Stop {
    Apart,
    Failed(TensorError),
}

/// How closely `found` agrees with `expected`; `None` where rounding to no type explains a difference, or shapes differ.
/// `scale` has the magnitude, element by element, of the numbers that the expected one was computed from, where cancelling
/// may have left less.
///
/// # Errors
/// Integers.
pub fn agreement(
    expected: &HostTensor,
    found: &HostTensor,
    scale: Option<&[f64]>,
) -> Result<Option<Agreement>, TensorError> {
    if expected.shape() != found.shape() {
        return Ok(None);
    }
    if expected.same_bits(found) || (expected.dtype() != found.dtype() && rounded(expected, found)?) {
        let lossy = found.dtype().is_coarser_than(expected.dtype()) && !rounded(found, expected)?;
        return Ok(Some(Agreement { rounding: lossy.then_some(found.dtype()), ..Agreement::EQUAL }));
    }
    let (own, other) = (expected.dtype(), found.dtype());
    let chunks = expected.bytes().par_chunks(CHUNK * own.size()).zip(found.bytes().par_chunks(CHUNK * other.size()));
    let all = Seen { equal: true, within: [true; 3], nearest: [true; 3] };
    let seen = chunks
        .enumerate()
        .map(|(at, (expected, found))| {
            let scale = scale.map(|scale| &scale[at * CHUNK..]);
            let decoded = |dtype, bytes| to_f64(dtype, bytes).map_err(Stop::Failed);
            all.look(&decoded(own, expected)?, &decoded(other, found)?, scale).ok_or(Stop::Apart)
        })
        .try_reduce(|| all, |left, right| left.and(right).ok_or(Stop::Apart));
    match seen {
        Ok(seen) => Ok(Some(seen.agreement())),
        Err(Stop::Apart) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The factor by which all elements of `found` are those of `expected`, to the rounding of `dtype`; `None` where there is
/// none.
///
/// # Errors
/// Tensors of different shape, or integers.
pub fn multiple(expected: &HostTensor, found: &HostTensor, dtype: DType) -> Result<Option<f64>, TensorError> {
    let sums = in_chunks(expected, found)?.into_par_iter().map(|(own, other)| {
        let (own, other) = (to_f64(expected.dtype(), own)?, to_f64(found.dtype(), other)?);
        let product: f64 = own.iter().zip(&other).map(|(own, other)| own * other).sum();
        Ok((product, own.iter().map(|own| own * own).sum::<f64>()))
    });
    let sums: Vec<(f64, f64)> = sums.collect::<Result<_, TensorError>>()?;
    let (product, square) = sums.into_iter().fold((0.0, 0.0), |total, part| (total.0 + part.0, total.1 + part.1));
    if square == 0.0 || product == 0.0 || expected.element_count() < 2 {
        return Ok(None);
    }
    let factor = short(product / square);
    let near = |(own, other): Pair<'_>| {
        let (own, other) = (to_f64(expected.dtype(), own)?, to_f64(found.dtype(), other)?);
        Ok(own.iter().zip(&other).all(|(&own, &other)| dtype.is_step(own * factor, other, 0.0)))
    };
    let parts: Vec<bool> = in_chunks(expected, found)?.into_par_iter().map(near).collect::<Result<_, TensorError>>()?;
    Ok(parts.into_iter().all(|near| near).then_some(factor))
}

/// The factor that was meant, where it is one of few binary digits.
fn short(factor: f64) -> f64 {
    let rounded = (factor * 4096.0).round() / 4096.0;
    if (factor - rounded).abs() <= 1e-5 * factor.abs() { rounded } else { factor }
}

/// The same elements of both tensors.
type Pair<'a> = (&'a [u8], &'a [u8]);

/// Both tensors' bytes in chunks of as many elements.
fn in_chunks<'a>(left: &'a HostTensor, right: &'a HostTensor) -> Result<Vec<Pair<'a>>, TensorError> {
    if left.shape() != right.shape() {
        left.check_same_form(right)?;
    }
    let (one, other) = (CHUNK * left.dtype().size(), CHUNK * right.dtype().size());
    Ok(left.bytes().chunks(one).zip(right.bytes().chunks(other)).collect())
}

/// Whether `other` is `tensor` in another type.
fn rounded(tensor: &HostTensor, other: &HostTensor) -> Result<bool, TensorError> {
    Ok(tensor.cast(other.dtype())?.same_bits(other))
}

impl Seen {
    /// With these elements; `None` if no rounding explains them.
    fn look(mut self, expected: &[f64], found: &[f64], scale: Option<&[f64]>) -> Option<Self> {
        for (at, (&own, &other)) in expected.iter().zip(found).enumerate() {
            let scale = scale.map_or(0.0, |scale| scale[at]);
            self.equal &= own.total_cmp(&other).is_eq() || own - other == 0.0;
            for (number, dtype) in TYPES.into_iter().enumerate() {
                self.within[number] = self.within[number] && dtype.is_step(own, other, scale);
                self.nearest[number] = self.nearest[number] && (round(own, dtype) - other) == 0.0;
            }
            if !self.within.contains(&true) {
                return None;
            }
        }
        Some(self)
    }

    fn and(self, other: Self) -> Option<Self> {
        let both = |left: [bool; 3], right: [bool; 3]| [0, 1, 2].map(|at| left[at] && right[at]);
        let (within, nearest) = (both(self.within, other.within), both(self.nearest, other.nearest));
        within.contains(&true).then_some(Self { equal: self.equal && other.equal, within, nearest })
    }

    fn agreement(self) -> Agreement {
        if self.equal {
            return Agreement::EQUAL;
        }
        // Tiny numbers are within a step of float16 whatever they were rounded to.
        let nearest = self.nearest.iter().position(|&nearest| nearest);
        let at = nearest.or_else(|| self.within.iter().position(|&within| within));
        Agreement { rounding: at.map(|at| TYPES[at]), nearest: nearest.is_some() }
    }
}

impl DType {
    /// Whether it has fewer bits of precision.
    pub(crate) fn is_coarser_than(self, other: Self) -> bool {
        self.significant_bits() < other.significant_bits()
    }

    /// The type with fewer bits of precision.
    pub(crate) fn coarser(self, other: Self) -> Self {
        if other.is_coarser_than(self) { other } else { self }
    }

    /// The distance of 1 and the next number.
    pub(crate) fn epsilon(self) -> f64 {
        2.0_f64.powi(-self.fraction_bits())
    }

    /// Whether two numbers are at most one step of this type apart; steps are those at the largest of them and `scale`.
    pub(super) fn is_step(self, one: f64, other: f64, scale: f64) -> bool {
        let distance = (one - other).abs();
        distance == 0.0 || distance <= self.step(one.abs().max(other.abs()).max(scale))
    }

    /// The distance of neighbours of this type at a magnitude.
    pub(super) fn step(self, magnitude: f64) -> f64 {
        let smallest = match self {
            Self::F16 => -24,
            Self::BF16 => -133,
            Self::F32 => -149,
            _ => -1074,
        };
        let exponent = ((magnitude.to_bits() >> 52) & 0x7ff) as i32 - 1023;
        2.0_f64.powi((exponent - self.fraction_bits()).max(smallest))
    }

    #[expect(clippy::cast_possible_wrap, reason = "at most 53")]
    fn fraction_bits(self) -> i32 {
        self.significant_bits() as i32 - 1
    }
}

impl HostTensor {
    /// Whether all elements are zero, of either sign.
    ///
    /// # Errors
    /// Integers.
    pub fn is_zero(&self) -> Result<bool, TensorError> {
        let zero = |bytes: &[u8]| Ok(to_f64(self.dtype(), bytes)?.into_iter().all(|value| value == 0.0));
        let mut chunks = self.bytes().chunks(CHUNK * self.dtype().size()).map(zero);
        chunks.try_fold(true, |all, zero: Result<bool, TensorError>| Ok(all && zero?))
    }

    /// The coarsest floating-point type that holds all its values as they are.
    ///
    /// # Errors
    /// Integers.
    pub fn narrowest(&self) -> Result<DType, TensorError> {
        for dtype in [DType::BF16, DType::F16] {
            if dtype.is_coarser_than(self.dtype()) && self.cast(dtype)?.cast(self.dtype())?.same_bits(self) {
                return Ok(dtype);
            }
        }
        Ok(self.dtype())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tensor(dtype: DType, values: &[f64]) -> HostTensor {
        HostTensor::from_f64(dtype, vec![values.len()], values).unwrap()
    }

    #[expect(clippy::cast_precision_loss, reason = "small")]
    fn values(count: usize) -> Vec<f64> {
        (0..count).map(|at| ((at as f64 + 1.0) * 0.37).sin() * 0.02).collect()
    }

    #[test]
    fn rounding_is_told_by_its_type_however_it_is_stored() {
        let expected = tensor(DType::F32, &values(CHUNK + 10));
        let found = |tensor: &HostTensor| agreement(&expected, tensor, None).unwrap();
        assert_eq!(found(&expected.clone()), Some(Agreement::EQUAL));
        for dtype in [DType::F16, DType::BF16] {
            let rounded = expected.cast(dtype).unwrap();
            let told = Some(Agreement { rounding: Some(dtype), nearest: true });
            assert_eq!(found(&rounded), told);
            assert_eq!(found(&rounded.cast(DType::F32).unwrap()), told);
            assert_eq!(rounded.cast(DType::F32).unwrap().narrowest().unwrap(), dtype);
        }
        assert_eq!(expected.narrowest().unwrap(), DType::F32);
        // Cut off instead of rounded.
        let cut: Vec<f64> = expected
            .to_f64()
            .unwrap()
            .into_iter()
            .map(|value| {
                #[expect(clippy::cast_possible_truncation, reason = "a float32")]
                let bits = (value as f32).to_bits() & 0xffff_0000;
                f64::from(f32::from_bits(bits))
            })
            .collect();
        assert_eq!(found(&tensor(DType::F32, &cut)), Some(Agreement { rounding: Some(DType::BF16), nearest: false }));
        // Values that a type holds are not rounded by it.
        let short = tensor(DType::F32, &[1.0, -0.5, 0.0]);
        assert_eq!(agreement(&short, &short.cast(DType::BF16).unwrap(), None).unwrap(), Some(Agreement::EQUAL));
    }

    #[test]
    fn one_element_off_is_apart() {
        let mut changed = values(CHUNK + 10);
        let expected = tensor(DType::F32, &changed);
        let last = changed.len() - 1;
        changed[last] *= 1.02;
        assert_eq!(agreement(&expected, &tensor(DType::F32, &changed), None).unwrap(), None);
        changed[last] /= 1.02;
        changed[last] *= 1.0 + 1e-7;
        let found = agreement(&expected, &tensor(DType::F32, &changed), None).unwrap().unwrap();
        assert_eq!(found.rounding, Some(DType::F32));
        assert_eq!(agreement(&expected, &tensor(DType::F32, &[0.0]), None).unwrap(), None);
    }

    #[test]
    fn sums_that_cancel_are_judged_by_what_was_summed() {
        let (expected, found) = (tensor(DType::F32, &[1e-7]), tensor(DType::F32, &[0.0]));
        assert_eq!(agreement(&expected, &found, None).unwrap(), None);
        let scaled = agreement(&expected, &found, Some(&[1.0])).unwrap().unwrap();
        assert_eq!(scaled.rounding, Some(DType::F32));
    }
}
