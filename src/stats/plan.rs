//! How many passages a verdict needs, and how small a loss a number of passages shows.

use super::mean_bound::SampledMean;
use super::measured::Measured;
use super::tail::{alpha_with_power, bisect};
use super::threshold::Threshold;

/// More than any task has.
const MOST_PASSAGES: f64 = 1e9;

/// The power that plans are made for.
pub const POWER: f64 = 0.8;

/// How many more passages decide a limit, at the rates and the spread seen: to be within at `alpha`, or beyond at `beyond_alpha`.
pub(super) fn passages_needed(seen: Measured, threshold: Threshold, alpha: f64, beyond_alpha: f64) -> Option<u64> {
    let decided = |count: f64| {
        let scaled = seen.scaled_to(count);
        scaled.upper(alpha) <= threshold.limit || scaled.lower(beyond_alpha) > threshold.beyond()
    };
    smallest_count(seen.count().max(1.0), decided).map(|count| whole(count - seen.count()))
}

/// The number of passages at which a model with this loss and spread is within the limit with a probability of [`POWER`].
pub fn passages_to_prove(seen: Measured, limit: f64, alpha: f64) -> Option<u64> {
    let alpha = alpha_with_power(alpha, POWER);
    smallest_count(1.0, |count| seen.scaled_to(count).upper(alpha) <= limit).map(whole)
}

/// The smallest loss that is beyond the limit with a probability of [`POWER`], at the spread and the number of passages seen:
/// the minimum detectable effect. `None` where no loss is: there are too few passages.
pub fn smallest_detectable(seen: Measured, threshold: Threshold, alpha: f64) -> Option<f64> {
    let limit = threshold.beyond();
    if !limit.is_finite() {
        return None;
    }
    let alpha = alpha_with_power(alpha, POWER);
    let detected = |loss: f64| seen.around(loss).lower(alpha) > limit;
    let mut above = limit.max(1e-9);
    while !detected(above) {
        above *= 2.0;
        if above > 1e6 {
            return None;
        }
    }
    let largest = if matches!(seen, Measured::Mean(_)) { f64::INFINITY } else { 1.0 };
    Some(bisect(limit, above, |loss| !detected(loss))).filter(|loss| *loss <= largest)
}

/// Log-likelihood differences that nobody has seen: nothing lost on average, with this standard deviation.
pub fn assumed_mean(count: f64, stddev: f64) -> Measured {
    Measured::Mean(SampledMean::assumed(count, 0.0, stddev))
}

/// The smallest whole count from `least` on at which `decided` holds.
pub(super) fn smallest_count(least: f64, decided: impl Fn(f64) -> bool) -> Option<f64> {
    let (mut below, mut above) = (least.ceil() - 1.0, least.ceil());
    while !decided(above) {
        (below, above) = (above, 2.0 * above);
        if above > MOST_PASSAGES {
            return None;
        }
    }
    while above - below > 1.0 {
        let middle = f64::midpoint(below, above).floor();
        if decided(middle) { above = middle } else { below = middle }
    }
    Some(above)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below MOST_PASSAGES, not negative")]
pub(super) fn whole(count: f64) -> u64 {
    count.max(0.0) as u64
}
