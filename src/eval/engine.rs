//! The layer-major loop. For every stage: read its shards once, merge them once per distinct rule, push all passages of
//! all variants through it, drop it. Variants whose weights have been equal so far share one residual stream.

use std::time::{Duration, Instant};

use super::device_run::{DeviceRun, is_emulated};
use super::packing::{Packed, Passage};
use super::prefetch::Prefetcher;
use super::{EvalError, budget};
use crate::checkpoint::{Checkpoint, FileDigest};
use crate::merge::{Exactness, Signature, StageMerger, Strategy};
use crate::model::{Backend, ModelError, OutputStage, TargetScores};
use crate::partition::{Role, StageId, StageTensors};
use crate::samples::TokenScore;

/// One model to evaluate.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Its name in the report.
    pub name: String,
    /// Where its weights come from.
    pub weights: Weights,
}

/// Where a variant's weights come from.
#[derive(Debug, Clone)]
pub enum Weights {
    /// The checkpoint as it is, every rank with its own replicas.
    Unmerged,
    /// A merge of it.
    Merged(Strategy),
}

/// How to run.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The devices; passages are divided among them.
    pub backends: Vec<Backend>,
    /// Tokens that go through a stage together; `None` lets the device decide.
    pub chunk_tokens: Option<usize>,
    /// Bytes for residual streams on each device; `None` lets the machine decide.
    pub memory_budget: Option<u64>,
    /// Whether to hash the files that are read.
    pub digests: bool,
}

/// Hears of progress.
pub trait Observer: Sync {
    /// The work ahead, in tokens × stages × variants.
    fn start(&self, _total: u64) {}
    /// A stage begins; slices are counted from 1.
    fn stage(&self, _id: StageId, _slice: usize, _slice_count: usize) {}
    /// Work done.
    fn advance(&self, _work: u64) {}
}

/// An observer that does not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Waiting for the reader thread.
    pub read: Duration,
    /// Merging on the host.
    pub merge: Duration,
    /// Copying to the device and computing.
    pub compute: Duration,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// `[variants][passages]`, in the order given: one score per target token. The first variant is the baseline that
    /// KL is taken against.
    pub scores: Vec<Vec<Vec<TokenScore>>>,
    /// For each variant, what makes it another model than the unmerged one.
    pub exactness: Vec<Exactness>,
    /// Digests of the files read; empty unless asked for.
    pub digests: Vec<FileDigest>,
    /// Where the time went.
    pub timings: Timings,
    /// Passes over the checkpoint.
    pub slice_count: usize,
    /// Tokens that went through a stage together.
    pub chunk_tokens: usize,
    /// Input tokens of all passages.
    pub token_count: usize,
}

/// Variants with the same input stream and the same weights in a stage.
struct ComputeGroup {
    input: Option<usize>,
    signature: Option<Signature>,
    variants: Vec<usize>,
}

/// Evaluates every variant on every passage. `passages` must be indexed 0, 1, 2, ….
///
/// # Errors
/// Whatever keeps the run from finishing; nothing is returned in part.
pub fn evaluate(
    checkpoint: &Checkpoint,
    variants: &[Variant],
    passages: Vec<Passage>,
    options: &EngineOptions,
    observer: &dyn Observer,
) -> Result<Evaluation, EvalError> {
    let architecture = checkpoint.architecture();
    let Some(&backend) = options.backends.first() else {
        let reason = "no device was given".to_owned();
        return Err(EvalError::Device(ModelError::Device { device: "none".to_owned(), reason }));
    };
    if is_emulated(backend) {
        tracing::warn!("float16 arithmetic on a CPU is emulated and very slow: f32 or bf16 is what you want");
    }
    let chunk_tokens = options.chunk_tokens.unwrap_or_else(|| budget::default_chunk_tokens(backend)).max(1);
    let memory_budget = options.memory_budget.unwrap_or_else(|| budget::default_memory_budget(backend));
    let passage_count = passages.len();
    let packed = Packed::new(passages);
    let longest = packed.passages().first().map_or(0, Passage::length);
    let tp_size = checkpoint.tp_size();
    let slice_tokens = budget::slice_tokens(architecture, backend, tp_size, variants.len(), longest, memory_budget)?
        .saturating_mul(options.backends.len());
    let slices = packed.slices(slice_tokens);
    let ids = checkpoint.stage_ids();
    observer.start(((ids.len() - 1) * packed.token_count() * variants.len()) as u64);

    let mut run = Run {
        checkpoint,
        variants,
        observer,
        evaluation: Evaluation {
            scores: vec![vec![Vec::new(); passage_count]; variants.len()],
            exactness: vec![Exactness::default(); variants.len()],
            digests: Vec::new(),
            timings: Timings::default(),
            slice_count: slices.len(),
            chunk_tokens,
            token_count: packed.token_count(),
        },
    };
    let _no_grad = tch::no_grad_guard();
    for (number, slice) in slices.iter().enumerate() {
        let mut devices = divide(slice, &options.backends)
            .iter()
            .map(|(backend, share)| DeviceRun::new(architecture, *backend, share, chunk_tokens))
            .collect::<Result<Vec<_>, _>>()
            .map_err(EvalError::Device)?;
        run.slice(&mut devices, &ids, number, options.digests && number == 0)?;
    }
    Ok(run.evaluation)
}

/// Divides passages among devices, every share with long and short ones.
fn divide(slice: &Packed, backends: &[Backend]) -> Vec<(Backend, Packed)> {
    if let [only] = backends {
        return vec![(*only, slice.clone())];
    }
    let share = |first: usize| slice.passages().iter().skip(first).step_by(backends.len()).cloned().collect();
    let shares = backends.iter().enumerate().map(|(first, &backend)| (backend, Packed::new(share(first))));
    shares.filter(|(_, share)| share.token_count() > 0).collect()
}

struct Run<'a> {
    checkpoint: &'a Checkpoint,
    variants: &'a [Variant],
    observer: &'a dyn Observer,
    evaluation: Evaluation,
}

impl Run<'_> {
    fn slice(
        &mut self,
        devices: &mut [DeviceRun],
        ids: &[StageId],
        number: usize,
        hash: bool,
    ) -> Result<(), EvalError> {
        let checkpoint = self.checkpoint;
        std::thread::scope(|scope| {
            let reader = Prefetcher::start(scope, checkpoint, ids.to_vec(), hash);
            let mut streams: Vec<Option<usize>> = vec![None; self.variants.len()];
            for &id in ids {
                self.observer.stage(id, number + 1, self.evaluation.slice_count);
                let waiting = Instant::now();
                let stage = reader.next(id)?;
                self.evaluation.timings.read += waiting.elapsed();
                self.stage(devices, &stage, &mut streams)?;
            }
            let digests = reader.finish()?;
            if hash {
                self.evaluation.digests = digests;
            }
            Ok(())
        })
    }

    fn stage(
        &mut self,
        devices: &mut [DeviceRun],
        stage: &StageTensors,
        streams: &mut [Option<usize>],
    ) -> Result<(), EvalError> {
        let architecture = self.checkpoint.architecture();
        let mut merger = StageMerger::new(stage, architecture);
        let groups = self.group(&merger, stage, streams)?;
        let mut uploaders: Vec<_> = devices.iter().map(DeviceRun::uploader).collect();
        let failed = |source| EvalError::Model { stage: stage.id, source };
        let mut outputs: Vec<Vec<(OutputStage, usize)>> = devices.iter().map(|_| Vec::new()).collect();
        for (at, group) in groups.iter().enumerate() {
            let merging = Instant::now();
            let weights = self.weights(&mut merger, stage, group)?;
            self.evaluation.timings.merge += merging.elapsed();
            let computing = Instant::now();
            if let (StageId::Output, Some(input)) = (stage.id, group.input) {
                for (uploader, outputs) in uploaders.iter_mut().zip(&mut outputs) {
                    outputs.push((OutputStage::new(&weights, architecture, uploader).map_err(failed)?, input));
                }
            } else {
                let last_use = groups[at + 1..].iter().all(|later| later.input != group.input);
                let share = group.variants.len() as u64;
                let tick = |tokens: u64| self.observer.advance(tokens * share);
                let made = on_each(devices, &mut uploaders, |device, uploader| {
                    device.run(architecture, &weights, uploader, group.input, last_use, &tick)
                })
                .map_err(failed)?;
                for &variant in &group.variants {
                    streams[variant] = made.first().copied();
                }
            }
            self.evaluation.timings.compute += computing.elapsed();
        }
        if stage.id == StageId::Output {
            let computing = Instant::now();
            let scores = score_all(devices, &mut outputs).map_err(failed)?;
            self.keep(devices, &groups, &scores);
            self.evaluation.timings.compute += computing.elapsed();
        }
        devices.iter().for_each(DeviceRun::synchronize);
        Ok(())
    }

    /// Variants that go through the stage together. The baseline's group comes first.
    fn group(
        &self,
        merger: &StageMerger<'_>,
        stage: &StageTensors,
        streams: &[Option<usize>],
    ) -> Result<Vec<ComputeGroup>, EvalError> {
        // Looking words up is the same with one rank and with many: the unmerged model shares the merges' stream.
        let shared_start = stage.id == StageId::Embedding && stage.get(Role::PositionEmbedding).is_none();
        let mut groups: Vec<ComputeGroup> = Vec::new();
        for (at, (variant, &input)) in self.variants.iter().zip(streams).enumerate() {
            let signature = match &variant.weights {
                Weights::Unmerged => None,
                Weights::Merged(strategy) => Some(merger.signature(strategy)?).filter(|_| !shared_start),
            };
            match groups.iter_mut().find(|group| group.input == input && group.signature == signature) {
                Some(group) => group.variants.push(at),
                None => groups.push(ComputeGroup { input, signature, variants: vec![at] }),
            }
        }
        Ok(groups)
    }

    /// The group's weights; every merged member's exactness is judged on the way.
    fn weights(
        &mut self,
        merger: &mut StageMerger<'_>,
        stage: &StageTensors,
        group: &ComputeGroup,
    ) -> Result<StageTensors, EvalError> {
        let mut weights = None;
        for &at in &group.variants {
            match &self.variants[at].weights {
                Weights::Unmerged => weights = Some(stage.clone()),
                Weights::Merged(strategy) => {
                    let merged = merger.merge(strategy, &mut self.evaluation.exactness[at])?;
                    weights = Some(weights.unwrap_or(merged));
                }
            }
        }
        Ok(weights.unwrap_or_else(|| stage.clone()))
    }

    /// Puts scores where they belong.
    fn keep(&mut self, devices: &[DeviceRun], groups: &[ComputeGroup], scores: &[Vec<TargetScores>]) {
        for (device, scores) in devices.iter().zip(scores) {
            for (group, scores) in groups.iter().zip(scores) {
                for (at, place) in device.places.iter().enumerate() {
                    let score = TokenScore {
                        id: place.id,
                        greedy_id: u32::try_from(scores.greedy_id[at]).unwrap_or(u32::MAX),
                        logprob: scores.logprob[at],
                        kl: scores.kl.get(at).copied(),
                    };
                    for &variant in &group.variants {
                        let tokens = &mut self.evaluation.scores[variant][place.passage];
                        debug_assert_eq!(tokens.len(), place.ordinal, "targets come in order");
                        tokens.push(score.clone());
                    }
                }
            }
        }
    }
}

/// Runs `work` on every device, at once where there are several.
fn on_each<T: Send, U: Send>(
    devices: &mut [DeviceRun],
    uploaders: &mut [U],
    work: impl Fn(&mut DeviceRun, &mut U) -> Result<T, ModelError> + Sync,
) -> Result<Vec<T>, ModelError> {
    if let ([device], [uploader]) = (&mut *devices, &mut *uploaders) {
        return Ok(vec![work(device, uploader)?]);
    }
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = devices
            .iter_mut()
            .zip(uploaders)
            .map(|(device, uploader)| {
                scope.spawn(move || {
                    let _no_grad = tch::no_grad_guard();
                    work(device, uploader)
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

fn score_all(
    devices: &mut [DeviceRun],
    outputs: &mut [Vec<(OutputStage, usize)>],
) -> Result<Vec<Vec<TargetScores>>, ModelError> {
    on_each(devices, outputs, |device, outputs| device.score(outputs))
}
