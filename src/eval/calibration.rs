//! Calibration: the passages that strategies which calibrate may look at run through the unmerged model and the merge side
//! by side, stage by stage, and the merge's column-parallel biases are corrected as they go.

use std::collections::BTreeMap;

use super::EvalError;
use super::chunk_plan::ChunkPlan;
use super::device_run::{DeviceRun, StageInput};
use super::packing::{TokenizedPassage, after_prompt};
use super::variant::{Variant, Weights};
use crate::config::Architecture;
use crate::merge::{CalibratedNorm, Exactness, StageMerger, correct};
use crate::model::{Backend, LayerMeans, ModelError};
use crate::partition::{StageId, StageTensors};

/// The calibration passages of one run.
pub(super) struct Calibrator {
    run: DeviceRun,
    baseline: Option<usize>,
    /// The streams of the variants that calibrate.
    merged: BTreeMap<usize, Option<usize>>,
    /// Whether the ranks' streams have come to differ.
    streams_differ: bool,
}

impl Calibrator {
    /// `None` where nothing calibrates or nothing needs it.
    pub(super) fn new(
        architecture: &Architecture,
        backend: Backend,
        variants: &[Variant],
        passages: &[TokenizedPassage],
        chunk_tokens: usize,
    ) -> Result<Option<Self>, EvalError> {
        let calibrates =
            |variant: &Variant| matches!(&variant.weights, Weights::Merged(strategy) if strategy.calibrate);
        let merged: BTreeMap<_, _> =
            variants.iter().enumerate().filter(|(_, v)| calibrates(v)).map(|(at, _)| (at, None)).collect();
        if merged.is_empty() || passages.is_empty() || !architecture.streams_can_differ() {
            return Ok(None);
        }
        let plan = ChunkPlan::new(after_prompt(architecture, passages), chunk_tokens);
        let run = DeviceRun::new(architecture, backend, &plan.everything()).map_err(EvalError::Device)?;
        Ok(Some(Self { run, baseline: None, merged, streams_differ: false }))
    }

    /// Runs the calibration passages through a stage. Returns the corrected weights of every variant that calibrates;
    /// nothing while the ranks still share one stream.
    pub(super) fn stage(
        &mut self,
        architecture: &Architecture,
        stage: &StageTensors,
        merger: &mut StageMerger<'_>,
        variants: &[Variant],
        exactness: &mut [Exactness],
    ) -> Result<BTreeMap<usize, StageTensors>, EvalError> {
        let failed = |source| EvalError::Model { stage: stage.id, source };
        let streams_differ_before = self.streams_differ;
        self.streams_differ |= merger.forks_streams();
        let mut corrected = BTreeMap::new();
        if stage.id == StageId::Output {
            if streams_differ_before {
                for (&at, &stream) in &self.merged {
                    let Weights::Merged(strategy) = &variants[at].weights else { continue };
                    let mut weights = merger.merge(strategy, &mut exactness[at])?;
                    self.correct_head(architecture, stage, &mut weights, stream, &mut exactness[at])?;
                    corrected.insert(at, weights);
                }
            }
            return Ok(corrected);
        }
        let mut means = LayerMeans::default();
        let own = self.pass(architecture, stage, self.baseline, true, Some(&mut means)).map_err(failed)?;
        let rank_means = RankMeans::read(&means, stage.tp_size).map_err(failed)?;
        let variants_here: Vec<_> = self.merged.iter().map(|(&at, &stream)| (at, stream)).collect();
        for (at, stream) in variants_here {
            let Weights::Merged(strategy) = &variants[at].weights else { continue };
            let mut weights = merger.merge(strategy, &mut exactness[at])?;
            if self.streams_differ && matches!(stage.id, StageId::Layer(_)) {
                self.correct_layer(architecture, stage, &mut weights, stream, &rank_means, &mut exactness[at])?;
                corrected.insert(at, weights.clone());
            }
            let next = self.pass(architecture, &weights, stream, true, None).map_err(failed)?;
            self.merged.insert(at, Some(next));
        }
        self.baseline = Some(own);
        Ok(corrected)
    }

    /// What the norm before the attention puts out does not depend on this layer's corrections; what the norm before the
    /// MLP puts out depends on the attention's. Hence two passes.
    fn correct_layer(
        &mut self,
        architecture: &Architecture,
        unmerged: &StageTensors,
        weights: &mut StageTensors,
        stream: Option<usize>,
        rank_means: &RankMeans,
        exactness: &mut Exactness,
    ) -> Result<(), EvalError> {
        let failed = |source| EvalError::Model { stage: unmerged.id, source };
        for (norm, own) in [(CalibratedNorm::Input, &rank_means.input), (CalibratedNorm::Mlp, &rank_means.mlp)] {
            let mut means = LayerMeans::default();
            self.pass(architecture, weights, stream, false, Some(&mut means)).map_err(failed)?;
            let merged = RankMeans::read(&means, 1).map_err(failed)?;
            let merged = if norm == CalibratedNorm::Input { merged.input } else { merged.mlp };
            if let (Some(merged), false) = (merged.first(), own.is_empty()) {
                exactness.add_fold(correct(unmerged, weights, architecture, norm, own, merged)?);
            }
        }
        Ok(())
    }

    fn correct_head(
        &self,
        architecture: &Architecture,
        unmerged: &StageTensors,
        weights: &mut StageTensors,
        stream: Option<usize>,
        exactness: &mut Exactness,
    ) -> Result<(), EvalError> {
        let failed = |source| EvalError::Model { stage: unmerged.id, source };
        let (Some(baseline), Some(stream)) = (self.baseline, stream) else { return Ok(()) };
        let own = self.run.final_norm_means(architecture, unmerged, baseline).map_err(failed)?;
        let merged = self.run.final_norm_means(architecture, weights, stream).map_err(failed)?;
        if let Some(merged) = merged.first() {
            exactness.add_fold(correct(unmerged, weights, architecture, CalibratedNorm::Final, &own, merged)?);
        }
        Ok(())
    }

    fn pass(
        &mut self,
        architecture: &Architecture,
        weights: &StageTensors,
        stream: Option<usize>,
        keep: bool,
        means: Option<&mut LayerMeans>,
    ) -> Result<usize, ModelError> {
        let mut uploader = self.run.uploader();
        let input = StageInput { stream, last_use: keep, rechunked: false, targets_only: false };
        let output = self.run.run(architecture, weights, &mut uploader, input, means, &|_| {})?;
        if !keep {
            self.run.discard(output);
        }
        Ok(output)
    }
}

/// Mean outputs of a layer's norms, one vector per rank.
struct RankMeans {
    input: Vec<Vec<f64>>,
    mlp: Vec<Vec<f64>>,
}

impl RankMeans {
    fn read(means: &LayerMeans, tp_size: usize) -> Result<Self, ModelError> {
        Ok(Self { input: means.input.per_rank(tp_size)?, mlp: means.mlp.per_rank(tp_size)? })
    }
}
