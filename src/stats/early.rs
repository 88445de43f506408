//! Verdicts before all passages are seen, with errors that hold at whatever slice one stops.

use super::asymptotic::AsymptoticSequence;
use super::betting::Betting;
use super::error::StatsError;
use super::mean_bound::SampledMean;
use super::plan::{smallest_count, whole};
use super::tail::bisect;
use super::threshold::Threshold;
use super::verdict::{Decision, Verdict};

/// The passages before the first look.
const FIRST_SLICE: usize = 64;

/// How many times the passages seen are repeated to find how many more a bet needs.
const REPEATED: usize = 64;

/// How to look early at one limit. The passages are seen in a random order that is fixed before.
///
/// The p-value of a decision is the smallest error at which *beyond* would be said at this look, and its number of passages is an
/// estimate at the rates and the spread seen.
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

    /// Decides about an accuracy: a passage's loss is 1 where only the baseline is right, −1 where only the variant is, else 0. By
    /// betting: [`Betting`] on numbers from 0 to 1.
    pub fn accuracy(&self, losses: &[i8], threshold: Threshold) -> Result<Decision, StatsError> {
        let values: Vec<f64> = losses.iter().map(|loss| f64::midpoint(f64::from(*loss), 1.0)).collect();
        let decision = self
            .betting(&values, Threshold { limit: f64::midpoint(threshold.limit, 1.0), noise: threshold.noise / 2.0 })?;
        let loss = |mean: f64| 2.0 * mean - 1.0;
        Ok(Decision { lower: loss(decision.lower), upper: loss(decision.upper), ..decision })
    }

    /// Decides about a share of passages, by betting.
    pub fn share(&self, differing: &[bool], threshold: Threshold) -> Result<Decision, StatsError> {
        let values: Vec<f64> = differing.iter().map(|differs| f64::from(u8::from(*differs))).collect();
        self.betting(&values, threshold)
    }

    /// Means of numbers from 0 to 1.
    fn betting(&self, values: &[f64], threshold: Threshold) -> Result<Decision, StatsError> {
        let [limit, beyond] = [threshold.limit, threshold.beyond()].map(|mean| mean.clamp(0.0, 1.0));
        let (above, below) = (Betting::on(values, self.beyond_alpha)?, Betting::on(values, self.alpha)?);
        let capital = above.largest_capital(beyond, 1.0);
        let verdict = if capital >= (1.0 / self.beyond_alpha).ln() {
            Verdict::Beyond
        } else if below.largest_capital(limit, -1.0) >= (1.0 / self.alpha).ln() {
            Verdict::Within
        } else {
            Verdict::Undecided
        };
        let more_passages = if verdict == Verdict::Undecided {
            let repeated: Vec<f64> = values.iter().copied().cycle().take(REPEATED * values.len()).collect();
            let sides = [(self.beyond_alpha, beyond, 1.0), (self.alpha, limit, -1.0)];
            let needed = sides.map(|(alpha, mean, side)| {
                Betting::on(&repeated, alpha).map(|bets| bets.passages_to_reach((1.0 / alpha).ln(), mean, side))
            });
            let [beyond, within] = needed;
            let needed = beyond?.into_iter().chain(within?).min();
            needed.map(|needed| (needed.saturating_sub(values.len()) as u64).max(1))
        } else {
            None
        };
        Ok(Decision {
            verdict,
            upper: below.bounds().upper,
            lower: above.bounds().lower,
            beyond_alpha: self.beyond_alpha,
            p_beyond: (-capital).exp(),
            more_passages,
        })
    }

    /// Decides about a mean of unbounded numbers, of which `total` are to be seen: the asymptotic sequence's margin as the quantile
    /// of [`SampledMean`], whose skewness and unseen tail the sequence does not know either.
    #[must_use]
    pub fn mean(&self, seen: &SampledMean, threshold: Threshold, total: f64) -> Decision {
        let (limit, beyond) = (threshold.limit, threshold.beyond());
        let quantile =
            |seen: &SampledMean, alpha| AsymptoticSequence { alpha, sharpest_at: total / 4.0 }.quantile(seen.count());
        let lower = |seen: &SampledMean, alpha| seen.lower_at(quantile(seen, alpha), alpha);
        let upper = |seen: &SampledMean| seen.upper_at(quantile(seen, self.alpha), self.alpha);
        let verdict = |seen: &SampledMean| {
            if lower(seen, self.beyond_alpha) > beyond {
                Verdict::Beyond
            } else if upper(seen) <= limit {
                Verdict::Within
            } else {
                Verdict::Undecided
            }
        };
        let found = verdict(seen);
        let more_passages = if found == Verdict::Undecided {
            let decided = |count| verdict(&seen.scaled_to(count)) != Verdict::Undecided;
            smallest_count(seen.count(), decided).map(|count| whole(count - seen.count()))
        } else {
            None
        };
        // −ln of an error, from that of a coin to the smallest that there is.
        let exponent = bisect(std::f64::consts::LN_2, 690.0, |exponent| lower(seen, (-exponent).exp()) > beyond);
        Decision {
            verdict: found,
            upper: upper(seen),
            lower: lower(seen, self.beyond_alpha),
            beyond_alpha: self.beyond_alpha,
            p_beyond: (-exponent).exp(),
            more_passages,
        }
    }
}
