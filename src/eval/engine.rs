//! The layer-major evaluation: what to evaluate, how, and what comes out. The loop itself is in `slice_run`.

use std::sync::Arc;

use super::chunk_plan::{ChunkPlan, Part};
use super::device_run::{DeviceRun, is_emulated};
use super::outcome::{Evaluation, SliceOutcome};
use super::packing::Passage;
use super::slice_run::SliceRun;
use super::{EvalError, budget, candidates};
use crate::checkpoint::ModelSource;
use crate::config::Architecture;
use crate::merge::Strategy;
use crate::model::{Backend, ModelError};
use crate::partition::StageId;

/// One model to evaluate.
#[derive(Debug, Clone)]
pub struct Variant {
    /// Its name in the report.
    pub name: String,
    /// Where its weights come from.
    pub weights: Weights,
    /// Whether passages go through it in chunks of another size than through the rest: evaluating the baseline so shows
    /// how far rounding alone moves the numbers.
    pub rechunked: bool,
}

/// Where a variant's weights come from.
#[derive(Debug, Clone)]
pub enum Weights {
    /// The checkpoint as it is, every rank with its own replicas.
    Unmerged,
    /// A merge of it.
    Merged(Strategy),
    /// A model of its own, such as a merge that another tool made; it has the checkpoint's depth and width.
    Candidate(Arc<dyn ModelSource>),
}

impl Variant {
    /// The checkpoint as it is, named `baseline`.
    #[must_use]
    pub fn baseline() -> Self {
        Self { name: "baseline".to_owned(), weights: Weights::Unmerged, rechunked: false }
    }

    /// The checkpoint as it is in chunks of another size, named `noise floor`.
    #[must_use]
    pub fn noise_floor() -> Self {
        Self { name: "noise floor".to_owned(), weights: Weights::Unmerged, rechunked: true }
    }

    /// A merge, under its strategy's name.
    #[must_use]
    pub fn merged(strategy: Strategy) -> Self {
        Self { name: strategy.name.clone(), weights: Weights::Merged(strategy), rechunked: false }
    }

    /// A model made elsewhere.
    #[must_use]
    pub fn candidate(name: String, model: Arc<dyn ModelSource>) -> Self {
        Self { name, weights: Weights::Candidate(model), rechunked: false }
    }

    /// The model made elsewhere, if it is one.
    #[must_use]
    pub fn made_elsewhere(&self) -> Option<&dyn ModelSource> {
        match &self.weights {
            Weights::Candidate(model) => Some(model.as_ref()),
            Weights::Unmerged | Weights::Merged(_) => None,
        }
    }
}

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// The devices; chunks are divided among them.
    pub backends: Vec<Backend>,
    /// Tokens that go through a stage together; `None` lets the device decide.
    pub chunk_tokens: Option<usize>,
    /// Tokens of a slice at most; `None` lets memory alone decide.
    pub slice_tokens: Option<usize>,
    /// Bytes for residual streams on each device; `None` lets the machine decide.
    pub memory_budget: Option<u64>,
    /// Whether to hash the files that are read.
    pub digests: bool,
    /// Passages that strategies which calibrate may look at; never scored.
    pub calibration: Vec<Passage>,
    /// Whether to measure how far each variant's residual stream is from the baseline's after every stage.
    pub divergence: bool,
}

impl EngineOptions {
    /// Everything at its default on these devices.
    #[must_use]
    pub fn on(backends: Vec<Backend>) -> Self {
        Self { backends, ..Self::default() }
    }
}

/// What lies ahead of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Passages.
    pub passages: usize,
    /// Their input tokens.
    pub tokens: u64,
    /// Tokens × stages × variants: what [`Observer::advance`] counts.
    pub total: u64,
}

/// Hears of progress.
pub trait Observer: Sync {
    /// What lies ahead.
    fn start(&self, _work: Work) {}
    /// A stage begins; slices are counted from 1.
    fn stage(&self, _id: StageId, _slice: usize, _slice_count: usize) {}
    /// Work done.
    fn advance(&self, _work: u64) {}
}

/// An observer that does not care.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {}

/// Evaluates every variant on every passage. `passages` must be indexed 0, 1, 2, ….
///
/// # Errors
/// Whatever keeps the run from finishing; nothing is returned in part.
pub fn evaluate(
    checkpoint: &dyn ModelSource,
    variants: &[Variant],
    passages: Vec<Passage>,
    options: &EngineOptions,
    observer: &dyn Observer,
) -> Result<Evaluation, EvalError> {
    let plan = plan_chunks(checkpoint, variants, passages, options)?;
    let mut slices = Vec::new();
    let mut keep = |slice| {
        slices.push(slice);
        Ok(())
    };
    evaluate_part((checkpoint, variants), &plan, &plan.whole(), options, observer, &mut keep)?;
    Ok(Evaluation::of(&plan, variants.len(), slices))
}

/// Checks that every variant takes the passages, and cuts these into chunks: a matter of the passages, of the kind of
/// device and of the options alone, unless a chunk's residual streams are too large for a device.
///
/// # Errors
/// A model that cannot be evaluated, candidates that cannot be the checkpoint's, no device, or too little memory for the
/// longest passage.
pub fn plan_chunks(
    checkpoint: &dyn ModelSource,
    variants: &[Variant],
    passages: Vec<Passage>,
    options: &EngineOptions,
) -> Result<ChunkPlan, EvalError> {
    checkpoint.check_evaluation()?;
    let backend = first_backend(options)?;
    candidates::check(checkpoint, variants, &passages)?;
    let passages = after_prompt(checkpoint.architecture(), passages);
    let longest = passages.iter().map(Passage::length).max().unwrap_or(0);
    let capacity = capacity((checkpoint, variants), longest, backend, options)?;
    let mut chunk_tokens = options
        .chunk_tokens
        .unwrap_or_else(|| budget::even_chunk_tokens(backend, passages.iter().map(Passage::length).sum(), longest));
    // In halves, so that a little more or less memory makes no other plan.
    while chunk_tokens > capacity && options.chunk_tokens.is_none() {
        chunk_tokens /= 2;
    }
    Ok(ChunkPlan::new(passages, chunk_tokens.max(1)))
}

/// Bytes for residual streams, and in how many slices these chunks are computed.
pub(super) fn slice_count(
    model: &dyn ModelSource,
    variants: &[Variant],
    plan: &ChunkPlan,
    options: &EngineOptions,
) -> Result<(u64, usize), EvalError> {
    let backend = first_backend(options)?;
    let budget = options.memory_budget.unwrap_or_else(|| budget::default_memory_budget(backend));
    let capacity = capacity((model, variants), plan.longest(), backend, options)?;
    let tokens = capacity.saturating_mul(options.backends.len());
    Ok((budget, slices(plan, &plan.whole(), tokens, options.slice_tokens).len()))
}

/// Tokens whose residual streams a device holds.
fn capacity(
    (checkpoint, variants): (&dyn ModelSource, &[Variant]),
    longest: usize,
    backend: Backend,
    options: &EngineOptions,
) -> Result<usize, EvalError> {
    let budget = options.memory_budget.unwrap_or_else(|| budget::default_memory_budget(backend));
    let streams = candidates::stream_count(variants);
    budget::slice_tokens(checkpoint.architecture(), backend, checkpoint.tp_size(), streams, longest, budget)
}

fn first_backend(options: &EngineOptions) -> Result<Backend, EvalError> {
    options.backends.first().copied().ok_or_else(|| {
        let reason = "no device was given".to_owned();
        EvalError::Device(ModelError::Device { device: "none".to_owned(), reason })
    })
}

/// Evaluates every variant on what is left of a part of a plan. `keep` takes every slice as soon as it is computed; the next
/// begins once it has returned.
///
/// # Errors
/// Whatever keeps the run from finishing, and what `keep` says.
pub fn evaluate_part(
    (checkpoint, variants): (&dyn ModelSource, &[Variant]),
    plan: &ChunkPlan,
    part: &Part,
    options: &EngineOptions,
    observer: &dyn Observer,
    keep: &mut dyn FnMut(SliceOutcome) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let architecture = checkpoint.architecture();
    let backend = first_backend(options)?;
    if is_emulated(backend) {
        tracing::warn!("float16 arithmetic on a CPU is emulated and very slow: f32 or bf16 is what you want");
    }
    let capacity = capacity((checkpoint, variants), plan.longest(), backend, options)?;
    let slices = slices(plan, part, capacity.saturating_mul(options.backends.len()), options.slice_tokens);
    let ids = checkpoint.stage_ids();
    let todo = slices.concat();
    let tokens = plan.tokens(&todo) as u64;
    let total = tokens.saturating_mul(((ids.len() - 1) * variants.len()) as u64);
    let passages = todo.iter().map(|&chunk| plan.passages(chunk).len()).sum();
    observer.start(Work { passages, tokens, total });
    let _no_grad = tch::no_grad_guard();
    for (number, slice) in slices.iter().enumerate() {
        let devices = divide(slice, &options.backends)
            .into_iter()
            .map(|(backend, chunks)| DeviceRun::new(architecture, backend, &plan.share(&chunks)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(EvalError::Device)?;
        let outcome = SliceRun::new((checkpoint, variants), observer, devices, options.divergence)
            .with_calibration(backend, &options.calibration)?
            .run(&ids, (number, slices.len()), options.digests)?;
        keep(SliceOutcome { chunks: slice.clone(), token_count: plan.tokens(slice), ..outcome })?;
    }
    Ok(())
}

/// What is left to do, slice by slice: the slices that a run of the whole part has, without what is done, and divided
/// further where less memory is there than then.
fn slices(plan: &ChunkPlan, part: &Part, capacity: usize, slice_tokens: Option<usize>) -> Vec<Vec<usize>> {
    let planned = plan.slices(&part.chunks, slice_tokens.unwrap_or(capacity));
    planned
        .into_iter()
        .flat_map(|slice| {
            let left: Vec<_> = slice.into_iter().filter(|chunk| !part.done.contains(chunk)).collect();
            plan.slices(&left, capacity)
        })
        .collect()
}

/// The passages with the model's trained prompt, if it has one, before each.
pub(super) fn after_prompt(architecture: &Architecture, passages: Vec<Passage>) -> Vec<Passage> {
    let (length, vocabulary) = (architecture.soft_prompt_length, architecture.padded_vocab_size);
    passages.into_iter().map(|passage| passage.after_prompt(length, vocabulary)).collect()
}

/// Divides chunks among devices, every share with long and short passages.
fn divide(chunks: &[usize], backends: &[Backend]) -> Vec<(Backend, Vec<usize>)> {
    let share = |first: usize| chunks.iter().copied().skip(first).step_by(backends.len()).collect::<Vec<_>>();
    let shares = backends.iter().enumerate().map(|(first, &backend)| (backend, share(first)));
    shares.filter(|(_, share)| !share.is_empty()).collect()
}
