//! Seeded paired bootstrap over passages.
//!
//! B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13: whole passages are drawn
//! with replacement, baseline and variant together, so that what the two have in common cancels.

use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::confidence::{Confidence, Interval};
use super::error::{StatsError, check_length, check_values};
use super::mean::{Sum, float, mean_of, stddev_of};
use super::perplexity::exp_finite;
use super::quantile::{quantile_of_sorted, sorted};

/// Replicates drawn from one random stream. Part of the result's definition: changing it changes every interval.
const REPLICATES_PER_STREAM: usize = 64;

/// How to resample.
///
/// The same settings on the same number of passages draw the same passages, so variants compared with one baseline
/// share their resamples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairedBootstrap {
    pub replicate_count: usize,
    /// Key of the `ChaCha12` generator. Each block of 64 replicates reads a stream of its own, so the result is the
    /// same for any number of threads.
    pub seed: u64,
    /// Level of the percentile intervals.
    pub confidence: Confidence,
}

impl Default for PairedBootstrap {
    /// 10 000 replicates, seed 1234 (lm-evaluation-harness's `numpy_seed`), 95 %.
    fn default() -> Self {
        Self { replicate_count: 10_000, seed: 1234, confidence: Confidence::P95 }
    }
}

/// A statistic with its bootstrap standard error and percentile interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The statistic on the passages as observed.
    pub value: f64,
    /// Sample standard deviation over the resamples; absent with a single passage or a single resample,
    /// and where it exceeds `f64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Percentile interval over the resamples; absent with a single passage or a single resample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// The losses of a variant against the baseline, all estimated from the same resamples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedLosses {
    /// Mean over passages of variant minus baseline log-likelihood, in nats; negative where the variant is worse.
    pub delta_loglikelihood: Estimate,
    /// Variant minus baseline perplexity per passage; positive where the variant is worse.
    pub perplexity_difference: Estimate,
    /// Variant over baseline perplexity per passage; above 1 where the variant is worse.
    pub perplexity_ratio: Estimate,
}

impl PairedBootstrap {
    /// Estimates every loss of a variant from one set of resamples. Both slices are the summed log-likelihoods of the same
    /// targets in the same order, in nats.
    pub fn losses(&self, baseline: &[f64], variant: &[f64]) -> Result<PairedLosses, StatsError> {
        check_values("baseline log-likelihoods", baseline)?;
        check_length("variant log-likelihoods", baseline.len(), variant.len())?;
        check_values("variant log-likelihoods", variant)?;
        let deltas: Vec<f64> = variant.iter().zip(baseline).map(|(variant, baseline)| variant - baseline).collect();
        let resamples = self.resample([baseline, &deltas])?;
        Ok(PairedLosses {
            delta_loglikelihood: resamples.estimate(|[_, delta]| *delta),
            // exp(−(baseline + delta)) − exp(−baseline), no digits lost when delta is tiny, no −0 when it is 0.
            perplexity_difference: resamples
                .estimate(|[baseline, delta]| (exp_finite(-baseline) * (0.0 - delta).exp_m1()).min(f64::MAX)),
            perplexity_ratio: resamples.estimate(|[_, delta]| exp_finite(-delta)),
        })
    }

    /// The numbers below `count` in a random order that the seed fixes, in a stream that no resample is drawn from. By R. Durstenfeld.
    #[must_use]
    pub fn permutation(&self, count: usize) -> Vec<usize> {
        let mut random = self.stream(u64::MAX);
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, draw_index(&mut random, last + 1));
        }
        order
    }

    /// Draws passages with replacement and keeps the mean of every column (one value per passage) over each resample.
    pub(super) fn resample<const COLUMNS: usize>(
        &self,
        columns: [&[f64]; COLUMNS],
    ) -> Result<Resamples<COLUMNS>, StatsError> {
        let count = columns.first().ok_or(StatsError::Empty { what: "bootstrap columns" })?.len();
        for column in columns {
            check_length("bootstrap column", count, column.len())?;
            check_values("bootstrap column", column)?;
        }
        if self.replicate_count == 0 {
            return Err(StatsError::OutOfRange { what: "replicate count", value: 0.0, expected: "at least 1" });
        }
        // Row by row, a draw touches one cache line instead of one per column.
        let rows: Vec<[f64; COLUMNS]> = (0..count).map(|row| columns.map(|column| column[row])).collect();
        let means = (0..self.replicate_count.div_ceil(REPLICATES_PER_STREAM))
            .into_par_iter()
            .flat_map_iter(|block| {
                let done = block * REPLICATES_PER_STREAM;
                let mut random = self.stream(block as u64);
                let replicates = REPLICATES_PER_STREAM.min(self.replicate_count - done);
                let rows = &rows;
                (0..replicates).map(move |_| resampled_means(rows, &mut random))
            })
            .collect();
        Ok(Resamples { observed: columns.map(mean_of), means, passage_count: count, confidence: self.confidence })
    }

    /// The generator of one block: `ChaCha12` keyed by the seed's bytes, the block number as the stream.
    fn stream(&self, block: u64) -> ChaCha12Rng {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut random = ChaCha12Rng::from_seed(key);
        random.set_stream(block);
        random
    }
}

fn resampled_means<const COLUMNS: usize>(rows: &[[f64; COLUMNS]], random: &mut ChaCha12Rng) -> [f64; COLUMNS] {
    let mut sums = [Sum::default(); COLUMNS];
    for _ in 0..rows.len() {
        for (sum, value) in sums.iter_mut().zip(rows[draw_index(random, rows.len())]) {
            sum.add(value);
        }
    }
    sums.map(|sum| sum.value() / float(rows.len()))
}

/// A uniform index below `count`: the high half of a 64-bit draw times `count`.
///
/// Written out rather than taken from `rand`, whose range sampling may change between releases; the bias is below
/// `count/2⁶⁴`.
#[expect(clippy::cast_possible_truncation, reason = "the high half of a product with count is below count")]
fn draw_index(random: &mut ChaCha12Rng, count: usize) -> usize {
    ((u128::from(random.next_u64()) * count as u128) >> 64) as usize
}

/// Column means over every resample, from which any statistic of them is estimated.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resamples<const COLUMNS: usize> {
    observed: [f64; COLUMNS],
    means: Vec<[f64; COLUMNS]>,
    passage_count: usize,
    confidence: Confidence,
}

impl<const COLUMNS: usize> Resamples<COLUMNS> {
    /// Estimates a statistic of the column means, such as a mean itself or `exp(−mean)`.
    ///
    /// Standard error and interval are absent where the statistic is not finite on some resample.
    pub(super) fn estimate(&self, statistic: impl Fn(&[f64; COLUMNS]) -> f64) -> Estimate {
        let value = statistic(&self.observed);
        let replicates: Vec<f64> = self.means.iter().map(statistic).collect();
        if self.passage_count < 2 || replicates.len() < 2 || replicates.iter().any(|value| !value.is_finite()) {
            return Estimate { value, stderr: None, interval: None };
        }
        let stderr = stddev_of(&replicates);
        let replicates = sorted(replicates);
        let tail = self.confidence.tail();
        let interval = Interval {
            lower: quantile_of_sorted(&replicates, tail),
            upper: quantile_of_sorted(&replicates, 1.0 - tail),
        };
        Estimate { value, stderr, interval: Some(interval) }
    }
}
