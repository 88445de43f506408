//! Means and their standard errors, on compensated sums.

use super::error::{StatsError, check_values};

#[expect(clippy::cast_precision_loss, reason = "counts of passages and tokens stay far below 2^53")]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

/// A running sum that keeps what each addition rounds away.
///
/// Algorithm Sum2 of T. Ogita, S. Rump and S. Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005): as
/// accurate as if summed in twice the precision, and without branches.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    pub(super) fn add(&mut self, value: f64) {
        let next = self.total + value;
        let taken = next - self.total;
        self.lost += (self.total - (next - taken)) + (value - taken);
        self.total = next;
    }

    pub(super) fn value(self) -> f64 {
        // After an overflow the correction is NaN; the infinity is the answer.
        if self.total.is_finite() { self.total + self.lost } else { self.total }
    }
}

pub(super) fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sum = Sum::default();
    values.into_iter().for_each(|value| sum.add(value));
    sum.value()
}

pub(super) fn mean_of(values: &[f64]) -> f64 {
    sum(values.iter().copied()) / float(values.len())
}

/// Sample standard deviation of values already checked; `None` below two values or where it exceeds `f64`.
pub(super) fn stddev_of(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean_of(values);
    let squares = sum(values.iter().map(|value| (value - mean).powi(2)));
    Some((squares / float(values.len() - 1)).sqrt()).filter(|stddev| stddev.is_finite())
}

/// Standard error of the mean of values already checked, `√(Σ(x−x̄)²/(n−1)) / √n`: lm-evaluation-harness's `mean_stderr`
/// (`lm_eval/api/metrics.py`), which is its `acc_stderr` on zeros and ones. `None` for a single value.
pub(super) fn stderr_of(values: &[f64]) -> Option<f64> {
    stddev_of(values).map(|stddev| stddev / float(values.len()).sqrt())
}

pub fn mean(values: &[f64]) -> Result<f64, StatsError> {
    check_values("mean", values)?;
    Ok(mean_of(values))
}
