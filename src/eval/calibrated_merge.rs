//! The stages that a strategy which calibrates makes, for whoever writes them: the same calibration, stage by stage, that
//! the evaluation runs, without passages to score.

use super::calibration::Calibrator;
use super::packing::TokenizedPassage;
use super::variant::{Variant, Weights};
use super::{EvalError, budget};
use crate::config::Architecture;
use crate::merge::{Exactness, StageMerger, Strategy};
use crate::model::Backend;
use crate::partition::StageTensors;

/// A merge whose corrections are measured as its stages go by.
pub struct CalibratedMerge<'a> {
    architecture: &'a Architecture,
    variants: [Variant; 1],
    calibrator: Option<Calibrator>,
}

impl<'a> CalibratedMerge<'a> {
    /// Nothing runs yet. With the passages, device and type of an evaluation the stages are bit for bit the ones that it
    /// evaluates.
    ///
    /// # Errors
    /// The device cannot hold the passages.
    pub fn new(
        architecture: &'a Architecture,
        strategy: &Strategy,
        backend: Backend,
        passages: &[TokenizedPassage],
    ) -> Result<Self, EvalError> {
        let variants = [Variant::merged(strategy.clone())];
        let chunk_tokens = budget::default_chunk_tokens(backend).max(1);
        let calibrator = Calibrator::new(architecture, backend, &variants, passages, chunk_tokens)?;
        Ok(Self { architecture, variants, calibrator })
    }

    /// Merges the next stage; they come in the order in which they run.
    ///
    /// # Errors
    /// A strategy that cannot be applied, or the forward pass.
    pub fn stage(&mut self, stage: &StageTensors, exactness: &mut Exactness) -> Result<StageTensors, EvalError> {
        let _no_grad = tch::no_grad_guard();
        let mut merger = StageMerger::new(stage, self.architecture);
        if let Some(calibrator) = &mut self.calibrator {
            let exactness = std::slice::from_mut(exactness);
            let mut corrected = calibrator.stage(self.architecture, stage, &mut merger, &self.variants, exactness)?;
            if let Some(stage) = corrected.remove(&0) {
                return Ok(stage);
            }
        }
        let Weights::Merged(strategy) = &self.variants[0].weights else {
            return Ok(stage.clone());
        };
        Ok(merger.merge(strategy, exactness)?)
    }
}
