//! Deciding before all passages are seen. The passages are in a random order that was fixed before, and what was seen of them is a
//! beginning of it: a verdict's error holds at whatever number of passages it is asked for.

use super::comparison::Comparison;
use super::error::LimitsError;
use super::outcomes::Criterion;
use crate::stats::{Decision, EarlyLook, Measured, StatsError, Threshold};

/// A loss and what it is judged against, and the comparison that they are of.
pub(super) type Judged<'a> = (&'a Comparison, Criterion, Measured, Threshold);

/// Decides limits that are judged together after a look at passages of which `total` are to be seen.
pub(super) fn decide_early(limits: &[Judged<'_>], alpha: f64, total: usize) -> Result<Vec<Decision>, LimitsError> {
    #[expect(clippy::cast_precision_loss, reason = "numbers of limits and passages")]
    let (together, total) = (limits.len() as f64, total as f64);
    let look = EarlyLook { alpha, beyond_alpha: alpha / together };
    let decisions = limits.iter().map(|judged| {
        let failed = |source| LimitsError::Stats { name: judged.0.model.clone(), source };
        decide_one(look, judged, total).map_err(failed)
    });
    decisions.collect()
}

fn decide_one(look: EarlyLook, judged: &Judged<'_>, total: f64) -> Result<Decision, StatsError> {
    let (comparison, criterion, measured, threshold) = judged;
    match (measured, criterion) {
        (Measured::Mean(mean), _) => Ok(look.mean(mean, *threshold, total)),
        (_, Criterion::TopTokenChange) => look.share(&comparison.outcomes.differing(), *threshold),
        _ => look.accuracy(&comparison.outcomes.losses(), *threshold),
    }
}
