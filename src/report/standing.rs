//! The rows of a report against their limits.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::error::ReportError;
use super::info::UntilDecided;
use super::judged::LimitVerdict;
use super::rows::VariantRow;
use crate::limits::{
    Check, Comparison, Comparisons, Finding, Gates, LimitsError, Noise, PairedOutcomes, Policy, Reference, judge,
};
use crate::samples::{RollingText, Sample};
use crate::stats::{Verdict, smallest_detectable};

/// What the verdicts on a row's limits amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Every limit that must be proven is.
    Within,
    /// None is exceeded, and one that must be proven is not.
    Undecided,
    /// One is exceeded for certain.
    Beyond,
    /// There is no limit for it.
    NotJudged,
}

impl Standing {
    /// What the verdicts on the limits of one row amount to.
    pub(crate) fn of(verdicts: &[LimitVerdict]) -> Self {
        let any = |is: fn(&LimitVerdict) -> bool| verdicts.iter().any(is);
        if verdicts.is_empty() {
            Self::NotJudged
        } else if any(|limit| limit.verdict == Verdict::Beyond) {
            Self::Beyond
        } else if any(|limit| limit.verdict == Verdict::Undecided && !limit.may_stay_undecided) {
            Self::Undecided
        } else {
            Self::Within
        }
    }

    /// `within the limits`.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Within => "within the limits",
            Self::Undecided => "a limit is undecided",
            Self::Beyond => "beyond a limit",
            Self::NotJudged => "no limit",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Undecided => "undecided",
            Self::Beyond => "beyond",
            Self::NotJudged => "not judged",
        }
    }
}

impl VariantRow {
    /// Whether it is known to be the unmerged model in exact arithmetic.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact.as_ref().is_some_and(|exact| exact.exact)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::of(&self.verdicts)
    }
}

/// Judges all rows together; `samples` are those of the rows, in their order, `noise` is what rounding makes of their losses, computed in `dtype`. Of a run that stops once it is decided the verdicts are
/// those of its last look.
pub(super) fn judge_rows(
    rows: &mut [VariantRow],
    (baseline, samples): (&[Sample], &[&[Sample]]),
    (task, rolling): (&str, Option<RollingText>),
    (noise, dtype): (Noise, &str),
    gates: &Gates,
    until: Option<&UntilDecided>,
) -> Result<(), ReportError> {
    let places: HashMap<usize, usize> = baseline.iter().enumerate().map(|(at, sample)| (sample.doc_id, at)).collect();
    let order: Vec<usize> = match until {
        Some(until) => until.order.iter().filter_map(|doc_id| places.get(doc_id).copied()).collect(),
        None => (0..baseline.len()).collect(),
    };
    let comparisons = rows.iter().zip(samples).map(|(row, samples)| {
        let pairs: Vec<_> = order.iter().map(|&at| (&baseline[at], &samples[at])).collect();
        Comparison {
            task: task.to_owned(),
            model: row.model.name.clone(),
            reference: Reference::Baseline,
            limits: gates.of_any(task, row.model.names()),
            outcomes: PairedOutcomes::of_samples(&pairs, rolling, true),
            noise: noise.of_model(row.is_exact(), dtype),
            doc_ids: order.iter().map(|&at| baseline[at].doc_id).collect(),
        }
    });
    let comparisons: Vec<_> = comparisons.filter(|comparison| !comparison.limits.skip).collect();
    let seen_of = until.map(|until| until.of);
    let checks = match judge(Comparisons { comparisons, remarks: Vec::new(), seen_of }, gates.significance, &[]) {
        Ok(judgement) => judgement.checks,
        Err(LimitsError::NoLimit) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for row in rows {
        let own = checks.iter().filter(|check| check.model == row.model.name);
        let proven = own.clone().any(|check| check.verdict() == Verdict::Within);
        row.verdicts = own.filter_map(|check| verdict(check, proven, gates.significance)).collect();
    }
    Ok(())
}

/// None of a limit that is not a number. `proven`: whether another limit of the model is.
fn verdict(check: &Check, proven: bool, significance: f64) -> Option<LimitVerdict> {
    let Finding::Bounded { criterion, measured, threshold, decision } = &check.finding else { return None };
    let finite = |bound: f64| Some(bound).filter(|bound| bound.is_finite());
    let noise = finite(threshold.noise).filter(|noise| *noise > 0.0);
    Some(LimitVerdict {
        criterion: *criterion,
        verdict: decision.verdict,
        loss: measured.estimate(),
        lower: finite(decision.lower),
        upper: finite(decision.upper),
        limit: threshold.limit,
        noise,
        may_stay_undecided: proven && check.policy != Policy::Critical,
        more_passages: decision.more_passages,
        detectable: smallest_detectable(
            *measured,
            if noise.is_some() { *threshold } else { threshold.limit.into() },
            significance,
        ),
    })
}
