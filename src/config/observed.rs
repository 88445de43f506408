//! Properties of the model that only the tensors of a checkpoint show.

use super::choices::{OutputLayerParallelism, Precision};
use super::forms::Head;
use super::neox::NeoxConfig;

/// Names, shapes and types seen in the files.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Number of ranks that hold shards.
    pub tp_size: usize,
    /// Width of the MLP between its two layers, all ranks together (after gating).
    pub mlp_inner_size: Option<usize>,
    /// Rows of the word embedding, all ranks together.
    pub padded_vocab_size: Option<usize>,
    /// Shape of one rank's output head, where there is one.
    pub head_shape: Option<Vec<usize>>,
    /// Names of the tensors of one transformer layer; empty where nothing was observed.
    pub layer_tensors: Vec<String>,
    /// Rows of the trained prompt.
    pub soft_prompt_length: Option<usize>,
    /// Number format of the word embedding.
    pub precision: Option<Precision>,
}

impl Observed {
    /// Whether a layer was observed to hold a tensor of this name.
    #[must_use]
    pub fn has_layer_tensor(&self, name: &str) -> bool {
        self.layer_tensors.iter().any(|known| known == name)
    }

    /// Whether the attention is Transformer Engine's: by the names, where there are any.
    pub(super) fn engine_attention(&self, config: &NeoxConfig) -> bool {
        let switched_on = config.transformer_engine.attention || config.transformer_engine.fp8_attention;
        if self.layer_tensors.is_empty() { switched_on } else { self.has_layer_tensor("attention.qkv.weight") }
    }

    /// Whether the MLP is Transformer Engine's: by the names, where there are any.
    pub(super) fn engine_mlp(&self, config: &NeoxConfig) -> bool {
        let switched_on = config.transformer_engine.layernorm_mlp;
        if self.layer_tensors.is_empty() { switched_on } else { self.has_layer_tensor("mlp.fc1_weight") }
    }
}

/// A head that the configuration does not describe is recognised by its shape: gpt-neox's default was `row` until
/// 2023-05-02 and is `column` since.
pub(super) fn resolve_head(config: &NeoxConfig, observed: &Observed, padded_vocab_size: usize) -> Head {
    if config.tied_embeddings() {
        return Head::Tied;
    }
    if config.is_reward_model() {
        return Head::Reward;
    }
    let by_config = match config.output_layer_parallelism {
        OutputLayerParallelism::Column => Head::Column,
        OutputLayerParallelism::Row => Head::Row,
    };
    let stated = config.raw.contains_key("output_layer_parallelism");
    match observed.head_shape.as_deref() {
        Some([rows, _]) if !stated && observed.tp_size > 1 => {
            if *rows == padded_vocab_size {
                Head::Row
            } else {
                Head::Column
            }
        }
        _ => by_config,
    }
}
