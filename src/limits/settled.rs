//! When an evaluation may stop: no model needs further passages to be decided.

use super::comparison::Comparisons;
use super::error::LimitsError;
use super::gates::Limits;
use super::judge::{Check, Finding, judge};
use crate::stats::Verdict;

/// The rule by which an evaluation stops, in words.
pub(crate) fn stopping_rule(significance: f64) -> String {
    format!(
        "stop when of every model one limit is beyond, or all that may not stay undecided are within, by confidence sequences \
         (betting for shares, asymptotic for means) over a random order of the passages, whose errors of at most {significance} hold \
         wherever one stops"
    )
}

/// How many of the models nothing further is asked of, and how many there are. Of one that is settled a limit is beyond, or all that
/// may not stay undecided are within.
pub(crate) fn settled(compared: Comparisons, significance: f64) -> Result<(usize, usize), LimitsError> {
    let limits_of: Vec<_> = compared.comparisons.iter().map(|one| (one.model.clone(), one.limits)).collect();
    let all = compared.seen_of.unwrap_or(0);
    let all_seen = compared.comparisons.iter().all(|comparison| comparison.doc_ids.len() >= all);
    let judgement = judge(compared, significance, &[])?;
    let is_settled = |(model, limits): &&(String, Limits)| {
        let checks: Vec<_> = judgement.checks.iter().filter(|check| check.model == *model).collect();
        model_is_settled(&checks, limits, all_seen)
    };
    Ok((limits_of.iter().filter(is_settled).count(), limits_of.len()))
}

fn model_is_settled(checks: &[&Check], limits: &Limits, all_seen: bool) -> bool {
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
