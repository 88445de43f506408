//! What a GPU's memory holds during an evaluation: the sum by which slices are cut.

use std::collections::BTreeMap;

use super::packing::TokenizedPassage;
use super::variant::{Models, Weights};
use crate::checkpoint::ModelSource;
use crate::config::{Architecture, Head, MlpInput, QueryKeyNorm};
use crate::merge::{Rule, Strategy};
use crate::model::Backend;

/// Positions whose logits exist at once on a GPU, which needs some to be busy.
pub(super) const GPU_OUTPUT_ROWS: usize = 512;

/// Bytes of a float32.
const FLOAT: usize = 4;

/// Bytes of a GPU's memory, at the most demanding moment of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DeviceMemory {
    /// Weights of the stage that is computed and, as they are stored, of the next, which is copied meanwhile.
    pub weights: u64,
    /// A chunk's activations in a layer.
    pub chunk: u64,
    /// The logits of a block of targets, and what scoring makes of them.
    pub logits: u64,
    /// Residual streams of the passages for calibration.
    pub calibration: u64,
    /// What libraries take for themselves: workspaces of matrix products, kernels as they are loaded.
    pub libraries: u64,
}

impl DeviceMemory {
    const LIBRARIES: u64 = 512 << 20;

    /// For chunks of so many tokens; those of passages for calibration have at most `calibration_chunk`.
    pub(super) fn new(
        models: Models<'_>,
        backend: Backend,
        chunk_tokens: usize,
        calibration: &[TokenizedPassage],
        calibration_chunk: usize,
    ) -> Self {
        let architecture = models.checkpoint.architecture();
        let element = backend.kind.elt_size_in_bytes();
        let calibrating = models.strategies().filter(|(_, strategy)| strategy.calibrate).count();
        let calibrates = calibrating > 0 && architecture.streams_can_differ();
        let tokens = if calibrates { calibration.iter().map(TokenizedPassage::length).sum() } else { 0 };
        // Beside those that stay, two are being made: of the unmerged model, or of a merge before it is corrected.
        let streams = calibrating + 2 * models.checkpoint.tp_size();
        let calibration_tokens = tokens.min(calibration_chunk);
        Self {
            weights: weights(models, element, calibrates),
            chunk: product(&[(chunk_tokens * element).max(calibration_tokens * FLOAT), activations(models)]),
            logits: logits(models, element),
            calibration: product(&[tokens, streams, architecture.hidden_size, FLOAT]),
            libraries: Self::LIBRARIES,
        }
    }

    /// All but the residual streams.
    pub(super) fn besides_streams(&self) -> u64 {
        let Self { weights, chunk, logits, calibration, libraries } = self;
        weights + chunk + logits + calibration + libraries
    }
}

/// Bytes of residual streams for every token of a slice, of whose tokens `targets` in `tokens` predict one that is scored.
///
/// A variant's stream is replaced by its next one in place, so there are as many as variants have: one each, but one per rank
/// where ranks can differ. More there are when one becomes one per rank, and in the last layer, whose rows at the targets are
/// made chunk by chunk and then joined.
pub(super) fn stream_bytes_per_token(models: Models<'_>, backend: Backend, (targets, tokens): (usize, usize)) -> u64 {
    let of = |model: &dyn ModelSource| if model.architecture().streams_can_differ() { model.tp_size() } else { 1 };
    let counts = models.variants.iter().map(|variant| match &variant.weights {
        Weights::Unmerged => of(models.checkpoint),
        Weights::Merged(_) => 1,
        Weights::Candidate(model) => of(model.as_ref()),
    });
    let (sum, most) = counts.fold((0, 0), |(sum, most), count| (sum + count, most.max(count)));
    let row = product(&[models.checkpoint.architecture().hidden_size, backend.kind.elt_size_in_bytes()]);
    let forking = if most > 1 { row } else { 0 };
    let at_targets = (2 * row * most as u64).saturating_mul(targets as u64).div_ceil(tokens.max(1) as u64);
    // Its id and its position.
    let indices = 16;
    row * sum as u64 + forking.max(at_targets) + indices
}

/// Weights on the device: those of two stages as they are stored, and of one once more where they are computed with in another
/// type, or calibrated with, in float32.
fn weights(models: Models<'_>, element: usize, calibrates: bool) -> u64 {
    let converted = |element| stages(models, element).into_iter().map(|(_, converted)| converted).max().unwrap_or(0);
    let calibrated = if calibrates && element != FLOAT { converted(FLOAT) } else { 0 };
    2 * largest_stage(models) + converted(element) + calibrated
}

/// About the bytes that the largest stage's weights take on a GPU as they are stored: the unmerged model's, and what merges do
/// not share with it.
pub(super) fn largest_stage(models: Models<'_>) -> u64 {
    stages(models, 0).into_iter().map(|(stored, _)| stored).max().unwrap_or(0)
}

/// Of the embedding, of a layer and of the head: bytes as they are stored, and converted where they are to be.
fn stages(models: Models<'_>, element: usize) -> [(u64, u64); 3] {
    let folding = u64::from(models.strategies().any(|(_, strategy)| folds(strategy)));
    let calibrating = models.strategies().filter(|(_, strategy)| strategy.calibrate).count() as u64;
    let own = models.candidates().map(|(_, model)| (model, 1, 1));
    let mut stages = [(0, 0); 3];
    for (model, layers, heads) in own.chain([(models.checkpoint, 1 + folding, 1 + folding + calibrating)]) {
        let (table, layer) = (vocabulary(model.architecture()), layer_parameters(model));
        let stored = model.dtype().size();
        for (stage, elements) in stages.iter_mut().zip([table, layer * layers, table * heads]) {
            stage.0 += elements * stored as u64;
            stage.1 += if stored == element { 0 } else { elements * element as u64 };
        }
    }
    stages
}

fn folds(strategy: &Strategy) -> bool {
    let overridden = strategy.overrides.iter().map(|entry| entry.rule);
    let other = strategy.only_for.as_ref().is_some_and(|(_, other)| folds(other));
    other || strategy.rules.values().copied().chain(overridden).any(|rule| rule == Rule::Fold)
}

/// Elements of the word embedding.
fn vocabulary(architecture: &Architecture) -> u64 {
    product(&[architecture.padded_vocab_size, architecture.hidden_size])
}

/// Parameters that are multiplied with every token: those of the vocabulary are looked up, or multiplied at the targets alone.
pub(super) fn in_layers(model: &dyn ModelSource) -> u64 {
    let matrices = if model.architecture().head == Head::Tied { 1 } else { 2 };
    model.size().0.saturating_sub(vocabulary(model.architecture()).saturating_mul(matrices))
}

fn layer_parameters(model: &dyn ModelSource) -> u64 {
    in_layers(model).div_ceil(model.architecture().layer_count.max(1) as u64)
}

/// Elements of a token in a layer when most of them exist at once. libtorch keeps the memory that one model's tensors had, and
/// those of models with another number of ranks are of other sizes; chunks are not quite equal, so that the largest tensors
/// may have been made for a smaller chunk before.
fn activations(models: Models<'_>) -> usize {
    let merged = models.strategies().next().map(|_| (models.checkpoint.architecture(), 1));
    let own = models.candidates().map(|(_, model)| (model.architecture(), model.tp_size()));
    let mut by_ranks = BTreeMap::new();
    let mut largest = 0;
    for (architecture, ranks) in
        own.chain(merged).chain([(models.checkpoint.architecture(), models.checkpoint.tp_size())])
    {
        let most: &mut usize = by_ranks.entry(ranks).or_default();
        *most = (*most).max(activations_of(architecture, ranks));
        largest = largest.max(architecture.mlp_input_size().max(architecture.qkv_size()).div_ceil(ranks));
    }
    by_ranks.values().sum::<usize>() + largest
}

fn activations_of(architecture: &Architecture, ranks: usize) -> usize {
    let hidden = architecture.hidden_size;
    let streams = if architecture.streams_can_differ() { ranks } else { 1 };
    let own_norm = architecture.mlp_input != MlpInput::AttentionNorm;
    // The rows, kept in case that memory does not suffice; the norms' outputs, one for each rank's gain; every rank's context.
    let query = architecture.query_size();
    let throughout = hidden * streams + hidden * ranks.max(streams) * if own_norm { 2 } else { 1 } + query;
    // Queries, keys and values; two and a half times the rotated half of the first while they are rotated, else groups'
    // contexts and these joined, and repeated keys and values.
    let repeated = if architecture.kv_head_count < architecture.head_count { 2 * query } else { 0 };
    // Normalised apart, in float32: what was read, its squares and the result.
    let normalised = if architecture.query_key_norm == Some(QueryKeyNorm::PerHead) { 5 * query } else { 0 };
    let attention = (architecture.qkv_size() + (2 * query + repeated).max(normalised)).div_ceil(ranks);
    let mlp = architecture.mlp_input_size().div_ceil(ranks) + hidden;
    throughout + attention.max(mlp)
}

/// Rows of logits in the compute type, as log-probabilities, the baseline's with its probabilities, and two of the same size
/// while a divergence is summed.
fn logits(models: Models<'_>, element: usize) -> u64 {
    let own = models.candidates().map(|(_, model)| model.architecture().padded_vocab_size);
    let widest = own.chain([models.checkpoint.architecture().padded_vocab_size]).max().unwrap_or(0);
    product(&[GPU_OUTPUT_ROWS, widest, element.max(FLOAT) * 5 + element])
}

fn product(factors: &[usize]) -> u64 {
    factors.iter().fold(1, |product: u64, &factor| product.saturating_mul(factor as u64))
}
