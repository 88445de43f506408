//! What a class computes with these keys, as gpt-neox settings and what is beyond them. Keys and defaults after
//! transformers' configuration classes (4.38 to 5).

use serde_json::{Map, Value, json};

use super::beyond::Beyond;
use super::error::refuse;
use super::names::HuggingFaceClass;
use super::raw::Raw;
use super::rotary_keys::Rotary;
use super::windows;
use crate::config::Unsupported;

/// Elements of a head in Qwen3, where nothing is stated.
const QWEN3_HEAD_SIZE: usize = 128;

pub(super) fn of(
    class: HuggingFaceClass,
    keys: &Map<String, Value>,
    raw: &Raw,
) -> Result<(Map<String, Value>, Beyond), Unsupported> {
    if raw.quantization_config.is_some() {
        return Err(refuse("quantization_config", "quantised weights are another model"));
    }
    let mut beyond = Beyond::default();
    let width = attention_width(class, keys, raw)?;
    beyond.hidden_size = (width != raw.hidden_size).then_some(raw.hidden_size);
    let common = json!({
        "num_layers": raw.num_hidden_layers,
        "hidden_size": width,
        "num_attention_heads": raw.num_attention_heads,
        "num_kv_heads": kv_heads(class, keys, raw),
        "max_position_embeddings": raw.max_position_embeddings.unwrap_or(longest_input(class)),
        "intermediate_size": raw.intermediate_size,
        "padded_vocab_size": raw.vocab_size,
        "no_weight_tying": !raw.tie_word_embeddings.unwrap_or(class == HuggingFaceClass::Gpt2),
        "output_layer_parallelism": "column",
    });
    let own = match class {
        HuggingFaceClass::GptNeox => gpt_neox(raw, &mut beyond)?,
        HuggingFaceClass::Gpt2 => gpt2(raw, &mut beyond)?,
        _ => like_llama(class, raw, &mut beyond)?,
    };
    let windows = match class {
        HuggingFaceClass::Mistral | HuggingFaceClass::Qwen2 | HuggingFaceClass::Qwen3 => {
            windows::settings(class, keys, raw)?
        }
        _ => Map::new(),
    };
    let entries = [common, own, Value::Object(windows)].into_iter().filter_map(|value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    });
    Ok((entries.flatten().collect(), beyond))
}

/// Heads times their size; the hidden size where heads have no size of their own.
fn attention_width(class: HuggingFaceClass, keys: &Map<String, Value>, raw: &Raw) -> Result<usize, Unsupported> {
    let own = match class {
        HuggingFaceClass::GptNeox | HuggingFaceClass::Gpt2 => None,
        HuggingFaceClass::Qwen3 if !keys.contains_key("head_dim") => Some(QWEN3_HEAD_SIZE),
        _ => raw.head_dim,
    };
    let Some(size) = own.filter(|&size| raw.num_attention_heads.checked_mul(size) != Some(raw.hidden_size)) else {
        return Ok(raw.hidden_size);
    };
    let width = raw.num_attention_heads.checked_mul(size).filter(|&width| width > 0);
    match width {
        // Settings of gpt-neox are limited; this one is none there.
        Some(width) if (1..1 << 32).contains(&raw.hidden_size) => Ok(width),
        Some(_) => Err(refuse(format!("hidden_size: {}", raw.hidden_size), "there is no such model")),
        None => Err(refuse(format!("head_dim: {size}"), "it is to be a number of elements, one or more")),
    }
}

fn kv_heads(class: HuggingFaceClass, keys: &Map<String, Value>, raw: &Raw) -> Option<usize> {
    let stated = keys.contains_key("num_key_value_heads");
    match class {
        HuggingFaceClass::GptNeox | HuggingFaceClass::Gpt2 => None,
        HuggingFaceClass::Mistral if !stated => Some(8),
        HuggingFaceClass::Qwen2 | HuggingFaceClass::Qwen3 if !stated => Some(32),
        _ => raw.num_key_value_heads,
    }
}

fn longest_input(class: HuggingFaceClass) -> usize {
    match class {
        HuggingFaceClass::GptNeox | HuggingFaceClass::Llama => 2048,
        HuggingFaceClass::Mistral => 131_072,
        HuggingFaceClass::Qwen2 | HuggingFaceClass::Qwen3 => 32_768,
        HuggingFaceClass::Gpt2 => 1024,
    }
}

fn gpt_neox(raw: &Raw, beyond: &mut Beyond) -> Result<Value, Unsupported> {
    let (activation, tanh) = plain_activation(raw.hidden_act.as_deref().unwrap_or("gelu"), beyond)?;
    let rotary = Rotary::of(raw)?;
    beyond.scaling = rotary.scaling;
    Ok(json!({
        "norm": "layernorm",
        "layernorm_epsilon": raw.layer_norm_eps.unwrap_or(1e-5),
        "pos_emb": "rotary",
        "rotary_emb_base": rotary.base,
        "rotary_pct": rotary.share.unwrap_or(0.25),
        "gpt_j_residual": raw.use_parallel_residual.unwrap_or(true),
        "activation": activation,
        "bias_gelu_fusion": tanh,
        "use_bias_in_attn_linear": raw.attention_bias.unwrap_or(true),
        "use_bias_in_mlp": true,
    }))
}

fn gpt2(raw: &Raw, beyond: &mut Beyond) -> Result<Value, Unsupported> {
    let (activation, tanh) = plain_activation(raw.hidden_act.as_deref().unwrap_or("gelu_new"), beyond)?;
    if raw.scale_attn_weights == Some(false) {
        return Err(refuse("scale_attn_weights: false", "attention without its scale is not evaluated"));
    }
    Ok(json!({
        "norm": "layernorm",
        "layernorm_epsilon": raw.layer_norm_eps.unwrap_or(1e-5),
        "pos_emb": "learned",
        "gpt_j_residual": false,
        "activation": activation,
        "bias_gelu_fusion": tanh,
        "use_bias_in_attn_linear": true,
        "use_bias_in_mlp": true,
    }))
}

fn like_llama(class: HuggingFaceClass, raw: &Raw, beyond: &mut Beyond) -> Result<Value, Unsupported> {
    let rotary = Rotary::of(raw)?;
    beyond.scaling = rotary.scaling;
    beyond.qkv_bias = class == HuggingFaceClass::Qwen2;
    beyond.per_head_norms = class == HuggingFaceClass::Qwen3;
    if let Some(share) = rotary.share.filter(|&share| share.total_cmp(&1.0).is_ne()) {
        return Err(refuse(format!("partial_rotary_factor: {share}"), "the class turns all of each head"));
    }
    let biases = matches!(class, HuggingFaceClass::Llama | HuggingFaceClass::Qwen3);
    Ok(json!({
        "norm": "rmsnorm",
        "rms_norm_epsilon": raw.rms_norm_eps.unwrap_or(1e-6),
        "pos_emb": "rotary",
        "rotary_emb_base": rotary.base,
        "rotary_pct": 1.0,
        "gpt_j_residual": false,
        "activation": gated_activation(raw.hidden_act.as_deref().unwrap_or("silu"), beyond)?,
        "use_bias_in_attn_linear": biases && raw.attention_bias.unwrap_or(false),
        "use_bias_in_mlp": class == HuggingFaceClass::Llama && raw.mlp_bias.unwrap_or(false),
    }))
}

const TANH_GELU: [&str; 5] = ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "gelu_python_tanh"];

/// gpt-neox's value, and whether GELU is the tanh form (transformers `activations.py`).
fn plain_activation(word: &str, beyond: &mut Beyond) -> Result<(&'static str, bool), Unsupported> {
    Ok(match word {
        "gelu" | "gelu_python" => ("gelu", false),
        tanh if TANH_GELU.contains(&tanh) => ("gelu", true),
        "relu" => ("relu", false),
        "relu2" => {
            beyond.squared_relu = true;
            ("relu", false)
        }
        "silu" | "swish" => ("silu", false),
        "mish" => ("mish", false),
        other => return Err(refuse(format!("hidden_act: {other}"), "this activation is not evaluated")),
    })
}

/// gpt-neox's value for an activation of the gate.
fn gated_activation(word: &str, beyond: &mut Beyond) -> Result<&'static str, Unsupported> {
    Ok(match word {
        "silu" | "swish" => "swiglu",
        "gelu" | "gelu_python" => "geglu",
        tanh if TANH_GELU.contains(&tanh) => {
            beyond.tanh_gate = true;
            "geglu"
        }
        "relu" => "reglu",
        "sigmoid" => "glu",
        "linear" => "bilinear",
        other => return Err(refuse(format!("hidden_act: {other}"), "this activation of a gate is not evaluated")),
    })
}
