//! Confidence sequences by betting, for means of numbers in `[0, 1]`: bounds that hold at every number of passages at once, so
//! that looking at them decides nothing.
//!
//! I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024): the hedged capital
//! process of §4.3 with the predictable plug-in bets of §3.2, as `betting_mart` of the authors' package `confseq` computes it.

use super::confidence::Interval;
use super::error::{StatsError, check_values};
use super::tail::bisect_to;

/// The largest bet is this share of what would lose everything.
const LARGEST_BET: f64 = 0.5;

/// Of a bound.
const TOLERANCE: f64 = 1e-12;

/// What each passage has and what was bet on it.
#[derive(Debug, Clone)]
pub struct Betting {
    values: Vec<f64>,
    /// Bets before they are limited by the mean that is bet against.
    bets: Vec<f64>,
    alpha: f64,
}

impl Betting {
    /// Numbers from 0 to 1 in the order in which they were seen; `alpha` is the error of each end.
    pub fn on(values: &[f64], alpha: f64) -> Result<Self, StatsError> {
        check_values("values to bet on", values)?;
        if let Some(value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(StatsError::OutOfRange { what: "value to bet on", value: *value, expected: "0 to 1" });
        }
        // One made-up value of ½ with a variance of ¼ comes first.
        let (mut total, mut squares, mut variance) = (0.5, 0.25, 0.25);
        let (mut seen, mut bets) = (0.0, Vec::with_capacity(values.len()));
        for value in values {
            seen += 1.0;
            bets.push((2.0 * (1.0 / alpha).ln() / (seen * f64::ln_1p(seen) * variance)).sqrt());
            total += value;
            let mean: f64 = (total / (seen + 1.0)).min(1.0);
            squares += (value - mean).powi(2);
            variance = squares / (seen + 1.0);
        }
        Ok(Self { values: values.to_vec(), bets, alpha })
    }

    /// Both one-sided bounds after all values, each the sharpest of its sequence: as a pair they are the hedged confidence
    /// sequence at twice the error.
    pub fn bounds(&self) -> Interval {
        let target = (1.0 / self.alpha).ln();
        let lower = bisect_to(TOLERANCE, 0.0, 1.0, |mean| self.largest_capital(mean, 1.0) >= target);
        let upper = bisect_to(TOLERANCE, 0.0, 1.0, |mean| self.largest_capital(mean, -1.0) < target);
        Interval { lower, upper }
    }

    /// The logarithm of the largest capital that bets on a mean above `mean` (`side` 1) or below it (−1) have reached.
    pub fn largest_capital(&self, mean: f64, side: f64) -> f64 {
        self.capital(mean, side).fold(0.0, f64::max)
    }

    /// After how many values that logarithm reaches `target`.
    pub(super) fn passages_to_reach(&self, target: f64, mean: f64, side: f64) -> Option<usize> {
        self.capital(mean, side).position(|capital| capital >= target).map(|before| before + 1)
    }

    fn capital(&self, mean: f64, side: f64) -> impl Iterator<Item = f64> {
        let limit = LARGEST_BET / if side > 0.0 { mean } else { 1.0 - mean };
        self.values.iter().zip(&self.bets).scan(0.0_f64, move |capital, (value, bet)| {
            *capital += (side * bet.min(limit) * (value - mean)).ln_1p();
            Some(*capital)
        })
    }
}
