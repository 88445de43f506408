//! A loss as it was measured over passages, and the one-sided bounds of what it is over all passages like them.

use statrs::function::beta::beta_reg;

use super::mean::float;
use super::mean_bound::SampledMean;
use super::paired::{PairedCounts, tango_lower, tango_statistic};
use super::tail::{bisect, upper_quantile, upper_tail};

/// Positive where the variant is worse. Counts are real numbers, so that they can be expected ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measured {
    /// Passages right in the baseline only and in the variant only, of `count`: the loss is the difference of their shares, its
    /// bounds are Tango's.
    Paired { lost: f64, gained: f64, count: f64 },
    /// Passages that differ, of `count`: the loss is their share. C. Clopper and E. Pearson, Biometrika 26 (1934): exact.
    Share { differing: f64, count: f64 },
    /// The loss is a mean over passages.
    Mean(SampledMean),
}

impl Measured {
    pub fn paired(counts: PairedCounts) -> Self {
        let [lost, gained, count] = [counts.baseline_only(), counts.variant_only(), counts.count()].map(float);
        Self::Paired { lost, gained, count }
    }

    pub fn share(differing: usize, count: usize) -> Self {
        Self::Share { differing: float(differing), count: float(count) }
    }

    /// The loss on the passages seen.
    pub fn estimate(&self) -> f64 {
        match *self {
            Self::Paired { lost, gained, count } => (lost - gained) / count,
            Self::Share { differing, count } => differing / count,
            Self::Mean(mean) => mean.mean,
        }
    }

    pub fn count(&self) -> f64 {
        match *self {
            Self::Paired { count, .. } | Self::Share { count, .. } => count,
            Self::Mean(mean) => mean.count,
        }
    }

    /// Above the loss with probability 1 − `alpha`; infinite where nothing can be claimed.
    pub fn upper(&self, alpha: f64) -> f64 {
        match *self {
            Self::Paired { lost, gained, count } => -tango_lower(gained, lost, count, upper_quantile(alpha)),
            Self::Share { differing, count } if differing >= count => 1.0,
            Self::Share { differing, count } => bisect(differing / count, 1.0, |share| {
                beta_reg(differing + 1.0, count - differing, share) < 1.0 - alpha
            }),
            Self::Mean(mean) => mean.upper(alpha),
        }
    }

    /// Below the loss with probability 1 − `alpha`; infinite where nothing can be claimed.
    pub fn lower(&self, alpha: f64) -> f64 {
        match *self {
            Self::Paired { lost, gained, count } => tango_lower(lost, gained, count, upper_quantile(alpha)),
            Self::Share { differing, .. } if differing <= 0.0 => 0.0,
            Self::Share { differing, count } => {
                bisect(0.0, differing / count, |share| beta_reg(differing, count - differing + 1.0, share) < alpha)
            }
            Self::Mean(mean) => mean.lower(alpha),
        }
    }

    /// The p-value of a loss of at most `limit`: the smallest `alpha` at which [`lower`](Self::lower) is above it.
    pub fn p_beyond(&self, limit: f64) -> f64 {
        match *self {
            Self::Paired { lost, gained, count } => {
                let (distance, spread) = tango_statistic(lost, gained, count, limit);
                if distance > 0.0 { upper_tail(distance / spread) } else { 1.0 }
            }
            Self::Share { differing, count } if differing > limit * count && limit > 0.0 => {
                beta_reg(differing, count - differing + 1.0, limit)
            }
            Self::Share { differing, .. } => {
                if limit <= 0.0 && differing > 0.0 {
                    0.0
                } else {
                    1.0
                }
            }
            Self::Mean(mean) => mean.p_beyond(limit),
        }
    }

    /// What would have been seen, at the same rates and spread, of `count` passages.
    pub(super) fn scaled_to(self, count: f64) -> Self {
        let scale = count / self.count();
        match self {
            Self::Paired { lost, gained, .. } => Self::Paired { lost: lost * scale, gained: gained * scale, count },
            Self::Share { differing, .. } => Self::Share { differing: differing * scale, count },
            Self::Mean(mean) => Self::Mean(mean.scaled_to(count)),
        }
    }

    /// The same spread around no loss.
    pub fn without_loss(self) -> Self {
        self.around(0.0)
    }

    /// The same number of passages and the same spread around another loss.
    pub(super) fn around(self, loss: f64) -> Self {
        match self {
            Self::Paired { lost, gained, count } => {
                let (difference, discordant) = (loss * count, (lost + gained).max(loss.abs() * count));
                Self::Paired {
                    lost: f64::midpoint(discordant, difference),
                    gained: f64::midpoint(discordant, -difference),
                    count,
                }
            }
            Self::Share { count, .. } => Self::Share { differing: loss.max(0.0) * count, count },
            Self::Mean(mean) => Self::Mean(mean.around(loss)),
        }
    }
}
