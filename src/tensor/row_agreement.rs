//! Rows of one tensor that are rows of another, but for rounding.

use rayon::prelude::*;

use super::agreement::Stop;
use super::host_tensor::to_f64;
use super::{DType, HostTensor, TensorError};

/// Whether every row of `found` is, to the rounding of `dtype`, the row of `expected` that `source` gives for it; rows that
/// it gives none for are passed over. The elements of a vector are a row each.
///
/// # Errors
/// Integers.
pub fn rows_agree(
    expected: &HostTensor,
    found: &HostTensor,
    dtype: DType,
    source: impl Fn(usize) -> Option<usize> + Sync,
) -> Result<bool, TensorError> {
    let Some(rows) = Rows::of_both(expected, found) else { return Ok(false) };
    let agrees = |at: usize| match source(at) {
        None => Ok(()),
        Some(from) if from < rows.expected_count && rows.near(from, at, dtype).map_err(Stop::Failed)? => Ok(()),
        Some(_) => Err(Stop::Apart),
    };
    match (0..rows.found_count).into_par_iter().try_for_each(agrees) {
        Ok(()) => Ok(true),
        Err(Stop::Apart) => Ok(false),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The rows of `expected` that a row of `found` is, to the rounding of `dtype`.
///
/// # Errors
/// Integers.
pub fn rows_like(
    expected: &HostTensor,
    found: &HostTensor,
    dtype: DType,
    row: usize,
) -> Result<Vec<usize>, TensorError> {
    let Some(rows) = Rows::of_both(expected, found).filter(|rows| row < rows.found_count) else {
        return Ok(Vec::new());
    };
    let is_like = |from: usize| rows.near(from, row, dtype).map(|near| near.then_some(from)).transpose();
    (0..rows.expected_count).into_par_iter().filter_map(is_like).collect()
}

/// Whether `found` differs from `expected` by `u 1/wᵀ`, with any column u, to the rounding of `dtype`: each row by a multiple
/// of the inverse weights.
///
/// # Errors
/// Integers.
pub fn differs_by_rank_one(
    expected: &HostTensor,
    found: &HostTensor,
    weights: &[f64],
    dtype: DType,
) -> Result<bool, TensorError> {
    let Some(rows) = Rows::of_both(expected, found).filter(|rows| rows.width == weights.len()) else {
        return Ok(false);
    };
    #[expect(clippy::cast_precision_loss, reason = "a width")]
    let width = weights.len() as f64;
    let agrees = |at: usize| {
        let (own, other) = (rows.row(expected, at)?, rows.row(found, at)?);
        let scaled = |column: usize| (other[column] - own[column]) * weights[column];
        let step = |column: usize| dtype.step(own[column].abs().max(other[column].abs())) * weights[column].abs();
        let mean = |of: &dyn Fn(usize) -> f64| (0..weights.len()).map(of).sum::<f64>() / width;
        // The mean has the roundings of all.
        let (term, rounding) = (mean(&scaled), mean(&step));
        Ok((0..weights.len()).all(|column| (scaled(column) - term).abs() <= 2.0 * (step(column) + rounding)))
    };
    let found: Vec<bool> = (0..rows.found_count.min(rows.expected_count))
        .into_par_iter()
        .map(agrees)
        .collect::<Result<_, TensorError>>()?;
    Ok(found.into_iter().all(|agrees| agrees))
}

/// The rows of two tensors whose rows have the same width.
struct Rows<'a> {
    expected: &'a HostTensor,
    found: &'a HostTensor,
    width: usize,
    expected_count: usize,
    found_count: usize,
}

impl<'a> Rows<'a> {
    fn of_both(expected: &'a HostTensor, found: &'a HostTensor) -> Option<Self> {
        let width: usize = found.shape().get(1..)?.iter().product();
        let count = |tensor: &HostTensor| tensor.element_count().checked_div(width);
        (expected.shape().get(1..) == found.shape().get(1..)).then_some(())?;
        Some(Self { expected, found, width, expected_count: count(expected)?, found_count: count(found)? })
    }

    fn row(&self, tensor: &HostTensor, at: usize) -> Result<Vec<f64>, TensorError> {
        let bytes = self.width * tensor.dtype().size();
        to_f64(tensor.dtype(), &tensor.bytes()[at * bytes..(at + 1) * bytes])
    }

    fn near(&self, from: usize, at: usize, dtype: DType) -> Result<bool, TensorError> {
        let (own, other) = (self.row(self.expected, from)?, self.row(self.found, at)?);
        Ok(own.iter().zip(&other).all(|(&own, &other)| dtype.is_step(own, other, 0.0)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_they_come_from() {
        let expected = HostTensor::from_f64(DType::F32, vec![3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let found = HostTensor::from_f64(DType::F32, vec![3, 2], &[3.0, 4.0, 5.0, 6.0, 0.0, 0.0]).unwrap();
        let shifted = |at: usize| (at + 1 < 3).then_some(at + 1);
        assert!(rows_agree(&expected, &found, DType::F32, shifted).unwrap());
        assert!(!rows_agree(&expected, &found, DType::F32, Some).unwrap());
        assert!(!rows_agree(&expected, &found, DType::F32, |at| Some(at + 1)).unwrap());
    }

    #[test]
    fn a_rank_one_term_worked_by_hand() {
        let expected = HostTensor::from_f64(DType::F32, vec![2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        // Rows 1 and −2 times (1, ½).
        let found = HostTensor::from_f64(DType::F32, vec![2, 2], &[2.0, 2.5, 1.0, 3.0]).unwrap();
        assert!(differs_by_rank_one(&expected, &found, &[1.0, 2.0], DType::F32).unwrap());
        assert!(!differs_by_rank_one(&expected, &found, &[1.0, 1.0], DType::F32).unwrap());
    }
}
