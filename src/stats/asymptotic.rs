//! Asymptotic confidence sequences: bounds of a mean of unbounded numbers that hold, in the limit of many, at every number of
//! passages at once.
//!
//! I. Waudby-Smith, D. Arbour, R. Sinha, E. Kennedy and A. Ramdas, "Time-uniform central limit theory and asymptotic
//! confidence sequences", Annals of Statistics 52 (2024): the one-sided Gaussian mixture boundary.

use super::confidence::Interval;
use super::error::{StatsError, check_values};
use super::mean::float;

/// Bounds of a mean at any number of passages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AsymptoticSequence {
    /// The error of each end, over all numbers of passages together.
    pub alpha: f64,
    /// The number of passages at which the bounds are sharpest.
    pub sharpest_at: f64,
}

impl AsymptoticSequence {
    /// Both one-sided bounds after these values.
    pub fn bounds(&self, values: &[f64]) -> Result<Interval, StatsError> {
        check_values("values of a sequence", values)?;
        let count = float(values.len());
        let mean = super::mean::mean_of(values);
        let variance = super::mean::sum(values.iter().map(|value| (value - mean).powi(2))) / count;
        let margin = variance.sqrt() * self.unit_margin(count);
        Ok(Interval { lower: mean - margin, upper: mean + margin })
    }

    /// The margin after `count` values in standard errors of their mean.
    pub(super) fn quantile(&self, count: f64) -> f64 {
        self.unit_margin(count) * count.sqrt()
    }

    /// The margin after `count` values of variance 1,
    /// `√(2(tρ² + 1)/(t²ρ²) · ln(1 + √(tρ² + 1)/(2α)))`.
    pub fn unit_margin(&self, count: f64) -> f64 {
        let rho_squared = self.rho_squared();
        let mixed = count * rho_squared + 1.0;
        (2.0 * mixed / (count * count * rho_squared) * (mixed.sqrt() / (2.0 * self.alpha)).ln_1p()).sqrt()
    }

    /// `ρ² = (−2 ln 2α + ln(−2 ln 2α) + 1)/t`: the paper's choice for the two-sided sequence at 2α, which the one-sided
    /// one follows closely.
    fn rho_squared(&self) -> f64 {
        let twice = -2.0 * (2.0 * self.alpha).min(0.5).ln();
        (twice + twice.ln() + 1.0) / self.sharpest_at
    }
}
