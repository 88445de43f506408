//! When a run that stops once every model is decided may stop: a matter of what is recorded alone, so that a run that is continued
//! stops where it would have stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ModelScores, ModelsRecord, Records};
use crate::limits::{
    Comparison, Comparisons, Gates, LimitsError, Noise, PairedOutcomes, Reference, settled, stopping_rule,
};
use crate::report::{ModelRole, UntilDecided};
use crate::run::error::RunError;
use crate::samples::Sample;
use crate::stats::EarlyLook;

/// How a run decides when to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoppingRule {
    /// The file of the limits, or `built-in`.
    pub limits: String,
    /// Its text.
    pub gates: String,
    /// The passages by `doc_id` in the random order in which they are evaluated.
    pub order: Vec<usize>,
}

/// The looks that a run has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looks {
    /// After so many passages each.
    pub after: Vec<usize>,
    /// At the last one: how many models were decided, and how many there are.
    pub settled: (usize, usize),
}

impl Looks {
    pub(crate) fn decided(&self) -> bool {
        !self.after.is_empty() && self.settled.0 == self.settled.1
    }
}

impl StoppingRule {
    pub(crate) fn gates(&self) -> Result<Gates, LimitsError> {
        Gates::parse(&self.gates, &self.limits)
    }
}

impl Records {
    /// The looks after every block that is finished, up to the first that decides; `None` for a run of all passages.
    pub(crate) fn looks(&self) -> Result<Option<Looks>, RunError> {
        let Some(rule) = &self.run.stopping else { return Ok(None) };
        let mut looks = Looks { after: Vec::new(), settled: (0, 0) };
        let Some(models) = &self.models else { return Ok(Some(looks)) };
        let gates = rule.gates()?;
        let samples: Vec<_> = (0..models.models.len()).map(|model| self.by_passage(model)).collect();
        for end in EarlyLook::slices(rule.order.len()) {
            let Some(compared) = self.compared(models, &samples, &rule.order[..end], &gates)? else { break };
            looks.after.push(end);
            // Where no model is left, all overflow: more passages change nothing.
            let nothing = compared.comparisons.is_empty();
            looks.settled = if nothing { (0, 0) } else { settled(compared, gates.significance)? };
            if looks.decided() {
                break;
            }
        }
        Ok(Some(looks))
    }

    /// What the report says of them.
    pub(super) fn until_decided(&self) -> Result<Option<UntilDecided>, RunError> {
        let (Some(looks), Some(rule)) = (self.looks()?, &self.run.stopping) else { return Ok(None) };
        let seen = looks.after.last().copied().unwrap_or(0);
        Ok(Some(UntilDecided {
            rule: stopping_rule(rule.gates()?.significance),
            limits: rule.limits.clone(),
            decided: looks.decided(),
            looked_after: looks.after,
            of: rule.order.len(),
            order: rule.order[..seen].to_vec(),
        }))
    }

    /// A model's samples by passage, but those of slices where its numbers overflow.
    fn by_passage(&self, model: usize) -> BTreeMap<usize, &Sample> {
        let scores = self.slices.iter().filter_map(|slice| slice.scores.get(model));
        let samples = scores.flat_map(|scores| match scores {
            ModelScores::Samples(samples) => samples.as_slice(),
            ModelScores::NotFinite { .. } => &[],
        });
        samples.map(|sample| (sample.doc_id, sample)).collect()
    }

    /// Every model with limits beside the baseline on these passages; `None` where they are not all evaluated.
    ///
    /// # Errors
    /// Numbers that no statistics can be made of.
    fn compared(
        &self,
        models: &ModelsRecord,
        samples: &[BTreeMap<usize, &Sample>],
        passages: &[usize],
        gates: &Gates,
    ) -> Result<Option<Comparisons>, RunError> {
        let of = |model: usize| {
            let samples = passages.iter().map(|passage| samples[model].get(passage).copied());
            samples.collect::<Option<Vec<&Sample>>>()
        };
        let place = |role| models.models.iter().position(|model| model.role == role);
        let Some(baseline) = place(ModelRole::Baseline).and_then(of) else { return Ok(None) };
        let again = place(ModelRole::NoiseFloor).into_iter().flat_map(|floor| samples[floor].values().copied());
        let first = baseline.iter().copied();
        let noise = Noise::measured(first, again, self.run.task.rolling, gates.significance)?;
        let mut comparisons = Vec::new();
        let distinct = models.models.iter().enumerate().filter(|(at, model)| {
            model.role == ModelRole::Variant && models.same_as.get(*at).copied().flatten().is_none()
        });
        for (at, model) in distinct {
            let also = models.also(at);
            let names = std::iter::once(model.name.as_str()).chain(also.map(|other| other.name.as_str()));
            let limits = gates.of_any(&self.run.task.name, names);
            // One that overflows is left out of the report.
            let (false, Some(variant)) = (limits.skip, of(at)) else { continue };
            let pairs: Vec<_> = baseline.iter().copied().zip(variant).collect();
            comparisons.push(Comparison {
                task: self.run.task.name.clone(),
                model: model.name.clone(),
                reference: Reference::Baseline,
                limits,
                outcomes: PairedOutcomes::of_samples(&pairs, self.run.task.rolling, true),
                noise: noise.of_model(model.exact.as_ref().is_some_and(|exact| exact.exact), &self.run.dtype),
                doc_ids: passages.to_vec(),
            });
        }
        let seen_of = self.run.stopping.as_ref().map(|rule| rule.order.len());
        Ok(Some(Comparisons { comparisons, seen_of, ..Comparisons::default() }))
    }
}
