//! The layer-major loop over one slice of passages. For every stage: read its shards once, merge them once per distinct
//! rule, push all passages of all variants through it, drop it. Variants whose weights have been equal so far share one
//! residual stream; candidates go through the same loop with stages of their own.

mod divergence;
mod groups;

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use tch::{Device, TchError};

use self::divergence::Distances;
use self::groups::{Group, Grouping, Key, part_those_of_other_groups};
use super::EvalError;
use super::calibration::Calibrator;
use super::device_memory::largest_stage;
use super::device_run::{DeviceRun, DeviceStage, StageInput};
use super::outcome::SliceOutcome;
use super::prefetch::{Ahead, Prefetcher, Prepared};
use super::progress::Observer;
use super::variant::Models;
use crate::merge::{Exactness, MergedTensors, ModelStage, Reference, StageMerger};
use crate::model::{ModelError, OutputStage, TargetScores, Uploader};
use crate::partition::{StageId, StageTensors};
use crate::samples::{TokenScore, TopToken};

/// Variants and the stage that they go through, on every device.
struct Built {
    key: Key,
    members: Vec<usize>,
    stages: Vec<DeviceStage>,
}

pub(super) struct SliceRun<'a> {
    models: Models<'a>,
    observer: &'a dyn Observer,
    outcome: SliceOutcome,
    devices: Vec<DeviceRun>,
    calibrator: Option<Calibrator<'a>>,
    streams: Vec<Option<usize>>,
    /// Where it was asked for.
    divergence: Option<Distances>,
}

impl<'a> SliceRun<'a> {
    pub(super) fn new(
        models: Models<'a>,
        observer: &'a dyn Observer,
        devices: Vec<DeviceRun>,
        calibrator: Option<Calibrator<'a>>,
        divergence: bool,
    ) -> Self {
        let outcome = SliceOutcome {
            scores: vec![BTreeMap::new(); models.variants.len()],
            exactness: vec![Exactness::default(); models.variants.len()],
            same_as: vec![0; models.variants.len()],
            ..SliceOutcome::default()
        };
        let divergence = (divergence && models.variants.len() > 1).then(Distances::default);
        let streams = vec![None; models.variants.len()];
        Self { models, observer, outcome, devices, calibrator, streams, divergence }
    }

    /// Runs all stages. The first slice also analyses the candidates, and keeps the digests of the files if `hash` asks for
    /// them.
    pub(super) fn run(
        mut self,
        ids: &[StageId],
        number: usize,
        slice_count: usize,
        hash: bool,
    ) -> Result<SliceOutcome, EvalError> {
        let hash = hash && number == 0;
        let candidates: Vec<_> = self.models.candidates().collect();
        let models =
            std::iter::once(self.models.checkpoint).chain(candidates.iter().map(|&(_, model)| model)).collect();
        std::thread::scope(|scope| {
            let mut reader = Prefetcher::start(scope, models, ids.to_vec(), hash, self.ahead());
            for &id in ids {
                self.observer.stage(id, number + 1, slice_count);
                let waiting = Instant::now();
                let mut prepared = reader.next(id)?;
                self.outcome.timings.read += waiting.elapsed();
                self.outcome.timings.merge += prepared.merging;
                self.outcome.timings.copy += prepared.copying;
                let mut stages = std::mem::take(&mut prepared.stages).into_iter();
                let stage = stages.next().ok_or(EvalError::ReaderGone { stage: id })?;
                let own: BTreeMap<_, _> = candidates.iter().map(|&(at, _)| at).zip(stages).collect();
                let reference = Reference::new(self.models.checkpoint.architecture(), &stage);
                for (&at, other) in own.iter().filter(|_| number == 0) {
                    let theirs = ModelStage { architecture: self.models.architecture_of(&[at]), tensors: other };
                    self.outcome.candidate_analyses.entry(at).or_default().add(&reference, theirs)?;
                }
                self.stage(stage, own, prepared)?;
                if id != StageId::Output {
                    self.measure_divergence().map_err(|source| EvalError::Model { stage: id, source })?;
                }
            }
            self.read_divergence().map_err(|source| EvalError::Model { stage: StageId::Output, source })?;
            let mut digests = reader.finish()?.into_iter();
            if hash {
                self.outcome.digests = digests.next().unwrap_or_default();
                self.outcome.candidate_digests = candidates.iter().map(|&(at, _)| at).zip(digests).collect();
            }
            Ok(self.outcome)
        })
    }

    /// What the reader does for GPUs.
    fn ahead(&self) -> Option<Ahead<'a>> {
        let backends: Vec<_> = self.devices.iter().map(|device| device.backend).collect();
        let (strategies, architecture) = (self.models.strategies(), self.models.checkpoint.architecture());
        let stage_bytes = largest_stage(self.models);
        let on_gpu = backends.iter().any(|backend| backend.device != Device::Cpu);
        let strategies = strategies.map(|(_, strategy)| strategy).collect();
        on_gpu.then_some(Ahead { architecture, strategies, backends, stage_bytes })
    }

    /// Runs all variants through a stage; candidates bring their own. Once its weights are on the devices, the host has only those
    /// that are computed with where they are.
    fn stage(
        &mut self,
        stage: StageTensors,
        candidates: BTreeMap<usize, StageTensors>,
        prepared: Prepared,
    ) -> Result<(), EvalError> {
        let Prepared { merged, fed, go_on, .. } = prepared;
        let id = stage.id;
        let failed = |source| EvalError::Model { stage: id, source };
        let fed = fed.into_iter().chain(std::iter::repeat_with(|| None));
        let uploaders = self.devices.iter().zip(fed).map(|(device, fed)| match fed {
            Some(fed) => Uploader::with(device.backend, fed),
            None => Ok(Uploader::new(device.backend)),
        });
        let mut uploaders = uploaders.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let groups = self.merged(&stage, candidates, merged, uploaders.first())?;
        drop(stage);
        let computing = Instant::now();
        let mut built = Vec::with_capacity(groups.len());
        for Group { key, members, weights } in groups {
            let architecture = self.models.architecture_of(&members);
            let build = |device: &mut DeviceRun, uploader: &mut Uploader| {
                device.build(architecture, &weights, uploader, key.rechunked)
            };
            let stages = on_each(&mut self.devices, &mut uploaders, build).map_err(failed)?;
            built.push(Built { key, members, stages });
        }
        drop(uploaders);
        let go_on = || go_on.map(|reader| reader.send(()));
        match id {
            StageId::Embedding => {
                // Looking words up takes no time, and their table would lie beside two layers.
                self.pass(id, built).map_err(failed)?;
                go_on();
            }
            StageId::Layer(_) => {
                go_on();
                self.pass(id, built).map_err(failed)?;
            }
            // Nothing comes after it.
            StageId::Output => self.score(built).map_err(failed)?,
        }
        // So that times measure work done.
        self.devices.iter().try_for_each(|device| device.backend.synchronize()).map_err(failed)?;
        self.outcome.timings.compute += computing.elapsed();
        Ok(())
    }

    /// The variants that go through a stage together, and their weights.
    fn merged(
        &mut self,
        stage: &StageTensors,
        candidates: BTreeMap<usize, StageTensors>,
        merged: MergedTensors,
        there: Option<&Uploader>,
    ) -> Result<Vec<Group>, EvalError> {
        let mut merger = StageMerger::with(stage, self.models.checkpoint.architecture(), merged);
        let mut own = match &mut self.calibrator {
            Some(calibrator) => calibrator.stage(stage, &mut merger, there, &mut self.outcome.exactness)?,
            None => BTreeMap::new(),
        };
        own.extend(candidates);
        let merging = Instant::now();
        let grouping = Grouping { models: self.models, stage, own: &own };
        let groups = grouping.groups(&self.streams, &mut merger, &mut self.outcome.exactness)?;
        self.outcome.timings.merge += merging.elapsed();
        part_those_of_other_groups(&mut self.outcome.same_as, &groups);
        Ok(groups)
    }

    /// Runs all variants through a stage but the last.
    fn pass(&mut self, id: StageId, built: Vec<Built>) -> Result<(), ModelError> {
        let layers = self.models.checkpoint.architecture().layer_count;
        let is_last_layer = layers.checked_sub(1).map(StageId::Layer) == Some(id);
        let mut waiting: VecDeque<_> = built.into();
        while let Some(Built { key, members, mut stages }) = waiting.pop_front() {
            let last_use = waiting.iter().all(|later| later.key.input != key.input);
            let input = StageInput { stream: key.input, last_use, targets_only: is_last_layer };
            let variant_count = members.len() as u64;
            let observer = self.observer;
            let tick = |tokens: u64| observer.advance(tokens * variant_count);
            let made = on_each(&mut self.devices, &mut stages, |device, stage| device.run(stage, input, None, &tick))?;
            for variant in members {
                self.streams[variant] = made.first().copied();
            }
        }
        Ok(())
    }

    /// Runs all variants through the last stage.
    fn score(&mut self, built: Vec<Built>) -> Result<(), ModelError> {
        let mut outputs: Vec<Vec<(OutputStage, usize)>> = self.devices.iter().map(|_| Vec::new()).collect();
        let mut members = Vec::with_capacity(built.len());
        for Built { key, members: of_group, stages } in built {
            for (outputs, stage) in outputs.iter_mut().zip(stages) {
                let (DeviceStage::Output(output), Some(input)) = (stage, key.input) else {
                    return Err(TchError::Kind("a head without a stream".to_owned()).into());
                };
                outputs.push((output, input));
            }
            members.push(of_group);
        }
        let scores = on_each(&mut self.devices, &mut outputs, |device, outputs| device.score(outputs))?;
        self.keep(&members, &scores);
        Ok(())
    }

    /// Measures how far streams are from the baseline's.
    fn measure_divergence(&mut self) -> Result<(), ModelError> {
        let Some(distances) = &mut self.divergence else { return Ok(()) };
        let measuring = Instant::now();
        distances.measure(self.models.variants, &self.streams, &self.devices)?;
        self.devices.iter().try_for_each(|device| device.backend.synchronize())?;
        self.outcome.timings.divergence += measuring.elapsed();
        Ok(())
    }

    fn read_divergence(&mut self) -> Result<(), ModelError> {
        let Some(distances) = self.divergence.take() else { return Ok(()) };
        let reading = Instant::now();
        self.outcome.divergence = distances.read(&self.devices)?;
        self.outcome.timings.divergence += reading.elapsed();
        Ok(())
    }

    fn keep(&mut self, groups: &[Vec<usize>], scores: &[Vec<TargetScores>]) {
        for (device, scores) in self.devices.iter().zip(scores) {
            for (members, scores) in groups.iter().zip(scores) {
                for (at, target) in device.targets.iter().enumerate() {
                    let score = TokenScore {
                        id: u32::try_from(target.id).unwrap_or(u32::MAX),
                        greedy_id: u32::try_from(scores.greedy_id[at]).unwrap_or(u32::MAX),
                        logprob: scores.logprob[at],
                        kl: scores.kl.get(at).copied(),
                        top: top_tokens(&scores.top[at]),
                    };
                    let has = |variant: &&usize| {
                        !self.models.variants[**variant].rechunked || device.noise.contains(&target.passage)
                    };
                    for &variant in members.iter().filter(has) {
                        let tokens = self.outcome.scores[variant].entry(target.passage).or_default();
                        debug_assert_eq!(tokens.len(), target.ordinal, "targets come in order");
                        tokens.push(score.clone());
                    }
                }
            }
        }
    }
}

/// Without their texts, which the tokenizer knows.
fn top_tokens(top: &[(i64, f64)]) -> Vec<TopToken> {
    let token = |&(id, logprob): &(i64, f64)| TopToken {
        id: u32::try_from(id).unwrap_or(u32::MAX),
        text: String::new(),
        logprob,
    };
    top.iter().map(token).collect()
}

/// Runs `work` on every device, at once where there are several.
fn on_each<T: Send, U: Send>(
    devices: &mut [DeviceRun],
    companions: &mut [U],
    work: impl Fn(&mut DeviceRun, &mut U) -> Result<T, ModelError> + Sync,
) -> Result<Vec<T>, ModelError> {
    if let ([device], [companion]) = (&mut *devices, &mut *companions) {
        return Ok(vec![work(device, companion)?]);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = devices
            .iter_mut()
            .zip(companions)
            .map(|(device, companion)| {
                scope.spawn(move || {
                    let _no_grad = tch::no_grad_guard();
                    work(device, companion)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(TchError::Kind("a device thread died".to_owned()).into()))
            })
            .collect()
    })
}
