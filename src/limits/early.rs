//! Judging before all passages are seen. The passages are in a random order that was fixed before, and what was seen of them is a
//! beginning of it: a verdict's error holds at whatever number of passages it is asked for.

use super::comparison::{Comparison, Comparisons};
use super::error::LimitsError;
use super::gates::Limits;
use super::judge::{Check, Finding, Judgement, judge_by};
use super::outcomes::Criterion;
use crate::stats::{Decision, EarlyLook, Measured, StatsError, Verdict};

/// The rule by which an evaluation stops, in words.
pub(crate) fn stopping_rule(significance: f64) -> String {
    format!(
        "looks after 64 passages of a random order, then after half as many again each time; stops when of every model a limit is \
         beyond or all that may not stay undecided are within, by betting (shares) and asymptotic (means) confidence sequences: at \
         whatever look it stops, a verdict is wrong with a probability of at most {significance}"
    )
}

/// As [`judge`](super::judge), of passages in the random order of which `total` are to be seen.
pub(crate) fn judge_early(
    compared: Comparisons,
    significance: f64,
    given: &[Criterion],
    total: usize,
) -> Result<Judgement, LimitsError> {
    judge_by(compared, significance, given, |limits| {
        #[expect(clippy::cast_precision_loss, reason = "numbers of limits and passages")]
        let (together, total) = (limits.len() as f64, total as f64);
        let look = EarlyLook { alpha: significance, beyond_alpha: significance / together };
        let decision = |(comparison, criterion, measured, limit): &(&Comparison, Criterion, Measured, f64)| {
            decide_early(look, comparison, *criterion, *measured, *limit, total)
                .map_err(|source| LimitsError::Stats { name: comparison.model.clone(), source })
        };
        limits.iter().map(decision).collect()
    })
}

fn decide_early(
    look: EarlyLook,
    comparison: &Comparison,
    criterion: Criterion,
    measured: Measured,
    limit: f64,
    total: f64,
) -> Result<Decision, StatsError> {
    match measured {
        Measured::Mean(mean) => Ok(look.mean(&mean, limit, total)),
        Measured::Share { .. } | Measured::Paired { .. } if criterion == Criterion::TopTokenChange => {
            look.share(&comparison.outcomes.differing(), limit)
        }
        Measured::Share { .. } | Measured::Paired { .. } => look.accuracy(&comparison.outcomes.losses(), limit),
    }
}

/// How many of the comparisons nothing further is asked of, and how many there are. Of one that is settled a limit is beyond, or all
/// that may not stay undecided are within.
pub(crate) fn settled(compared: Comparisons, significance: f64, total: usize) -> Result<(usize, usize), LimitsError> {
    let limits_of: Vec<_> = compared.comparisons.iter().map(|one| (one.model.clone(), one.limits)).collect();
    let all_seen = compared.comparisons.iter().all(|comparison| comparison.doc_ids.len() >= total);
    let judgement = judge_early(compared, significance, &[], total)?;
    let is_settled = |(model, limits): &&(String, Limits)| {
        let checks: Vec<_> = judgement.checks.iter().filter(|check| check.model == *model).collect();
        comparison_is_settled(&checks, limits, all_seen)
    };
    Ok((limits_of.iter().filter(is_settled).count(), limits_of.len()))
}

fn comparison_is_settled(checks: &[&Check], limits: &Limits, all_seen: bool) -> bool {
    if checks.iter().any(|check| check.verdict() == Verdict::Beyond) {
        return true;
    }
    let may_stay_undecided = |check: &Check| match check.finding {
        Finding::Bounded { criterion, .. } => limits.bound(criterion).is_some_and(|bound| bound.may_stay_undecided),
        Finding::Exact { .. } => false,
    };
    let (optional, required): (Vec<&Check>, Vec<&Check>) = checks.iter().partition(|check| may_stay_undecided(check));
    let asked = if required.is_empty() { optional } else { required };
    asked.iter().all(|check| match check.finding {
        Finding::Bounded { .. } => check.verdict() == Verdict::Within,
        // That none changes is known once all are seen.
        Finding::Exact { .. } => all_seen,
    })
}
