//! Calibration: the passages that strategies which calibrate may use run through the unmerged model and the merge side
//! by side, stage by stage, and the merge's column-parallel biases are corrected as they go.

use std::collections::BTreeMap;

use tch::{Device, Kind};

use super::EvalError;
use super::budget::default_chunk_tokens;
use super::chunk_plan::ChunkPlan;
use super::device_run::{DeviceRun, StageInput};
use super::packing::{TokenizedPassage, after_prompt};
use crate::config::Architecture;
use crate::merge::{CalibratedNorm, Exactness, NormOutputMeans, StageMerger, Strategy, correct};
use crate::model::{Backend, LayerMeans, ModelError, Uploader};
use crate::partition::{StageId, StageTensors};

/// The calibration passages of one run.
pub(super) struct Calibrator<'a> {
    architecture: &'a Architecture,
    run: DeviceRun,
    baseline: Option<usize>,
    merges: Vec<CalibratedVariant<'a>>,
    streams_differ: bool,
}

#[derive(Clone, Copy)]
struct CalibratedVariant<'a> {
    variant: usize,
    strategy: &'a Strategy,
    stream: Option<usize>,
}

impl<'a> Calibrator<'a> {
    /// `strategies` are those of the merges, with the variants' places; `None` where none of them calibrates or the model
    /// needs no calibration. It computes in float32 whatever the evaluation computes in: the merge is then one and the same.
    pub(super) fn new(
        architecture: &'a Architecture,
        device: Device,
        strategies: impl Iterator<Item = (usize, &'a Strategy)>,
        passages: &[TokenizedPassage],
    ) -> Result<Option<Self>, EvalError> {
        let calibrating = strategies.filter(|(_, strategy)| strategy.calibrate);
        let merges: Vec<_> =
            calibrating.map(|(variant, strategy)| CalibratedVariant { variant, strategy, stream: None }).collect();
        if merges.is_empty() || passages.is_empty() || !architecture.streams_can_differ() {
            return Ok(None);
        }
        let backend = Backend { device, kind: Kind::Float };
        let plan = ChunkPlan::new(after_prompt(architecture, passages), default_chunk_tokens(backend));
        let run = DeviceRun::new(architecture, backend, &plan.everything()).map_err(EvalError::Device)?;
        Ok(Some(Self { architecture, run, baseline: None, merges, streams_differ: false }))
    }

    /// Runs the calibration passages through a stage, of which some tensors may be `there`, on the device. Returns the corrected weights of every variant that calibrates;
    /// nothing while the ranks still share one stream.
    pub(super) fn stage(
        &mut self,
        stage: &StageTensors,
        merger: &mut StageMerger<'_>,
        there: Option<&Uploader>,
        exactness: &mut [Exactness],
    ) -> Result<BTreeMap<usize, StageTensors>, EvalError> {
        let backend = self.run.backend;
        let uploader = &mut there.map_or_else(|| Uploader::new(backend), |there| there.sharing(backend));
        let streams_differ_before = self.streams_differ;
        self.streams_differ |= merger.forks_streams();
        let mut corrected = BTreeMap::new();
        if stage.id == StageId::Output {
            for &CalibratedVariant { variant, strategy, stream } in self.merges.iter().filter(|_| streams_differ_before)
            {
                let mut weights = merger.merge(strategy, &mut exactness[variant])?;
                self.correct_head(stage, &mut weights, stream, uploader, &mut exactness[variant])?;
                corrected.insert(variant, weights);
            }
            return Ok(corrected);
        }
        let mut means = LayerMeans::default();
        self.baseline = Some(self.pass(stage, uploader, self.baseline, true, Some(&mut means))?);
        for place in 0..self.merges.len() {
            let CalibratedVariant { variant, strategy, stream } = self.merges[place];
            let mut weights = merger.merge(strategy, &mut exactness[variant])?;
            if self.streams_differ && matches!(stage.id, StageId::Layer(_)) {
                self.correct_layer(stage, &mut weights, uploader, stream, &means, &mut exactness[variant])?;
                corrected.insert(variant, weights.clone());
            }
            self.merges[place].stream = Some(self.pass(&weights, uploader, stream, true, None)?);
        }
        Ok(corrected)
    }

    /// The output of the norm before the attention does not depend on this layer's corrections, that of the norm before the
    /// MLP depends on the attention's. Hence two passes.
    fn correct_layer(
        &mut self,
        unmerged: &StageTensors,
        weights: &mut StageTensors,
        uploader: &mut Uploader,
        stream: Option<usize>,
        unmerged_means: &LayerMeans,
        exactness: &mut Exactness,
    ) -> Result<(), EvalError> {
        for norm in [CalibratedNorm::Input, CalibratedNorm::Mlp] {
            let mut merged_means = LayerMeans::default();
            self.pass(weights, uploader, stream, false, Some(&mut merged_means))?;
            let of_norm = |means: &LayerMeans, stage: &StageTensors| {
                let means = if norm == CalibratedNorm::Input { &means.input } else { &means.mlp };
                means.per_rank(stage.tp_size).map_err(failed_at(stage.id))
            };
            let (own, merged) = (of_norm(unmerged_means, unmerged)?, of_norm(&merged_means, weights)?);
            if let (Some(merged), false) = (merged.first(), own.is_empty()) {
                let means = NormOutputMeans { ranks: &own, merged };
                exactness.add_fold(correct(unmerged, weights, self.architecture, norm, means)?);
            }
        }
        Ok(())
    }

    fn correct_head(
        &self,
        unmerged: &StageTensors,
        weights: &mut StageTensors,
        stream: Option<usize>,
        uploader: &mut Uploader,
        exactness: &mut Exactness,
    ) -> Result<(), EvalError> {
        let (Some(baseline), Some(stream)) = (self.baseline, stream) else { return Ok(()) };
        let mut means = |stage: &StageTensors, stream| {
            self.run.final_norm_means(self.architecture, stage, uploader, stream).map_err(failed_at(stage.id))
        };
        let (own, merged) = (means(unmerged, baseline)?, means(weights, stream)?);
        if let Some(merged) = merged.first() {
            let means = NormOutputMeans { ranks: &own, merged };
            exactness.add_fold(correct(unmerged, weights, self.architecture, CalibratedNorm::Final, means)?);
        }
        Ok(())
    }

    /// Runs the passages through a stage; returns the new stream, which is there only if it is kept.
    fn pass(
        &mut self,
        weights: &StageTensors,
        uploader: &mut Uploader,
        stream: Option<usize>,
        keep: bool,
        means: Option<&mut LayerMeans>,
    ) -> Result<usize, EvalError> {
        let input = StageInput { stream, last_use: keep, targets_only: false };
        let output = self.run.build(self.architecture, weights, uploader, false);
        let output = output.and_then(|stage| self.run.run(&stage, input, means, &|_| {}));
        let output = output.map_err(failed_at(weights.id))?;
        if !keep {
            self.run.discard(output);
        }
        Ok(output)
    }
}

fn failed_at(stage: StageId) -> impl Fn(ModelError) -> EvalError {
    move |source| EvalError::Model { stage, source }
}
