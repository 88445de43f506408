//! Confidence levels and intervals.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::function::erf::erf_inv;

use super::error::StatsError;

/// A two-sided confidence level strictly between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Confidence(f64);

impl Confidence {
    /// 95 %, the level of every interval by default.
    pub const P95: Self = Self(0.95);

    pub fn new(level: f64) -> Result<Self, StatsError> {
        if level > 0.0 && level < 1.0 {
            Ok(Self(level))
        } else {
            Err(StatsError::OutOfRange { what: "confidence level", value: level, expected: "between 0 and 1" })
        }
    }

    /// The level, such as `0.95`.
    pub(crate) fn level(self) -> f64 {
        self.0
    }

    /// The standard normal quantile `z` with `P(|Z| ≤ z)` equal to the level.
    pub(super) fn normal_quantile(self) -> f64 {
        std::f64::consts::SQRT_2 * erf_inv(self.0)
    }

    /// Probability left in each tail.
    pub(super) fn tail(self) -> f64 {
        (1.0 - self.0) / 2.0
    }
}

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interval {
    /// Lower limit.
    pub lower: f64,
    /// Upper limit.
    pub upper: f64,
}
