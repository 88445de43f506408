//! The layer-major loop over one slice of passages. For every stage: read its shards once, merge them once per distinct
//! rule, push all passages of all variants through it, drop it. Variants whose weights have been equal so far share one
//! residual stream; candidates go through the same loop with stages of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tch::{Device, Tensor};

use super::EvalError;
use super::calibration::Calibrator;
use super::device_memory::largest_stage;
use super::device_run::{DeviceRun, StageInput};
use super::outcome::{Divergence, SliceOutcome};
use super::prefetch::{Ahead, Prefetcher, Prepared};
use super::progress::Observer;
use super::variant::{Models, Weights};
use crate::config::Architecture;
use crate::merge::{Exactness, ModelStage, Reference, Signature, StageMerger};
use crate::model::{ModelError, OutputStage, TargetScores, Uploader};
use crate::partition::{Role, StageId, StageTensors};
use crate::samples::{TokenScore, TopToken};

/// Variants with the same input stream and the same weights in a stage, which go through it as one.
#[derive(Debug, PartialEq)]
struct Key {
    input: Option<usize>,
    signature: Option<Signature>,
    /// The variant whose weights are its own: corrected for it alone, or a candidate's.
    own: Option<usize>,
    rechunked: bool,
}

type Groups = Vec<(Key, Vec<usize>)>;

struct Group {
    key: Key,
    members: Vec<usize>,
    weights: StageTensors,
}

pub(super) struct SliceRun<'a> {
    models: Models<'a>,
    observer: &'a dyn Observer,
    outcome: SliceOutcome,
    devices: Vec<DeviceRun>,
    divergence: bool,
    calibrator: Option<Calibrator<'a>>,
    streams: Vec<Option<usize>>,
    measured: Vec<Measured>,
}

/// How far streams are from the baseline's after a stage, not read yet.
struct Measured {
    /// Each variant's column after the first of a device's distances; `None` for those in the baseline's stream.
    columns: Vec<Option<usize>>,
    /// As [`DeviceRun::distances`] gives them, by device.
    distances: Vec<Tensor>,
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
        let (streams, divergence) = (vec![None; models.variants.len()], divergence && models.variants.len() > 1);
        Self { models, observer, outcome, devices, divergence, calibrator, streams, measured: Vec::new() }
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
                    let theirs = ModelStage { architecture: self.architecture_of(&[at]), tensors: other };
                    self.outcome.candidate_analyses.entry(at).or_default().add(&reference, theirs)?;
                }
                self.stage(&stage, own, prepared)?;
                self.measure_divergence(id)?;
            }
            let failed = |source| EvalError::Model { stage: StageId::Output, source };
            self.read_divergence().map_err(failed)?;
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

    /// Runs all variants through a stage; candidates bring their own.
    fn stage(
        &mut self,
        stage: &StageTensors,
        candidates: BTreeMap<usize, StageTensors>,
        prepared: Prepared,
    ) -> Result<(), EvalError> {
        let architecture = self.models.checkpoint.architecture();
        let failed = |source| EvalError::Model { stage: stage.id, source };
        let is_last_layer = architecture.layer_count.checked_sub(1).map(StageId::Layer) == Some(stage.id);
        let fed = prepared.fed.into_iter().chain(std::iter::repeat_with(|| None));
        let uploaders = self.devices.iter().zip(fed).map(|(device, fed)| match fed {
            Some(fed) => Uploader::with(device.backend, fed),
            None => Ok(Uploader::new(device.backend)),
        });
        let mut uploaders = uploaders.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut merger = StageMerger::with(stage, architecture, prepared.merged);
        let mut own = match &mut self.calibrator {
            Some(calibrator) => calibrator.stage(stage, &mut merger, uploaders.first(), &mut self.outcome.exactness)?,
            None => BTreeMap::new(),
        };
        own.extend(candidates);
        let merging = Instant::now();
        let groups = self.group(&merger, stage, &own)?;
        let groups = self.with_weights(groups, &mut merger, stage, &own)?;
        self.outcome.timings.merge += merging.elapsed();
        part_those_of_other_groups(&mut self.outcome.same_as, &groups);
        let mut outputs: Vec<Vec<(OutputStage, usize)>> = self.devices.iter().map(|_| Vec::new()).collect();
        for (at, Group { key, members, weights }) in groups.iter().enumerate() {
            let computing = Instant::now();
            let architecture = self.architecture_of(members);
            if let (StageId::Output, Some(input)) = (stage.id, key.input) {
                for (uploader, outputs) in uploaders.iter_mut().zip(&mut outputs) {
                    outputs.push((OutputStage::new(weights, architecture, uploader).map_err(failed)?, input));
                }
            } else {
                let last_use = groups[at + 1..].iter().all(|later| later.key.input != key.input);
                let input =
                    StageInput { stream: key.input, last_use, rechunked: key.rechunked, targets_only: is_last_layer };
                let variant_count = members.len() as u64;
                let observer = self.observer;
                let tick = |tokens: u64| observer.advance(tokens * variant_count);
                let made = on_each(&mut self.devices, &mut uploaders, |device, uploader| {
                    device.run(architecture, weights, uploader, input, None, &tick)
                })
                .map_err(failed)?;
                for &variant in members {
                    self.streams[variant] = made.first().copied();
                }
            }
            self.outcome.timings.compute += computing.elapsed();
        }
        let computing = Instant::now();
        if stage.id == StageId::Output {
            let scores = on_each(&mut self.devices, &mut outputs, |device, outputs| device.score(outputs));
            self.keep(&groups, &scores.map_err(failed)?);
        }
        // So that times measure work done.
        self.devices.iter().try_for_each(|device| device.backend.synchronize()).map_err(failed)?;
        self.outcome.timings.compute += computing.elapsed();
        Ok(())
    }

    /// Variants that go through the stage together. The baseline's group comes first.
    fn group(
        &self,
        merger: &StageMerger<'_>,
        stage: &StageTensors,
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<Groups, EvalError> {
        // Looking up word embeddings is the same with one rank and with many: the unmerged model shares the merges' stream.
        let start = stage.id == StageId::Embedding;
        let shared_start =
            start && [Role::PositionEmbedding, Role::SoftPrompt].iter().all(|&role| stage.get(role).is_none());
        let mut groups: Groups = Vec::new();
        for (at, (variant, &input)) in self.models.variants.iter().zip(&self.streams).enumerate() {
            let signature = match &variant.weights {
                Weights::Unmerged | Weights::Candidate(_) => None,
                Weights::Merged(strategy) => Some(merger.signature(strategy)?).filter(|_| !shared_start),
            };
            let own = own.contains_key(&at).then_some(at);
            // Chunks make no difference where rows do not meet.
            let rechunked = variant.rechunked && matches!(stage.id, StageId::Layer(_));
            let key = Key { input, signature, own, rechunked };
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, members)) => members.push(at),
                None => groups.push((key, vec![at])),
            }
        }
        Ok(groups)
    }

    /// Merges every group's weights, and joins groups whose rules differ but give the same bits:
    /// of two ranks' float16 replicas, for example, the sum is the same in float16 and in float32.
    fn with_weights(
        &mut self,
        groups: Groups,
        merger: &mut StageMerger<'_>,
        stage: &StageTensors,
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<Vec<Group>, EvalError> {
        let mut distinct: Vec<Group> = Vec::new();
        for (key, members) in groups {
            let weights = self.weights(merger, stage, &members, own)?;
            let same = |other: &&mut Group| {
                // Equal weights of another architecture are another model.
                (other.key.input, other.key.own, other.key.rechunked) == (key.input, None, key.rechunked)
                    && key.own.is_none()
                    && other.weights.same_bits(&weights)
            };
            match distinct.iter_mut().find(same) {
                Some(same) => same.members.extend(members),
                None => distinct.push(Group { key, members, weights }),
            }
        }
        Ok(distinct)
    }

    fn architecture_of(&self, members: &[usize]) -> &'a Architecture {
        match members.first().map(|&at| &self.models.variants[at].weights) {
            Some(Weights::Candidate(model)) => model.architecture(),
            _ => self.models.checkpoint.architecture(),
        }
    }

    /// The group's weights; every merged member's exactness is judged on the way.
    fn weights(
        &mut self,
        merger: &mut StageMerger<'_>,
        stage: &StageTensors,
        members: &[usize],
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<StageTensors, EvalError> {
        let mut weights = None;
        for at in members {
            if let Some(own) = own.get(at) {
                return Ok(own.clone());
            }
            match &self.models.variants[*at].weights {
                Weights::Unmerged | Weights::Candidate(_) => weights = Some(stage.clone()),
                Weights::Merged(strategy) => {
                    let merged = merger.merge(strategy, &mut self.outcome.exactness[*at])?;
                    weights = Some(weights.unwrap_or(merged));
                }
            }
        }
        Ok(weights.unwrap_or_else(|| stage.clone()))
    }

    fn keep(&mut self, groups: &[Group], scores: &[Vec<TargetScores>]) {
        for (device, scores) in self.devices.iter().zip(scores) {
            for (Group { members, .. }, scores) in groups.iter().zip(scores) {
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

    /// Measures how far every variant's stream is from the baseline's in every chunk, where that was asked for.
    fn measure_divergence(&mut self, id: StageId) -> Result<(), EvalError> {
        if id == StageId::Output || !self.divergence {
            return Ok(());
        }
        let Some(Some(baseline)) = self.streams.first().copied() else { return Ok(()) };
        let measuring = Instant::now();
        // The noise floor has not all passages.
        let compared = self.models.variants.iter().zip(&self.streams).filter(|(variant, _)| !variant.rechunked);
        let others = compared.filter_map(|(_, stream)| *stream).filter(|&stream| stream != baseline);
        let others: Vec<_> = others.collect::<BTreeSet<_>>().into_iter().collect();
        let failed = |source| EvalError::Model { stage: id, source };
        let measured = self.devices.iter().map(|device| device.distances(baseline, &others));
        let distances = measured.collect::<Result<_, _>>().map_err(failed)?;
        let column = |&stream: &Option<usize>| others.iter().position(|&other| Some(other) == stream);
        self.measured.push(Measured { columns: self.streams.iter().map(column).collect(), distances });
        self.devices.iter().try_for_each(|device| device.backend.synchronize()).map_err(failed)?;
        self.outcome.timings.divergence += measuring.elapsed();
        Ok(())
    }

    /// Reads what was measured after every stage.
    fn read_divergence(&mut self) -> Result<(), ModelError> {
        let reading = Instant::now();
        for Measured { columns, distances } in std::mem::take(&mut self.measured) {
            for (device, distances) in self.devices.iter().zip(distances) {
                let width = usize::try_from(distances.size().last().copied().unwrap_or(1)).unwrap_or(1).max(1);
                let read = Vec::<f64>::try_from(&distances.f_flatten(0, -1)?)?;
                for (&number, squares) in device.numbers.iter().zip(read.chunks(width)) {
                    let of_column = |column: usize| squares.get(column).copied().unwrap_or_default();
                    let variants = vec![Vec::new(); columns.len()];
                    let of_chunk = self.outcome.divergence.entry(number).or_insert(variants);
                    for (steps, column) in of_chunk.iter_mut().zip(&columns) {
                        let squared_distance = column.map_or(0.0, |column| of_column(1 + column));
                        steps.push(Divergence { squared_distance, squared_norm: of_column(0) });
                    }
                }
            }
        }
        self.outcome.timings.divergence += reading.elapsed();
        Ok(())
    }
}

/// Variants that were the same so far are so no longer where they are in different groups.
fn part_those_of_other_groups(same_as: &mut [usize], groups: &[Group]) {
    let mut first_of: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut group_of = vec![0; same_as.len()];
    for (number, group) in groups.iter().enumerate() {
        group.members.iter().for_each(|&member| group_of[member] = number);
    }
    for (at, same_as) in same_as.iter_mut().enumerate() {
        *same_as = *first_of.entry((*same_as, group_of[at])).or_insert(at);
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
                thread.join().unwrap_or_else(|_| Err(tch::TchError::Kind("a device thread died".to_owned()).into()))
            })
            .collect()
    })
}
