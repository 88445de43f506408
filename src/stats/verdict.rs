//! Within, beyond or undecided: what a limit's verdict may say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::measured::Measured;
use super::plan::passages_needed;
use super::threshold::Threshold;

/// What was proven about a loss and its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The loss is at most the limit: the upper end of its one-sided bound is.
    Within,
    /// The loss exceeds the limit by more than rounding explains: the lower end of its one-sided bound does, also with Holm's
    /// correction over all limits judged together.
    Beyond,
    /// Neither is proven.
    Undecided,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Beyond => "beyond",
            Self::Undecided => "undecided",
        }
    }
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub verdict: Verdict,
    /// One-sided upper bound at α; infinite where none can be claimed.
    pub upper: f64,
    /// One-sided lower bound at [`beyond_alpha`](Self::beyond_alpha); minus infinity where none can be claimed.
    pub lower: f64,
    /// The α that Holm's correction leaves for [`Verdict::Beyond`].
    pub beyond_alpha: f64,
    /// The p-value, uncorrected, of a loss that is not beyond.
    pub p_beyond: f64,
    /// Of an undecided one: how many more passages decide it at the rates and the spread seen; `None` where no number that can be had
    /// does, as for a loss as large as its limit.
    pub more_passages: Option<u64>,
}

/// Decides limits that are judged together.
///
/// *Within* claims hold with probability 1 − `alpha` each, and so does the claim that all are within: it is false only if one of
/// them is. *Beyond* claims hold together with probability 1 − `alpha`, by S. Holm's step-down procedure (Scandinavian
/// Journal of Statistics 6, 1979).
pub fn decide(judged: &[(Measured, Threshold)], alpha: f64) -> Vec<Decision> {
    let p_values: Vec<f64> = judged
        .iter()
        .map(|(loss, threshold)| if threshold.noise.is_finite() { loss.p_beyond(threshold.beyond()) } else { 1.0 })
        .collect();
    let mut by_p: Vec<usize> = (0..judged.len()).collect();
    by_p.sort_by(|one, other| p_values[*one].total_cmp(&p_values[*other]));
    let mut decisions: Vec<Option<Decision>> = vec![None; judged.len()];
    // The step at which the procedure stops; what comes after it has the same α.
    let (mut left, mut rejecting) = (judged.len(), true);
    for index in by_p {
        #[expect(clippy::cast_precision_loss, reason = "a number of limits")]
        let beyond_alpha = alpha / left as f64;
        rejecting &= p_values[index] <= beyond_alpha;
        if rejecting {
            left -= 1;
        }
        decisions[index] = Some(Decision::of(judged[index], p_values[index], rejecting, alpha, beyond_alpha));
    }
    decisions.into_iter().flatten().collect()
}

impl Decision {
    /// What rounding alone makes of the loss, where that is why it is undecided: it exceeds its limit, and is not beyond.
    pub fn hidden_by_noise(&self, threshold: Threshold) -> Option<f64> {
        (self.verdict == Verdict::Undecided && self.lower > threshold.limit).then_some(threshold.noise)
    }

    fn of(
        (loss, threshold): (Measured, Threshold),
        p_beyond: f64,
        rejected: bool,
        alpha: f64,
        beyond_alpha: f64,
    ) -> Self {
        let (lower, upper) = (loss.lower(beyond_alpha), loss.upper(alpha));
        let verdict = match (rejected, upper <= threshold.limit) {
            (true, _) => Verdict::Beyond,
            (false, true) => Verdict::Within,
            (false, false) => Verdict::Undecided,
        };
        let more_passages =
            if verdict == Verdict::Undecided { passages_needed(loss, threshold, alpha, beyond_alpha) } else { None };
        Self { verdict, upper, lower, beyond_alpha, p_beyond, more_passages }
    }
}
