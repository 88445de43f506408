//! The layer-major evaluation: how passages are cut into chunks and slices, and where these are computed. Every stage of
//! the checkpoint is read once a slice, merged once per distinct rule and applied to all passages of all variants; that
//! loop is in `slice_run`.

use tch::{Device, Kind};

use super::calibration::Calibrator;
use super::chunk_plan::{Assignment, ChunkPlan};
use super::device_memory::stream_bytes_per_token;
use super::device_run::DeviceRun;
use super::outcome::SliceOutcome;
use super::packing::{TokenizedPassage, after_prompt};
use super::progress::{Observer, Work};
use super::slice_run::SliceRun;
use super::variant::Models;
use super::{EvalError, budget};
use crate::model::{Backend, ModelError};
use crate::stats::EarlyLook;

#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Chunks are divided among them.
    pub backends: Vec<Backend>,
    /// Tokens that go through a stage together; `None` lets the device decide.
    pub chunk_tokens: Option<usize>,
    /// Tokens of a slice at most; `None` lets memory alone decide.
    pub slice_tokens: Option<usize>,
    /// Bytes for residual streams on each device; `None` lets the machine decide.
    pub memory_budget: Option<u64>,
    pub digests: bool,
    /// Passages that strategies which calibrate may use; never scored.
    pub calibration: Vec<TokenizedPassage>,
    /// Whether to measure how far each variant's residual stream is from the baseline's after every stage.
    pub divergence: bool,
    /// The passages' indices in the order in which they are evaluated, block by block, where the evaluation may stop early; empty
    /// where all are evaluated.
    pub order: Vec<usize>,
}

impl EngineOptions {
    pub fn on(backends: Vec<Backend>) -> Self {
        Self { backends, ..Self::default() }
    }

    /// Bytes for residual streams on each device, if chunks have so many tokens: what the device with the least memory has, as
    /// all get equal shares of the passages.
    fn stream_bytes(&self, models: Models<'_>, chunk_tokens: usize) -> u64 {
        let by_device =
            |&backend: &Backend| budget::default_memory_budget(models, backend, chunk_tokens, &self.calibration);
        self.memory_budget.or_else(|| self.backends.iter().map(by_device).min()).unwrap_or(0)
    }
}

/// Checks that every variant takes the passages, and cuts these into chunks, which depend on the passages, the kind of
/// device and the options alone, unless a chunk's residual streams are too large for a device. The passages are indexed
/// 0, 1, 2, ….
pub fn plan_chunks(
    models: Models<'_>,
    passages: &[TokenizedPassage],
    options: &EngineOptions,
) -> Result<ChunkPlan, EvalError> {
    let backend = first_backend(options)?;
    models.check(passages)?;
    let passages = after_prompt(models.checkpoint.architecture(), passages);
    let lengths = || passages.iter().map(TokenizedPassage::length);
    let longest = lengths().max().unwrap_or(0);
    let fitting = |asked| {
        let by_device = options
            .backends
            .iter()
            .map(|&backend| budget::fitting_chunk_tokens(models, backend, asked, &options.calibration));
        by_device.min().unwrap_or(asked)
    };
    let mut chunk_tokens =
        options.chunk_tokens.unwrap_or_else(|| fitting(budget::even_chunk_tokens(backend, lengths().sum(), longest)));
    let capacity = Capacity::new(models, &passages, chunk_tokens, backend, options)?.tokens;
    // In halves, so that a little more or less memory makes no other plan.
    while chunk_tokens > capacity && options.chunk_tokens.is_none() {
        chunk_tokens /= 2;
    }
    Ok(ChunkPlan::in_blocks(blocks(passages, &options.order), chunk_tokens.max(1)))
}

/// The passages that are seen between one look and the next.
fn blocks(passages: Vec<TokenizedPassage>, order: &[usize]) -> Vec<Vec<TokenizedPassage>> {
    if order.is_empty() {
        return vec![passages];
    }
    let mut first = 0;
    let blocks = EarlyLook::slices(order.len()).into_iter().map(|end| {
        let block = order[first..end].iter().filter_map(|&index| passages.get(index).cloned()).collect();
        first = end;
        block
    });
    blocks.collect()
}

/// How much of a slice a device holds.
pub(super) struct Capacity {
    /// Bytes for residual streams.
    pub stream_bytes: u64,
    /// Of these for every token.
    pub bytes_per_token: u64,
    /// Tokens whose streams fit.
    pub tokens: usize,
}

impl Capacity {
    /// An error where not even the longest passage fits.
    fn new(
        models: Models<'_>,
        passages: &[TokenizedPassage],
        chunk_tokens: usize,
        backend: Backend,
        options: &EngineOptions,
    ) -> Result<Self, EvalError> {
        let longest = passages.iter().map(TokenizedPassage::length).max().unwrap_or(0);
        let count = |of: fn(&TokenizedPassage) -> usize| passages.iter().map(of).sum();
        let (targets, all) = (count(|passage| passage.target_ids.len()), count(TokenizedPassage::length));
        let bytes_per_token = stream_bytes_per_token(models, backend, (targets, all)).max(1);
        let stream_bytes = options.stream_bytes(models, chunk_tokens.max(longest));
        let tokens = usize::try_from(stream_bytes / bytes_per_token).unwrap_or(usize::MAX);
        if tokens < longest {
            return Err(EvalError::Budget { budget: stream_bytes, needed: bytes_per_token * longest as u64 });
        }
        Ok(Self { stream_bytes, bytes_per_token, tokens })
    }

    pub(super) fn of_plan(models: Models<'_>, plan: &ChunkPlan, options: &EngineOptions) -> Result<Self, EvalError> {
        Self::new(models, &plan.packed.passages, plan.chunk_tokens(), first_backend(options)?, options)
    }

    /// The slices of an assignment, each of at most so many tokens a device.
    pub(super) fn slices(&self, plan: &ChunkPlan, assignment: &Assignment, options: &EngineOptions) -> Vec<Vec<usize>> {
        slices(plan, assignment, self.tokens.saturating_mul(options.backends.len()), options.slice_tokens)
    }
}

fn first_backend(options: &EngineOptions) -> Result<Backend, EvalError> {
    options.backends.first().copied().ok_or_else(|| {
        let reason = "no device was given".to_owned();
        EvalError::Device(ModelError::Device { device: "none".to_owned(), reason })
    })
}

/// Evaluates every variant on the chunks of an assignment that are not done. `keep` receives every slice as soon as it is
/// computed; the next begins once it has returned.
pub fn evaluate_chunks<E: From<EvalError>>(
    models: Models<'_>,
    plan: &ChunkPlan,
    assignment: &Assignment,
    options: &EngineOptions,
    observer: &dyn Observer,
    keep: &mut dyn FnMut(SliceOutcome) -> Result<(), E>,
) -> Result<(), E> {
    let architecture = models.checkpoint.architecture();
    let backend = first_backend(options)?;
    if backend.device == Device::Cpu && backend.kind == Kind::Half {
        tracing::warn!("float16 arithmetic on a CPU is emulated and very slow: f32 or bf16 is what you want");
    }
    let slices = Capacity::of_plan(models, plan, options)?.slices(plan, assignment, options);
    let ids = models.checkpoint.stage_ids();
    let todo = slices.concat();
    let tokens = plan.tokens(&todo) as u64;
    let noise_floors = models.variants.iter().filter(|variant| variant.rechunked).count();
    let full = tokens.saturating_mul((models.variants.len() - noise_floors) as u64);
    let again = (plan.noise_tokens(&todo) as u64).saturating_mul(noise_floors as u64);
    let total = (full + again).saturating_mul((ids.len() - 1) as u64);
    let passages = todo.iter().map(|&chunk| plan.passages(chunk).len()).sum();
    observer.start(Work { passages, tokens, total });
    let _no_grad = tch::no_grad_guard();
    let shares = slices.iter().flat_map(|slice| divide(slice, &options.backends));
    let largest = shares.map(|(_, chunks)| plan.tokens(&chunks)).max().unwrap_or(0);
    for (number, slice) in slices.iter().enumerate() {
        let devices = divide(slice, &options.backends)
            .into_iter()
            .map(|(backend, chunks)| {
                Ok(DeviceRun::new(architecture, backend, &plan.lay_out(&chunks))?.with_room(largest))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(EvalError::Device)?;
        let calibrator = Calibrator::new(architecture, backend.device, models.strategies(), &options.calibration)?;
        let outcome = SliceRun::new(models, observer, devices, calibrator, options.divergence).run(
            &ids,
            number,
            slices.len(),
            options.digests,
        )?;
        keep(SliceOutcome { chunks: slice.clone(), token_count: plan.tokens(slice), ..outcome })?;
    }
    Ok(())
}

/// The chunks that are not done, by slice: the slices that a run of the whole assignment has, divided further where there is
/// less memory than there was then.
fn slices(plan: &ChunkPlan, assignment: &Assignment, capacity: usize, slice_tokens: Option<usize>) -> Vec<Vec<usize>> {
    let planned = plan.slices(&assignment.chunks, slice_tokens.unwrap_or(capacity));
    planned
        .into_iter()
        .flat_map(|slice| {
            let left: Vec<_> = slice.into_iter().filter(|chunk| !assignment.done.contains(chunk)).collect();
            plan.slices(&left, capacity)
        })
        .collect()
}

/// Divides chunks among devices; each gets long and short passages.
fn divide(chunks: &[usize], backends: &[Backend]) -> Vec<(Backend, Vec<usize>)> {
    let from = |first: usize| chunks.iter().copied().skip(first).step_by(backends.len()).collect::<Vec<_>>();
    let divided = backends.iter().enumerate().map(|(first, &backend)| (backend, from(first)));
    divided.filter(|(_, chunks)| !chunks.is_empty()).collect()
}
