//! What was proven of a row's losses against the limits in force.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;
use crate::limits::{Criterion, Rounding, bound, limit, loss, noise_words};
use crate::stats::Verdict;

/// Where the limits of a report come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsInfo {
    /// The file, or `built-in`.
    pub origin: String,
    /// Chance of a false verdict: of *within* for each limit, of *beyond* for all limits of the report together.
    pub significance: f64,
}

/// A limit and what was proven of it. Losses are positive where the model is worse: fractions of accuracy and of changed top
/// tokens, nats of log-likelihood (the logarithm of the perplexity ratio) and of KL divergence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitVerdict {
    /// What the limit is for.
    pub criterion: Criterion,
    /// `within`: the upper bound is at or below the limit. `beyond`: the lower bound is above it by more than `noise`. `undecided`:
    /// neither.
    pub verdict: Verdict,
    /// The loss on the passages seen.
    pub loss: f64,
    /// One-sided lower bound, corrected for all limits of the report; absent where none can be claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<f64>,
    /// One-sided upper bound; absent where none can be claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<f64>,
    /// The largest loss that is allowed.
    pub limit: f64,
    /// What rounding alone makes of a divergence or of top tokens, by the noise floor; absent where it makes nothing, and where
    /// it makes all there is: an exact merge that is computed in 16 bits is never beyond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Whether the verdict may stay undecided, since another limit of the same model is proven.
    pub may_stay_undecided: bool,
    /// Where it is undecided, how many more passages would decide it at the rates and the spread seen; absent where no number does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_passages: Option<u64>,
    /// The smallest loss that as many passages show to be beyond the limit with a probability of 80 %; absent where they show none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
}

impl LimitVerdict {
    /// `KL divergence at most 1.00e−5 nats (limit 0.001 nats)`.
    pub(super) fn words(&self) -> String {
        let bound = bound(self.criterion, self.verdict, self.lower.zip(self.upper));
        let limit = limit(self.criterion, self.limit);
        if self.verdict != Verdict::Undecided {
            return format!("{} {bound} (limit {limit})", self.criterion.name());
        }
        let more = match self.more_passages {
            _ if self.lower.is_some_and(|lower| lower > self.limit) => {
                noise_words(self.criterion, self.noise.unwrap_or(f64::INFINITY))
            }
            Some(1) => "1 more passage would decide".to_owned(),
            Some(more) => format!("{} more passages would decide", format::grouped(more)),
            None => "no number of such passages would decide".to_owned(),
        };
        format!("{} undecided: {bound}, limit {limit}; {more}", self.criterion.name())
    }

    /// The loss that the passages show, in words.
    pub(super) fn detectable_words(&self) -> Option<String> {
        self.detectable
            .map(|detectable| loss(self.criterion, detectable, Rounding::Up).trim_start_matches('+').to_owned())
    }
}
