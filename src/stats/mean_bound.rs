//! One-sided bounds of a mean over passages, of which nothing is known but what was seen.

use super::error::{StatsError, check_length, check_values};
use super::mean::{float, mean_of, sum};
use super::tail::{bisect, upper_quantile, upper_tail};

/// Below this number of passages no bound of a mean is claimed.
pub const FEWEST_PASSAGES: usize = 30;

/// The largest normal quantile that is tried: its tail, 1e-300, is the smallest p-value given.
const LARGEST_QUANTILE: f64 = 37.0;

/// A quantity of every passage: its mean and what a bound of the mean needs.
///
/// # Bounds
/// The t statistic without its skewness, by P. Hall's cubic transformation ("On the removal of skewness by transformation",
/// JRSS-B 54 (1992)): a plain normal bound of a skewed quantity such as a KL divergence lies too low by far. What no
/// transformation knows is the tail that was not seen: with probability 1 − α, up to `ln(1/α)/n` of all passages are beyond the
/// largest value of `n`. The bound counts them in, each as far from the mean as `reach` times the farthest value seen.
/// Simulated error rates are in `evals/results`; a paired percentile bootstrap has higher ones on the same numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampledMean {
    pub(super) count: f64,
    pub(super) mean: f64,
    pub(super) stddev: f64,
    skewness: f64,
    smallest: f64,
    largest: f64,
    reach: f64,
}

impl SampledMean {
    /// The mean log-likelihood difference and other quantities that go both ways.
    pub fn of(values: &[f64]) -> Result<Self, StatsError> {
        Self::with_reach(values, 1.0)
    }

    /// The mean of a quantity that is not negative and has a long tail, such as a KL divergence.
    pub fn of_divergences(values: &[f64]) -> Result<Self, StatsError> {
        Self::with_reach(values, 2.0)
    }

    /// The mean over all tokens of passages with `totals` of the quantity and `sizes` tokens each. Passages are independent, their
    /// tokens are not: what varies is the passage's share of the ratio of sums.
    pub fn of_ratio(totals: &[f64], sizes: &[usize], divergences: bool) -> Result<Self, StatsError> {
        check_values("totals of passages", totals)?;
        check_length("sizes of passages", totals.len(), sizes.len())?;
        let tokens = float(sizes.iter().sum());
        if tokens <= 0.0 {
            return Err(StatsError::Empty { what: "tokens" });
        }
        let ratio = sum(totals.iter().copied()) / tokens;
        let mean_size = tokens / float(sizes.len());
        let values: Vec<f64> =
            totals.iter().zip(sizes).map(|(total, size)| ratio + (total - ratio * float(*size)) / mean_size).collect();
        if divergences { Self::of_divergences(&values) } else { Self::of(&values) }
    }

    /// A mean that nobody has seen: `mean` and `stddev` of `count` passages without skewness or tail.
    pub(super) fn assumed(count: f64, mean: f64, stddev: f64) -> Self {
        Self { count, mean, stddev, skewness: 0.0, smallest: mean, largest: mean, reach: 0.0 }
    }

    fn with_reach(values: &[f64], reach: f64) -> Result<Self, StatsError> {
        check_values("values of passages", values)?;
        let (count, mean) = (float(values.len()), mean_of(values));
        let squares = sum(values.iter().map(|value| (value - mean).powi(2)));
        let stddev = (squares / (count - 1.0).max(1.0)).sqrt();
        let spread = (squares / count).sqrt();
        // Cubes of the ratio: of the difference itself they would underflow.
        let skewness =
            if spread > 0.0 { sum(values.iter().map(|value| ((value - mean) / spread).powi(3))) / count } else { 0.0 };
        let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(Self { count, mean, stddev, skewness, smallest, largest, reach })
    }

    pub(super) fn count(&self) -> f64 {
        self.count
    }

    /// The same quantity had it been seen `count` times.
    pub(super) fn scaled_to(self, count: f64) -> Self {
        Self { count, ..self }
    }

    /// The same spread around another mean.
    pub(super) fn around(self, mean: f64) -> Self {
        let shift = mean - self.mean;
        Self { mean, smallest: self.smallest + shift, largest: self.largest + shift, ..self }
    }

    pub(super) fn upper(&self, alpha: f64) -> f64 {
        self.upper_at(upper_quantile(alpha), alpha)
    }

    pub(super) fn lower(&self, alpha: f64) -> f64 {
        self.lower_at(upper_quantile(alpha), alpha)
    }

    /// The upper bound of which the t statistic is allowed a normal quantile of `z`, and the tail an error of `alpha`.
    pub(super) fn upper_at(&self, z: f64, alpha: f64) -> f64 {
        if !self.is_bounded() {
            return f64::INFINITY;
        }
        let tail = self.unseen(alpha) * self.reach * (self.largest - self.mean);
        self.mean - self.quantile(-z) * self.stddev / self.count.sqrt() + tail
    }

    /// As [`upper_at`](Self::upper_at), from below.
    pub(super) fn lower_at(&self, z: f64, alpha: f64) -> f64 {
        if !self.is_bounded() {
            return f64::NEG_INFINITY;
        }
        let tail = self.unseen(alpha) * self.reach * (self.mean - self.smallest);
        self.mean - self.quantile(z) * self.stddev / self.count.sqrt() - tail
    }

    /// The smallest `alpha` at which [`lower`](Self::lower) is above `limit`; 1 where there is none.
    pub(super) fn p_beyond(&self, limit: f64) -> f64 {
        upper_tail(bisect(-LARGEST_QUANTILE, LARGEST_QUANTILE, |z| self.lower(upper_tail(z)) > limit))
    }

    fn is_bounded(&self) -> bool {
        self.count >= float(FEWEST_PASSAGES) && self.stddev.is_finite()
    }

    /// The share of all passages that may be unlike any seen.
    fn unseen(&self, alpha: f64) -> f64 {
        (1.0 / alpha).ln() / self.count
    }

    /// The quantile of the t statistic whose transform is normal with quantile `z`.
    fn quantile(&self, z: f64) -> f64 {
        let slope = self.skewness / (3.0 * self.count.sqrt());
        if slope == 0.0 {
            return z;
        }
        let cube = 3.0 * slope * (z - 0.5 * slope);
        // The cube root less one, without its digits lost where the skewness is small.
        let root = if cube > -0.5 { (cube.ln_1p() / 3.0).exp_m1() } else { (1.0 + cube).cbrt() - 1.0 };
        root / slope
    }
}
