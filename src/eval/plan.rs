//! The cost of an evaluation, before it is run.

use super::EvalError;
use super::budget::in_layers;
use super::engine::{EngineOptions, plan_chunks, slice_count};
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
    /// Floating-point operations in matrix products, if no two variants have a weight in common.
    pub operations: f64,
}

impl Plan {
    /// Checks what can be checked without reading weights: candidates fit, the streams of one passage fit the memory.
    pub fn new(models: Models<'_>, passages: &[TokenizedPassage], options: &EngineOptions) -> Result<Self, EvalError> {
        let chunks = plan_chunks(models, passages, options)?;
        let (memory_budget, slices) = slice_count(models, &chunks, options)?;
        let packed = &chunks.packed;
        let targets = packed.passages.iter().map(|passage| passage.target_ids.len()).sum();
        let (_, bytes) = models.checkpoint.size();
        let of_candidates: u64 = models.candidates().map(|(_, model)| model.size().1).sum();
        Ok(Self {
            passages: packed.passages.len(),
            tokens: packed.input_ids.len(),
            targets,
            slices,
            chunk_tokens: chunks.chunk_tokens(),
            read_bytes: (bytes + of_candidates).saturating_mul(slices as u64),
            memory_budget,
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
    let width = float(architecture.head_count * (architecture.hidden_size / architecture.head_count.max(1)));
    let pairs: f64 = packed.passages.iter().map(TokenizedPassage::length).map(|n| float(n * (n + 1)) / 2.0).sum();
    2.0 * in_layers * float(packed.input_ids.len())
        + 2.0 * vocabulary * float(targets)
        + 4.0 * width * float(layers) * pairs
}

#[expect(clippy::cast_precision_loss, reason = "counts, for an estimate")]
fn float(count: usize) -> f64 {
    count as f64
}
