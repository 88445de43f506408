//! The architecture of a model of Megatron-LM, from its arguments and tensors.

use super::settings::Settings;
use crate::config::{
    Architecture, AttentionKind, EpsilonPlacement, Head, MlpInput, MlpMatrices, Multipliers, Precision, QkvLayout,
    QueryKeyNorm, Residual, RotaryTables,
};

/// What only the tensors show.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub tensor_ranks: usize,
    pub precision: Precision,
    pub padded_vocab_size: usize,
    pub mlp_size: usize,
    pub head: Head,
}

impl Settings {
    /// `layers` are already counted: there are as many in the files.
    pub(super) fn architecture(&self, shown: Shown) -> Architecture {
        let kind = |layer: usize| match &self.window {
            Some((_, in_layer)) if in_layer.get(layer) == Some(&true) => AttentionKind::Flash,
            _ => AttentionKind::Global,
        };
        Architecture {
            layer_count: self.layers,
            hidden_size: self.hidden_size,
            head_count: self.heads,
            kv_head_count: self.query_groups,
            head_size: self.head_size,
            padded_vocab_size: shown.padded_vocab_size,
            mlp_inner_size: self.mlp_size.unwrap_or(shown.mlp_size),
            max_position_embeddings: self.max_positions,
            norm: self.norm,
            norm_epsilon: self.epsilon,
            rms_epsilon: EpsilonPlacement::Inside,
            query_key_norm: self.query_key_norm.then_some(QueryKeyNorm::PerHead),
            positions: self.positions,
            rotary_tables: RotaryTables::Float32,
            storage: shown.precision,
            attention: (0..self.layers).map(kind).collect(),
            sliding_window: self.window.as_ref().map(|&(tokens, _)| tokens),
            // It scales twice, so that nothing but rounding changes.
            query_key_layer_scaling: false,
            multipliers: Multipliers::NONE,
            activation: self.activation,
            tanh_gelu: self.tanh_gelu,
            onnx_gelu: self.onnx_gelu,
            gated: self.activation.is_gated(),
            mlp_matrices: MlpMatrices::UpGate,
            residual: Residual::Sequential,
            attention_dropped: false,
            mlp_input: MlpInput::OwnNorm,
            head: shown.head,
            qkv: if self.query_groups == self.heads { QkvLayout::Interleaved } else { QkvLayout::Blocks },
            qkv_bias: self.qkv_bias,
            attention_output_bias: self.linear_bias,
            mlp_bias: self.linear_bias,
            soft_prompt_length: 0,
            sequence_parallel: self.sequence_parallel && shown.tensor_ranks > 1,
            not_evaluated: None,
        }
    }
}
