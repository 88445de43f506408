//! The verdict on every limit, and what they amount to.

use std::collections::BTreeSet;

use super::comparison::{Comparison, Comparisons, Reference};
use super::early::decide_early;
use super::error::LimitsError;
use super::gates::Policy;
use super::outcomes::Criterion;
use crate::stats::{Decision, Measured, Threshold, Verdict, decide};

const NAMED_PASSAGES: usize = 5;

/// What was checked, and what was found.
pub(crate) enum Finding {
    /// A loss and what it was judged against, in the unit of the criterion.
    Bounded { criterion: Criterion, measured: Measured, threshold: Threshold, decision: Decision },
    /// The passages whose outcome changed, where none may.
    Exact { changed: usize, first: Vec<usize> },
}

pub(crate) struct Check {
    pub task: String,
    pub model: String,
    pub reference: Reference,
    pub policy: Policy,
    /// Whether an undecided verdict is allowed: the policy says so, and another limit of the comparison is proven.
    pub undecided_is_allowed: bool,
    pub finding: Finding,
}

impl Check {
    pub(crate) fn verdict(&self) -> Verdict {
        match &self.finding {
            Finding::Bounded { decision, .. } => decision.verdict,
            Finding::Exact { changed: 0, .. } => Verdict::Within,
            Finding::Exact { .. } => Verdict::Beyond,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self.verdict() {
            _ if self.policy == Policy::Advisory => Outcome::Passed,
            Verdict::Beyond => Outcome::Failed,
            Verdict::Undecided if !self.undecided_is_allowed => Outcome::Undecided,
            Verdict::Undecided | Verdict::Within => Outcome::Passed,
        }
    }

    /// How many more passages would decide it; `None` where no number does.
    pub(crate) fn passages_missing(&self) -> Option<u64> {
        match &self.finding {
            Finding::Bounded { decision, .. } => decision.more_passages,
            Finding::Exact { .. } => None,
        }
    }

    /// What rounding alone makes of the loss, where that is why it is undecided: it exceeds its limit, and is not beyond.
    pub(crate) fn hidden_by_noise(&self) -> Option<f64> {
        match &self.finding {
            Finding::Bounded { threshold, decision, .. } => decision.hidden_by_noise(*threshold),
            Finding::Exact { .. } => None,
        }
    }

    fn comparison(&self) -> (&str, &str, Reference) {
        (&self.task, &self.model, self.reference)
    }
}

/// What the checks amount to, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every limit that counts is proven.
    Passed,
    /// None is exceeded for certain, and one is not proven.
    Undecided,
    /// One is exceeded for certain.
    Failed,
}

pub(crate) struct Judgement {
    /// In the order of the comparisons.
    pub checks: Vec<Check>,
    /// What was not judged, and why.
    pub remarks: Vec<String>,
    pub significance: f64,
}

impl Judgement {
    pub(crate) fn outcome(&self) -> Outcome {
        self.checks.iter().map(Check::outcome).max().unwrap_or(Outcome::Undecided)
    }

    /// Whether the checks are of more than one task.
    pub(crate) fn has_tasks(&self) -> bool {
        self.checks.iter().map(|check| &check.task).collect::<BTreeSet<_>>().len() > 1
    }
}

/// Judges all comparisons together. `given` are criteria whose limits were asked for: each must be checked somewhere.
pub(crate) fn judge(compared: Comparisons, significance: f64, given: &[Criterion]) -> Result<Judgement, LimitsError> {
    let Comparisons { comparisons, mut remarks, seen_of } = compared;
    let mut measured: Vec<(&Comparison, Criterion, Policy, Measured, Threshold)> = Vec::new();
    for comparison in &comparisons {
        let Comparison { model, reference, limits, outcomes, noise, .. } = comparison;
        for criterion in Criterion::ALL {
            let Some(bound) = limits.bound(criterion) else { continue };
            let loss = outcomes.measured(criterion);
            match loss.map_err(|source| LimitsError::Stats { name: model.clone(), source })? {
                Some(loss) => {
                    let threshold = Threshold { limit: bound.limit, noise: noise.of(criterion) };
                    measured.push((comparison, criterion, bound.policy, loss, threshold));
                }
                None if *reference == Reference::Baseline => {
                    remarks
                        .push(format!("{}: not checked: its samples do not have it", subject(comparison, criterion)));
                }
                None => {}
            }
        }
    }
    if let Some(criterion) = given.iter().find(|given| !measured.iter().any(|(_, criterion, ..)| criterion == *given)) {
        return Err(LimitsError::NotMeasured { what: criterion.name() });
    }
    if measured.is_empty() && !comparisons.iter().any(|comparison| comparison.limits.expect_exact) {
        return Err(LimitsError::NoLimit);
    }
    let decisions = if let Some(total) = seen_of {
        let limits: Vec<_> =
            measured.iter().map(|(one, criterion, _, loss, threshold)| (*one, *criterion, *loss, *threshold)).collect();
        decide_early(&limits, significance, total)?
    } else {
        let limits: Vec<_> = measured.iter().map(|(.., loss, threshold)| (*loss, *threshold)).collect();
        decide(&limits, significance)
    };
    let bounded =
        measured.into_iter().zip(decisions).map(|((comparison, criterion, policy, loss, threshold), decision)| {
            check(comparison, policy, Finding::Bounded { criterion, measured: loss, threshold, decision })
        });
    let exact = comparisons.iter().filter(|comparison| comparison.limits.expect_exact).map(|comparison| {
        let changed = comparison.outcomes.changed();
        let first = changed.iter().take(NAMED_PASSAGES).filter_map(|at| comparison.doc_ids.get(*at).copied()).collect();
        let policy = comparison.limits.policy.unwrap_or_default();
        check(comparison, policy, Finding::Exact { changed: changed.len(), first })
    });
    let mut checks: Vec<Check> = bounded.chain(exact).collect();
    // By comparison, as they were given; sorting is stable.
    checks.sort_by_key(|check| {
        comparisons.iter().position(|one| (one.task.as_str(), one.model.as_str(), one.reference) == check.comparison())
    });
    allow_undecided(&mut checks);
    Ok(Judgement { checks, remarks, significance })
}

fn check(comparison: &Comparison, policy: Policy, finding: Finding) -> Check {
    let Comparison { task, model, reference, .. } = comparison;
    let (task, model) = (task.clone(), model.clone());
    Check { task, model, reference: *reference, policy, undecided_is_allowed: false, finding }
}

/// Only where something else is proven of the same comparison: nothing passes by ignorance alone.
fn allow_undecided(checks: &mut [Check]) {
    for comparison in checks.chunk_by_mut(|one, other| one.comparison() == other.comparison()) {
        let proven = |check: &Check| {
            check.policy == Policy::Critical
                && check.verdict() == Verdict::Within
                && matches!(check.finding, Finding::Bounded { .. })
        };
        if comparison.iter().any(proven) {
            for check in comparison.iter_mut().filter(|check| check.policy == Policy::AllowUndecided) {
                check.undecided_is_allowed = true;
            }
        }
    }
}

fn subject(comparison: &Comparison, criterion: Criterion) -> String {
    format!("`{}` in {}: {}", comparison.model, comparison.task, criterion.name())
}
