//! The layer-major evaluation: what to evaluate, how, and what comes out. The loop itself is in `slice_run`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::device_run::{DeviceRun, is_emulated};
use super::packing::{Packed, Passage};
use super::slice_run::SliceRun;
use super::{EvalError, budget, candidates};
use crate::checkpoint::{FileDigest, ModelSource};
use crate::config::Architecture;
use crate::merge::{Elsewhere, Exactness, Strategy};
use crate::model::{Backend, ModelError};
use crate::partition::StageId;
use crate::samples::TokenScore;

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
}

/// How to run.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// The devices; passages are divided among them.
    pub backends: Vec<Backend>,
    /// Tokens that go through a stage together; `None` lets the device decide.
    pub chunk_tokens: Option<usize>,
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

/// How far a residual stream is from the baseline's after a stage: over all tokens, after the last layer over those that
/// predict a target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divergence {
    /// Σ‖x − x_baseline‖² over tokens; the baseline is the mean of the ranks' streams where they differ.
    pub squared_distance: f64,
    /// Σ‖x_baseline‖² over tokens.
    pub squared_norm: f64,
}

impl Divergence {
    /// √(Σ‖x − x_baseline‖² / Σ‖x_baseline‖²).
    #[must_use]
    pub fn relative(self) -> f64 {
        if self.squared_norm > 0.0 { (self.squared_distance / self.squared_norm).sqrt() } else { 0.0 }
    }
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// `[variants][passages]`, in the order given: one score per target token. The first variant is the baseline that
    /// KL is taken against.
    pub scores: Vec<Vec<Vec<TokenScore>>>,
    /// For each variant, what makes it another model than the unmerged one.
    pub exactness: Vec<Exactness>,
    /// `[variants][stages but the last]`; empty unless asked for.
    pub divergence: Vec<Vec<Divergence>>,
    /// Digests of the files read; empty unless asked for.
    pub digests: Vec<FileDigest>,
    /// The same for every candidate, by variant.
    pub candidate_digests: BTreeMap<usize, Vec<FileDigest>>,
    /// For every candidate, by variant, what was done to the checkpoint's parameters.
    pub elsewhere: BTreeMap<usize, Elsewhere>,
    /// Where the time went.
    pub timings: Timings,
    /// Passes over the checkpoint.
    pub slice_count: usize,
    /// Tokens that went through a stage together.
    pub chunk_tokens: usize,
    /// Input tokens of all passages.
    pub token_count: usize,
}

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
    checkpoint.check_evaluation()?;
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
    candidates::check(checkpoint, variants, &passages)?;
    let packed = Packed::new(after_prompt(architecture, passages));
    let longest = packed.passages().first().map_or(0, Passage::length);
    let (tp_size, streams) = (checkpoint.tp_size(), candidates::stream_count(variants));
    let slice_tokens = budget::slice_tokens(architecture, backend, tp_size, streams, longest, memory_budget)?
        .saturating_mul(options.backends.len());
    let slices = packed.slices(slice_tokens);
    let ids = checkpoint.stage_ids();
    let tokens = packed.token_count() as u64;
    let total = tokens.saturating_mul(((ids.len() - 1) * variants.len()) as u64);
    observer.start(Work { passages: passage_count, tokens, total });

    let mut evaluation = Evaluation {
        scores: vec![vec![Vec::new(); passage_count]; variants.len()],
        exactness: vec![Exactness::default(); variants.len()],
        divergence: vec![
            vec![Divergence::default(); ids.len() - 1];
            if options.divergence && variants.len() > 1 { variants.len() } else { 0 }
        ],
        digests: Vec::new(),
        candidate_digests: BTreeMap::new(),
        elsewhere: BTreeMap::new(),
        timings: Timings::default(),
        slice_count: slices.len(),
        chunk_tokens,
        token_count: packed.token_count(),
    };
    let _no_grad = tch::no_grad_guard();
    for (number, slice) in slices.iter().enumerate() {
        let devices = divide(slice, &options.backends)
            .iter()
            .map(|(backend, share)| DeviceRun::new(architecture, *backend, share, chunk_tokens))
            .collect::<Result<Vec<_>, _>>()
            .map_err(EvalError::Device)?;
        SliceRun::new(checkpoint, variants, observer, &mut evaluation, devices)
            .with_calibration(backend, &options.calibration)?
            .run(&ids, number, options.digests)?;
    }
    Ok(evaluation)
}

/// The passages with the model's trained prompt, if it has one, before each.
pub(super) fn after_prompt(architecture: &Architecture, passages: Vec<Passage>) -> Vec<Passage> {
    let (length, vocabulary) = (architecture.soft_prompt_length, architecture.padded_vocab_size);
    passages.into_iter().map(|passage| passage.after_prompt(length, vocabulary)).collect()
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
