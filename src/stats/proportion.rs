//! Accuracy: a proportion, its standard error and its interval.

use super::confidence::{Confidence, Interval};
use super::error::StatsError;
use super::mean::float;

/// The number of right answers out of all answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proportion {
    successes: usize,
    count: usize,
}

impl Proportion {
    pub(crate) fn from_outcomes(outcomes: &[bool]) -> Result<Self, StatsError> {
        if outcomes.is_empty() {
            return Err(StatsError::Empty { what: "outcomes" });
        }
        Ok(Self { successes: outcomes.iter().filter(|outcome| **outcome).count(), count: outcomes.len() })
    }

    /// The proportion itself, `p = successes/n`: lm-evaluation-harness's `acc`.
    pub(crate) fn value(self) -> f64 {
        float(self.successes) / float(self.count)
    }

    /// Standard error `√(p(1−p)/(n−1))`; `None` for a single outcome.
    ///
    /// lm-evaluation-harness's `acc_stderr`: the sample standard deviation of zeros and ones over `√n`.
    pub(crate) fn stderr(self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        let failures = self.count - self.successes;
        Some((self.value() * (float(failures) / float(self.count)) / float(self.count - 1)).sqrt())
    }

    /// Wilson's score interval, `(p + z²/2n ± z√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`.
    ///
    /// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927). Unlike
    /// `p ± z·stderr` it stays inside `[0, 1]` and keeps a width when every answer, or none, is right.
    pub(crate) fn wilson(self, confidence: Confidence) -> Interval {
        Interval {
            lower: wilson_lower(self.successes, self.count, confidence),
            upper: 1.0 - wilson_lower(self.count - self.successes, self.count, confidence),
        }
    }
}

/// Lower Wilson limit in the rationalised form `s²/n / (s + z²/2 + z√(s(n−s)/n + z²/4))`, which subtracts nothing.
fn wilson_lower(successes: usize, count: usize, confidence: Confidence) -> f64 {
    let z = confidence.normal_quantile();
    let (hits, misses, n) = (float(successes), float(count - successes), float(count));
    let spread = z * (hits * misses / n + z * z / 4.0).sqrt();
    hits * hits / n / (hits + z * z / 2.0 + spread)
}
