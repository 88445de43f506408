//! The stages of a merge that calibrates, to be written: the same calibration, stage by stage, that the evaluation runs,
//! without passages to score.

use tch::Device;

use super::EvalError;
use super::calibration::Calibrator;
use super::packing::TokenizedPassage;
use crate::config::Architecture;
use crate::merge::{Exactness, StageMerger, Strategy};
use crate::partition::StageTensors;

pub struct CalibratedMerge<'a> {
    architecture: &'a Architecture,
    strategy: &'a Strategy,
    calibrator: Option<Calibrator<'a>>,
}

impl<'a> CalibratedMerge<'a> {
    /// Nothing runs yet. With the passages and the device of an evaluation the stages are bit for bit the ones that it
    /// evaluates, whatever type it computes in.
    pub fn new(
        architecture: &'a Architecture,
        strategy: &'a Strategy,
        device: Device,
        passages: &[TokenizedPassage],
    ) -> Result<Self, EvalError> {
        let strategies = std::iter::once((0, strategy));
        let calibrator = Calibrator::new(architecture, device, strategies, passages)?;
        Ok(Self { architecture, strategy, calibrator })
    }

    /// Merges the next stage; they come in the order in which they run.
    pub fn stage(&mut self, stage: &StageTensors, exactness: &mut Exactness) -> Result<StageTensors, EvalError> {
        let _no_grad = tch::no_grad_guard();
        let mut merger = StageMerger::new(stage, self.architecture);
        if let Some(calibrator) = &mut self.calibrator
            && let Some(corrected) =
                calibrator.stage(stage, &mut merger, None, std::slice::from_mut(exactness))?.remove(&0)
        {
            return Ok(corrected);
        }
        Ok(merger.merge(self.strategy, exactness)?)
    }
}
