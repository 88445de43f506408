//! Quantiles by linear interpolation.

use super::error::{StatsError, check_values};
use super::mean::float;

/// The `fraction` quantile: linear interpolation at position `fraction·(n−1)` of the sorted values.
///
/// The convention of llama.cpp's `percentile` (`tools/perplexity/perplexity.cpp`) and of `numpy.quantile`: definition 7
/// of Hyndman and Fan, "Sample quantiles in statistical packages", The American Statistician 50 (1996).
pub(crate) fn quantile(values: &[f64], fraction: f64) -> Result<f64, StatsError> {
    check_values("quantile", values)?;
    if !(0.0..=1.0).contains(&fraction) {
        return Err(StatsError::OutOfRange { what: "quantile fraction", value: fraction, expected: "0 to 1" });
    }
    Ok(quantile_of_sorted(&sorted(values.to_vec()), fraction))
}

pub(super) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// [`quantile`] of at least one sorted value, `fraction` within `[0, 1]`.
pub(super) fn quantile_of_sorted(sorted: &[f64], fraction: f64) -> f64 {
    let last = sorted.len() - 1;
    let position = fraction * float(last);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ position ≤ last")]
    let below = (position.floor() as usize).min(last);
    let above = (below + 1).min(last);
    // This form, unlike a weighted sum, gives equal neighbours back unchanged.
    sorted[below] + (position - float(below)) * (sorted[above] - sorted[below])
}
