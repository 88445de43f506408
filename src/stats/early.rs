//! Verdicts before all passages are seen, with errors that hold at whatever slice one stops.

use super::asymptotic::AsymptoticSequence;
use super::betting::Betting;
use super::error::StatsError;
use super::mean_bound::SampledMean;
use super::verdict::Verdict;

/// The passages before the first look.
const FIRST_SLICE: usize = 64;

/// How to look early at one limit. The passages are seen in a random order that is fixed before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyLook {
    /// Chance that *within* is false, at any slice.
    pub alpha: f64,
    /// Chance that *beyond* is false, at any slice: α divided by the number of limits that are judged together.
    pub beyond_alpha: f64,
}

impl EarlyLook {
    /// The numbers of passages after which to look: from 64 on, each half as large again as the one before, and all.
    #[must_use]
    pub fn slices(count: usize) -> Vec<usize> {
        let growing = std::iter::successors(Some(FIRST_SLICE), |slice| Some(slice + slice / 2));
        growing.take_while(|slice| *slice < count).chain([count]).collect()
    }

    /// The verdict on an accuracy: a passage's loss is 1 where only the baseline is right, −1 where only the variant is, else 0. By betting:
    /// [`Betting`] on numbers from 0 to 1.
    pub fn accuracy(&self, losses: &[i8], limit: f64) -> Result<Verdict, StatsError> {
        let values: Vec<f64> = losses.iter().map(|loss| f64::midpoint(f64::from(*loss), 1.0)).collect();
        let mean = f64::midpoint(limit, 1.0).min(1.0);
        let reached = |alpha: f64, side: f64| -> Result<bool, StatsError> {
            Ok(Betting::on(&values, alpha)?.largest_capital(mean, side) >= (1.0 / alpha).ln())
        };
        Ok(if reached(self.beyond_alpha, 1.0)? {
            Verdict::Beyond
        } else if reached(self.alpha, -1.0)? {
            Verdict::Within
        } else {
            Verdict::Undecided
        })
    }

    /// The verdict on a mean of unbounded numbers, of which `total` are to be seen: the asymptotic sequence's margin as the quantile
    /// of [`SampledMean`], whose skewness and unseen tail the sequence does not know either.
    #[must_use]
    pub fn mean(&self, seen: &SampledMean, limit: f64, total: f64) -> Verdict {
        let quantile = |alpha: f64| AsymptoticSequence { alpha, sharpest_at: total / 4.0 }.quantile(seen.count());
        if seen.lower_at(quantile(self.beyond_alpha), self.beyond_alpha) > limit {
            Verdict::Beyond
        } else if seen.upper_at(quantile(self.alpha), self.alpha) <= limit {
            Verdict::Within
        } else {
            Verdict::Undecided
        }
    }
}
