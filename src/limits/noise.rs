//! What rounding alone makes of losses that are never negative: two runs of one model whose sums differ in their order diverge a
//! little. Losses of accuracy and of log-likelihood have a sign, and rounding makes them larger as often as smaller.

use std::collections::HashMap;

use super::error::LimitsError;
use super::outcomes::{Criterion, PairedOutcomes};
use crate::samples::{RollingText, Sample};

/// In the units of [`Criterion`]; zero where rounding made no difference, and where nobody measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Noise {
    divergence: f64,
    top_changes: f64,
    /// Whether there is nothing but rounding.
    is_all: bool,
}

impl Noise {
    /// Of a noise floor: the baseline's samples and those of its second run, which may cover other passages; those that both
    /// have are paired. An upper bound at `alpha`, or the loss seen where there are too few passages for one.
    pub(crate) fn measured<'a>(
        baseline: impl IntoIterator<Item = &'a Sample>,
        again: impl IntoIterator<Item = &'a Sample>,
        rolling: Option<RollingText>,
        alpha: f64,
    ) -> Result<Self, LimitsError> {
        let again: HashMap<usize, &Sample> = again.into_iter().map(|sample| (sample.doc_id, sample)).collect();
        let baseline = baseline.into_iter();
        let pairs: Vec<_> = baseline.filter_map(|first| Some((first, *again.get(&first.doc_id)?))).collect();
        if pairs.is_empty() {
            return Ok(Self::default());
        }
        let outcomes = PairedOutcomes::of_samples(&pairs, rolling, true);
        let bound = |criterion| {
            let measured = outcomes
                .measured(criterion)
                .map_err(|source| LimitsError::Stats { name: "noise floor".to_owned(), source })?
                .filter(|measured| measured.estimate() > 0.0);
            Ok::<_, LimitsError>(measured.map_or(0.0, |measured| {
                Some(measured.upper(alpha)).filter(|upper| upper.is_finite()).unwrap_or_else(|| measured.estimate())
            }))
        };
        Ok(Self {
            divergence: bound(Criterion::KlDivergence)?,
            top_changes: bound(Criterion::TopTokenChange)?,
            is_all: false,
        })
    }

    /// Of one model, computed in `dtype`. What an exact merge loses in 16 bits is rounding, of the same sign in every passage where
    /// folded weights were rounded, and larger than the noise floor, whose weights are those of the baseline.
    pub(crate) fn of_model(self, is_exact: bool, dtype: &str) -> Self {
        Self { is_all: is_exact && dtype != "f32", ..self }
    }

    pub(crate) fn of(&self, criterion: Criterion) -> f64 {
        match criterion {
            _ if self.is_all => f64::INFINITY,
            Criterion::KlDivergence => self.divergence,
            Criterion::TopTokenChange => self.top_changes,
            Criterion::AccuracyLoss | Criterion::PerplexityIncrease => 0.0,
        }
    }
}
