//! Two models on the same passages: which of them was right where.

use super::confidence::{Confidence, Interval};
use super::error::{StatsError, check_length};
use super::mean::float;
use super::tail::bisect;

/// The discordant outcomes of a baseline and a variant, out of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairedCounts {
    count: usize,
    baseline_only: usize,
    variant_only: usize,
}

impl PairedCounts {
    /// Of passages that were counted already.
    pub(crate) fn new(baseline_only: usize, variant_only: usize, count: usize) -> Result<Self, StatsError> {
        if count == 0 {
            return Err(StatsError::Empty { what: "outcomes" });
        }
        Ok(Self { count, baseline_only, variant_only })
    }

    /// Counts the outcomes, passage by passage.
    pub fn from_outcomes(baseline: &[bool], variant: &[bool]) -> Result<Self, StatsError> {
        if baseline.is_empty() {
            return Err(StatsError::Empty { what: "baseline outcomes" });
        }
        check_length("variant outcomes", baseline.len(), variant.len())?;
        let only =
            |one: &[bool], other: &[bool]| one.iter().zip(other).filter(|(one, other)| **one && !**other).count();
        Ok(Self {
            count: baseline.len(),
            baseline_only: only(baseline, variant),
            variant_only: only(variant, baseline),
        })
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Discordant passages that only the baseline answers correctly.
    pub fn baseline_only(self) -> usize {
        self.baseline_only
    }

    /// Discordant passages that only the variant answers correctly.
    pub fn variant_only(self) -> usize {
        self.variant_only
    }

    /// Baseline accuracy minus variant accuracy, `(b−c)/n` with `b` right in the baseline only and `c` in the variant
    /// only: positive where the variant is worse.
    pub(crate) fn accuracy_loss(self) -> f64 {
        (float(self.baseline_only) - float(self.variant_only)) / float(self.count)
    }

    /// Tango's score interval for [`accuracy_loss`](Self::accuracy_loss): every difference `Δ` that the score test of
    /// `p(baseline only) − p(variant only) = Δ` does not reject.
    ///
    /// T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    /// design", Statistics in Medicine 17 (1998). It runs from `−z²/(n+z²)` to `z²/(n+z²)` when no passage is
    /// discordant, where the Wald interval collapses to a point.
    pub fn accuracy_loss_interval(self, confidence: Confidence) -> Interval {
        let z = confidence.normal_quantile();
        let n = float(self.count);
        let (b, c) = (float(self.baseline_only), float(self.variant_only));
        Interval { lower: tango_lower(b, c, n, z), upper: -tango_lower(c, b, n, z) }
    }

    /// Two-sided p-value of `McNemar`'s test in its exact form, `min(1, 2·P(X ≤ min(b, c)))` with
    /// `X ~ Binomial(b+c, ½)`; 1 when no passage is discordant.
    ///
    /// Q. `McNemar`, "Note on the sampling error of the difference between correlated proportions or percentages",
    /// Psychometrika 12 (1947); exact form in A. Agresti, "Categorical Data Analysis", 3rd edition, §11.1.
    pub fn mcnemar_p(self) -> f64 {
        let (fewer, more) = (self.baseline_only.min(self.variant_only), self.baseline_only.max(self.variant_only));
        (2.0 * fair_binomial_tail(fewer, more)).min(1.0)
    }
}

/// `P(X ≤ fewer)` for `X ~ Binomial(fewer + more, ½)`, `fewer ≤ more`.
///
/// The largest term is a product into which the halvings are mixed, so that it neither overflows nor loses digits to
/// logarithms of factorials; the smaller terms follow by their ratios. Relative error grows as `fewer · 2⁻⁵²`.
fn fair_binomial_tail(fewer: usize, more: usize) -> f64 {
    let mut halvings = fewer + more;
    let mut largest = 1.0_f64;
    for k in 1..=fewer {
        largest *= float(more + k) / float(k);
        while largest > 1.0 && halvings > 0 {
            largest *= 0.5;
            halvings -= 1;
        }
    }
    largest *= 0.5_f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX));

    let (mut term, mut sum) = (1.0, 1.0);
    for k in (1..=fewer).rev() {
        term *= float(k) / float(fewer + more - k + 1);
        sum += term;
        if term < sum * f64::EPSILON / 16.0 {
            break;
        }
    }
    largest * sum
}

/// The lower limit `Δ` of Tango's interval: where the [score statistic](tango_statistic) equals `z`. Counts may be expected ones.
///
/// The statistic falls as `Δ` rises from −1 to the estimate, where it is zero: bisection down to neighbouring numbers.
pub(super) fn tango_lower(b: f64, c: f64, n: f64, z: f64) -> f64 {
    bisect(-1.0, (b - c) / n, |delta| {
        let (distance, spread) = tango_statistic(b, c, n, delta);
        distance >= z * spread
    })
}

/// The score statistic of `p(baseline only) − p(variant only) = Δ`, `(b − c − nΔ) / √(n(2q + Δ(1−Δ)))`: numerator and
/// denominator.
pub(super) fn tango_statistic(b: f64, c: f64, n: f64, delta: f64) -> (f64, f64) {
    let variance = n * (2.0 * constrained_share(b, c, n, delta) + delta * (1.0 - delta));
    (b - c - n * delta, variance.max(0.0).sqrt())
}

/// `q`, the maximum-likelihood share of passages right in the variant only, given the difference `delta`: the larger
/// root of Tango's quadratic `2n·q² + B·q + C = 0`.
fn constrained_share(b: f64, c: f64, n: f64, delta: f64) -> f64 {
    let linear = -b - c + (2.0 * n - b + c) * delta;
    let constant = -c * delta * (1.0 - delta);
    let root = (linear * linear - 8.0 * n * constant).max(0.0).sqrt();
    // The form without a difference of nearly equal numbers.
    if linear > 0.0 { -2.0 * constant / (linear + root) } else { (root - linear) / (4.0 * n) }
}
