//! Several tests at once.

use super::error::StatsError;
use super::mean::float;

/// Holm's adjusted p-values, in the order given: `p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m−j+1)·p₍ⱼ₎)` over the sorted p-values.
///
/// Rejecting where the adjusted value is at most α keeps the chance of any false rejection at α, whatever the
/// dependence between the tests (all strategies share one baseline). S. Holm, "A simple sequentially rejective multiple
/// test procedure", Scandinavian Journal of Statistics 6 (1979). No p-values give no adjusted ones.
pub(crate) fn holm(p_values: &[f64]) -> Result<Vec<f64>, StatsError> {
    if let Some(value) = p_values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        return Err(StatsError::OutOfRange { what: "p-value", value: *value, expected: "0 to 1" });
    }
    let mut ascending: Vec<usize> = (0..p_values.len()).collect();
    ascending.sort_by(|left, right| p_values[*left].total_cmp(&p_values[*right]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, index) in ascending.into_iter().enumerate() {
        largest = largest.max(float(p_values.len() - rank) * p_values[index]).min(1.0);
        adjusted[index] = largest;
    }
    Ok(adjusted)
}
