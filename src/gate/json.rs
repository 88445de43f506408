//! The judgement with all its digits, for programs.

use serde::Serialize;

use crate::limits::Policy;
use crate::limits::{Check, Finding, Judgement, Outcome};

#[derive(Serialize)]
struct JudgementJson<'a> {
    outcome: &'static str,
    significance: f64,
    checks: Vec<CheckJson<'a>>,
    remarks: &'a [String],
}

#[derive(Serialize)]
struct CheckJson<'a> {
    task: &'a str,
    model: &'a str,
    against: &'static str,
    check: &'static str,
    verdict: &'static str,
    policy: &'static str,
    undecided_is_allowed: bool,
    #[serde(flatten)]
    numbers: Numbers,
}

/// Losses are positive where the model is worse: fractions of accuracy and of changed top tokens, nats of log-likelihood and KL.
#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Bounded {
        loss: f64,
        limit: f64,
        /// What rounding alone makes of the loss: beyond is one that exceeds the limit by more. Null where it makes all there is.
        noise: Option<f64>,
        /// Absent where no bound can be claimed.
        lower: Option<f64>,
        upper: Option<f64>,
        p_beyond: f64,
        beyond_significance: f64,
        passages: f64,
        more_passages: Option<u64>,
    },
    Exact {
        changed_passages: usize,
    },
}

/// JSON with a final line break.
pub(crate) fn to_json(judgement: &Judgement) -> Result<String, serde_json::Error> {
    let json = JudgementJson {
        outcome: match judgement.outcome() {
            Outcome::Passed => "passed",
            Outcome::Undecided => "undecided",
            Outcome::Failed => "failed",
        },
        significance: judgement.significance,
        checks: judgement.checks.iter().map(check).collect(),
        remarks: &judgement.remarks,
    };
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}

fn check(check: &Check) -> CheckJson<'_> {
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    CheckJson {
        task: &check.task,
        model: &check.model,
        against: check.reference.word(),
        check: check.name(),
        verdict: check.verdict().word(),
        policy: match check.policy {
            Policy::Critical => "critical",
            Policy::AllowUndecided => "allow-undecided",
            Policy::Advisory => "advisory",
        },
        undecided_is_allowed: check.undecided_is_allowed,
        numbers: match &check.finding {
            Finding::Bounded { measured, threshold, decision, .. } => Numbers::Bounded {
                loss: measured.estimate(),
                limit: threshold.limit,
                noise: finite(threshold.noise),
                lower: finite(decision.lower),
                upper: finite(decision.upper),
                p_beyond: decision.p_beyond,
                beyond_significance: decision.beyond_alpha,
                passages: measured.count(),
                more_passages: decision.more_passages,
            },
            Finding::Exact { changed, .. } => Numbers::Exact { changed_passages: *changed },
        },
    }
}
