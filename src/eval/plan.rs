//! The cost of an evaluation, before it is run.

use tch::Device;

use super::EvalError;
use super::budget::device_memory;
use super::device_memory::in_layers;
use super::engine::{Capacity, EngineOptions, plan_chunks};
use super::packing::{Packed, TokenizedPassage};
use super::variant::Models;
use crate::checkpoint::ModelSource;
use crate::model::matrix_product_flops;
use crate::partition::StageId;

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub passages: usize,
    pub tokens: usize,
    /// Tokens whose probability is asked for.
    pub targets: usize,
    /// Slices: so often is every stage read.
    pub slices: usize,
    pub chunk_tokens: usize,
    pub read_bytes: u64,
    /// Memory for residual streams, and how much of it a slice may take.
    pub memory_budget: u64,
    /// The most that is used of a GPU's memory, its streams included; `None` on a CPU.
    pub device_bytes: Option<u64>,
    /// Floating-point operations in matrix products, if no two variants have a weight in common.
    pub operations: f64,
}

impl Plan {
    /// Checks what can be checked without reading weights: candidates fit, the streams of one passage fit the memory.
    pub fn new(models: Models<'_>, passages: &[TokenizedPassage], options: &EngineOptions) -> Result<Self, EvalError> {
        let chunks = plan_chunks(models, passages, options)?;
        let capacity = Capacity::of_plan(models, &chunks, options)?;
        let slices = capacity.slices(&chunks, &chunks.whole(), options);
        let largest = slices.iter().map(|slice| chunks.tokens(slice)).max().unwrap_or(0);
        let on_gpus = options.backends.iter().filter(|backend| backend.device != Device::Cpu);
        let device_bytes = on_gpus.map(|&backend| {
            let chunk_tokens = chunks.chunk_tokens().max(chunks.longest());
            let streams = largest.div_ceil(options.backends.len()) as u64 * capacity.bytes_per_token;
            device_memory(models, backend, chunk_tokens, &options.calibration).besides_streams() + streams
        });
        let packed = &chunks.packed;
        let targets = packed.passages.iter().map(|passage| passage.target_ids.len()).sum();
        let (_, bytes) = models.checkpoint.size();
        let of_candidates: u64 = models.candidates().map(|(_, model)| model.size().1).sum();
        Ok(Self {
            passages: packed.passages.len(),
            tokens: packed.input_ids.len(),
            targets,
            slices: slices.len(),
            chunk_tokens: chunks.chunk_tokens(),
            read_bytes: (bytes + of_candidates).saturating_mul(slices.len() as u64),
            memory_budget: capacity.stream_bytes,
            device_bytes: device_bytes.max(),
            operations: operations(models.checkpoint, packed, targets) * float(models.variants.len()),
        })
    }

    /// Seconds that the matrix products take on these devices, by one that is measured now.
    pub fn seconds(&self, model: &dyn ModelSource, options: &EngineOptions) -> Result<f64, EvalError> {
        let mut speed = 0.0;
        for &backend in &options.backends {
            speed += matrix_product_flops(backend, model.architecture().hidden_size).map_err(EvalError::Device)?;
        }
        Ok(self.operations / f64::max(speed, 1.0))
    }
}

/// Operations of one variant: two for every weight of a layer and token, two for every weight of the head and target, and four
/// for every element of a query and each position that it attends to.
fn operations(model: &dyn ModelSource, packed: &Packed, targets: usize) -> f64 {
    let architecture = model.architecture();
    let vocabulary = float(architecture.padded_vocab_size) * float(architecture.hidden_size);
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let in_layers = in_layers(model) as f64;
    let layers = model.stage_ids().iter().filter(|id| matches!(id, StageId::Layer(_))).count();
    let width = float(architecture.head_count * architecture.head_size);
    let pairs: f64 = packed.passages.iter().map(TokenizedPassage::length).map(|n| float(n * (n + 1)) / 2.0).sum();
    2.0 * in_layers * float(packed.input_ids.len())
        + 2.0 * vocabulary * float(targets)
        + 4.0 * width * float(layers) * pairs
}

#[expect(clippy::cast_precision_loss, reason = "counts, for an estimate")]
fn float(count: usize) -> f64 {
    count as f64
}
