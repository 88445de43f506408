//! Reductions over replicas. Every function documents where it accumulates and rounds once, except in
//! [`Arithmetic::Storage`], which does what torch does in the checkpoint's own type.

use serde::Deserialize;

use super::{DType, HostTensor, TensorError};

/// Where sums and means are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arithmetic {
    /// In float64, rounded to the storage type once at the end.
    #[default]
    Float64,
    /// As torch does it on tensors of the storage type: each binary operation rounds to that type. This is what
    /// gpt-neox's `tools/ckpts/merge20b.py` computes.
    #[serde(rename = "checkpoint")]
    Storage,
}

/// Element by element sum.
///
/// # Errors
/// No tensors, tensors of different form, or integers.
pub fn sum(tensors: &[&HostTensor], arithmetic: Arithmetic) -> Result<HostTensor, TensorError> {
    fold(tensors, arithmetic, |total, _| total)
}

/// Element by element arithmetic mean.
///
/// # Errors
/// No tensors, tensors of different form, or integers.
pub fn mean(tensors: &[&HostTensor], arithmetic: Arithmetic) -> Result<HostTensor, TensorError> {
    fold(tensors, arithmetic, |total, count| total / count)
}

/// `factor` × element by element mean, in float64.
///
/// # Errors
/// No tensors, tensors of different form, or integers.
pub fn scale(tensors: &[&HostTensor], factor: f64) -> Result<HostTensor, TensorError> {
    fold(tensors, Arithmetic::Float64, |total, count| total / count * factor)
}

/// Element by element median; for an even count the mean of the middle two, in float64.
///
/// # Errors
/// No tensors, tensors of different form, or integers.
pub fn median(tensors: &[&HostTensor]) -> Result<HostTensor, TensorError> {
    across(tensors, |values| {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
    })
}

/// Element by element geometric mean of the magnitudes, with the replicas' sign; 0 where any is 0 or the signs disagree.
/// In float64.
///
/// # Errors
/// No tensors, tensors of different form, or integers.
pub fn geometric_mean(tensors: &[&HostTensor]) -> Result<HostTensor, TensorError> {
    across(tensors, |values| {
        let negative = values[0].is_sign_negative();
        if values.iter().any(|&value| value == 0.0 || value.is_sign_negative() != negative) {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
        let count = values.len() as f64;
        let magnitude = (values.iter().map(|value| value.abs().ln()).sum::<f64>() / count).exp();
        if negative { -magnitude } else { magnitude }
    })
}

/// Sums in rank order, then applies `finish(total, count)`.
fn fold(
    tensors: &[&HostTensor],
    arithmetic: Arithmetic,
    finish: impl Fn(f64, f64) -> f64,
) -> Result<HostTensor, TensorError> {
    let (first, rest) = tensors.split_first().ok_or(TensorError::Empty)?;
    let dtype = first.dtype();
    let rounded = match arithmetic {
        Arithmetic::Float64 => |value: f64, _: DType| value,
        Arithmetic::Storage => round,
    };
    let mut total = first.to_f64()?;
    for tensor in rest {
        first.check_same_form(tensor)?;
        for (total, value) in total.iter_mut().zip(tensor.to_f64()?) {
            *total = rounded(*total + value, dtype);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let count = tensors.len() as f64;
    for total in &mut total {
        *total = finish(*total, count);
    }
    HostTensor::from_f64(dtype, first.shape().to_vec(), &total)
}

/// Applies `combine` to the values that the tensors hold at each element.
fn across(tensors: &[&HostTensor], mut combine: impl FnMut(&mut Vec<f64>) -> f64) -> Result<HostTensor, TensorError> {
    let first = tensors.first().ok_or(TensorError::Empty)?;
    let mut columns = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        first.check_same_form(tensor)?;
        columns.push(tensor.to_f64()?);
    }
    let mut values = Vec::with_capacity(tensors.len());
    let combined: Vec<f64> = (0..first.element_count())
        .map(|index| {
            values.clear();
            values.extend(columns.iter().map(|column| column[index]));
            combine(&mut values)
        })
        .collect();
    HostTensor::from_f64(first.dtype(), first.shape().to_vec(), &combined)
}

/// The nearest value that `dtype` can hold; integers types leave it as it is.
#[expect(clippy::cast_possible_truncation, reason = "rounding to the storage type")]
pub fn round(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => f64::from(super::round_to_f16(value)),
        DType::BF16 => f64::from(super::round_to_bf16(value)),
        DType::F32 => f64::from(value as f32),
        _ => value,
    }
}
