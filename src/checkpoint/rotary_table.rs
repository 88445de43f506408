//! Tables of rotary and sinusoidal positions. The model computes them from the configuration; a saved one must be the same.

use crate::tensor::{DType, HostTensor, TensorError};

/// How a saved table differs from that of the base, in words; `None` where it does not.
pub(super) fn difference(tensor: &HostTensor, dims: usize, base: f64) -> Result<Option<String>, TensorError> {
    let table = tensor.to_f64()?;
    Ok((!agrees(&table, dims, base, tensor.dtype())).then(|| describe(&table, dims, base, tensor.dtype())))
}

/// gpt-neox's table: base^(−2i / dims).
#[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
fn frequencies(dims: usize, base: f64) -> impl Iterator<Item = f64> {
    (0..dims / 2).map(move |index| base.powf(-2.0 * index as f64 / dims as f64))
}

/// Whether a table is that of a base, up to the rounding of a 16-bit type: a model in 16 bits may have been saved in 32.
fn agrees(table: &[f64], dims: usize, base: f64, dtype: DType) -> bool {
    // Relative, and absolute below the smallest normal number of float16.
    let (relative, absolute) = if dtype == DType::BF16 { (8e-3, 0.0) } else { (2e-3, 1.2e-7) };
    table.len() == dims / 2
        && table
            .iter()
            .zip(frequencies(dims, base))
            .all(|(found, expected)| (found - expected).abs() <= relative * expected + absolute)
}

/// The base that a table belongs to, in words.
fn describe(table: &[f64], dims: usize, base: f64, dtype: DType) -> String {
    let scale = table.first().copied().unwrap_or(1.0);
    let scaled: Vec<f64> = table.iter().map(|frequency| frequency / scale).collect();
    #[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
    let exact = table.get(1).copied().unwrap_or(1.0).powf(-(dims as f64) / 2.0);
    let near = if (exact - exact.round()).abs() < 0.01 * exact { exact.round() } else { exact };
    let candidates = [nice(exact), near];
    if let Some(found) = candidates.into_iter().find(|&found| agrees(table, dims, found, dtype)) {
        return format!("has base {found}");
    }
    if agrees(&scaled, dims, base, dtype) {
        return format!("has base {base} with every frequency multiplied by {scale}");
    }
    "is not the table of any base".to_owned()
}

/// Two significant digits, which absorb the rounding of 16-bit tables.
fn nice(number: f64) -> f64 {
    if !(number.is_finite() && number > 0.0) {
        return number;
    }
    let unit = 10_f64.powf(number.log10().floor() - 1.0);
    (number / unit).round() * unit
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn table(dtype: DType, dims: usize, base: f64, change: impl Fn(usize, f64) -> f64) -> HostTensor {
        let values: Vec<f64> = frequencies(dims, base).enumerate().map(|(index, value)| change(index, value)).collect();
        HostTensor::from_f64(dtype, vec![dims / 2], &values).unwrap()
    }

    fn complaint(tensor: &HostTensor, dims: usize, base: f64) -> Option<String> {
        difference(tensor, dims, base).unwrap()
    }

    #[test]
    fn tables_agree_up_to_the_rounding_of_their_type() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for dims in [2, 4, 24, 32, 64, 96, 128] {
                for base in [10_000.0, 500_000.0, 1_000_000.0, 100.0] {
                    assert_eq!(
                        complaint(&table(dtype, dims, base, |_, value| value), dims, base),
                        None,
                        "{dtype} {dims} {base}"
                    );
                }
            }
        }
    }

    #[test]
    fn another_table_is_named() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let found = complaint(&table(dtype, 32, 10_000.0, |_, value| value), 32, 500_000.0);
            assert_eq!(found.unwrap(), "has base 10000", "{dtype}");
            let found = complaint(&table(dtype, 64, 1_000_000.0, |_, value| value), 64, 10_000.0);
            assert_eq!(found.unwrap(), "has base 1000000", "{dtype}");
            let found = complaint(&table(dtype, 32, 10_000.0, |_, value| value / 2.0), 32, 10_000.0);
            assert_eq!(found.unwrap(), "has base 10000 with every frequency multiplied by 0.5", "{dtype}");
            // As scaled by wavelength: only the slow ones.
            let slow = |index: usize, value: f64| if index > 8 { value / 8.0 } else { value };
            let found = complaint(&table(dtype, 32, 10_000.0, slow), 32, 10_000.0);
            assert_eq!(found.unwrap(), "is not the table of any base", "{dtype}");
        }
        let zero = table(DType::F32, 32, 10_000.0, |_, _| 0.0);
        assert_eq!(complaint(&zero, 32, 10_000.0).unwrap(), "is not the table of any base");
    }
}
