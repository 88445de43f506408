//! The keys of `config.json` that decide what a model of any class computes.

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// An absent key has the default of transformers' class.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub max_position_embeddings: Option<usize>,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub hidden_act: Option<String>,
    pub use_parallel_residual: Option<bool>,
    pub attention_bias: Option<bool>,
    pub mlp_bias: Option<bool>,
    pub tie_word_embeddings: Option<bool>,
    pub layer_norm_eps: Option<f64>,
    pub rms_norm_eps: Option<f64>,
    pub rotary_pct: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub rotary_emb_base: Option<f64>,
    pub rope_theta: Option<f64>,
    pub rope_parameters: Option<RotaryKeys>,
    pub rope_scaling: Option<RotaryKeys>,
    pub original_max_position_embeddings: Option<usize>,
    pub use_sliding_window: Option<bool>,
    pub max_window_layers: Option<usize>,
    pub layer_types: Option<Vec<String>>,
    pub scale_attn_weights: Option<bool>,
    pub quantization_config: Option<Value>,
}

/// transformers' description of rotary embedding.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RotaryKeys {
    pub rope_theta: Option<f64>,
    pub partial_rotary_factor: Option<f64>,
    pub rope_type: Option<String>,
    /// Until transformers 4.43.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub factor: Option<f64>,
    pub low_freq_factor: Option<f64>,
    pub high_freq_factor: Option<f64>,
    pub original_max_position_embeddings: Option<usize>,
    pub full_attention: Option<Value>,
    pub sliding_attention: Option<Value>,
}

/// GPT-2's keys, and those that the other classes have for the same.
pub(super) const GPT2_KEYS: &[(&str, &str)] = &[
    ("n_embd", "hidden_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("n_inner", "intermediate_size"),
    ("activation_function", "hidden_act"),
    ("layer_norm_epsilon", "layer_norm_eps"),
];

/// GPT-2's keys under the names of the other classes, with the MLP's default width.
pub(super) fn of_gpt2(mut keys: Map<String, Value>) -> Map<String, Value> {
    for (theirs, common) in GPT2_KEYS {
        if let Some(value) = keys.remove(*theirs) {
            keys.insert((*common).to_owned(), value);
        }
    }
    if keys.get("intermediate_size").is_none_or(Value::is_null)
        && let Some(hidden) = keys.get("hidden_size").and_then(Value::as_u64)
    {
        keys.insert("intermediate_size".to_owned(), json!(hidden.saturating_mul(4)));
    }
    keys
}
