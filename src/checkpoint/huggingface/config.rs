//! `config.json` of transformers as gpt-neox settings, so that one resolution of settings serves both. Keys and defaults
//! after transformers' `GPTNeoXConfig` and `LlamaConfig` (4.38 to 5).

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::HuggingFaceError;
use super::names::HuggingFaceClass;
use crate::config::{ConfigError, NeoxConfig, Unsupported};
use crate::files;

const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct ModelConfig {
    pub class: HuggingFaceClass,
    pub settings: NeoxConfig,
    pub mlp_inner_size: usize,
    pub vocab_size: usize,
}

/// The keys that decide what the model computes. An absent key has transformers' default.
#[derive(Debug, Deserialize)]
struct Raw {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    use_parallel_residual: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    layer_norm_eps: Option<f64>,
    rms_norm_eps: Option<f64>,
    rotary_pct: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rotary_emb_base: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RotaryKeys>,
    rope_scaling: Option<RotaryKeys>,
    quantization_config: Option<Value>,
}

/// transformers' description of rotary embedding.
#[derive(Debug, Default, Deserialize)]
struct RotaryKeys {
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
}

/// gpt-neox's keys as `config.json` spells them, for messages.
const SPELLED: &[(&str, &str)] = &[
    ("num_layers", "num_hidden_layers"),
    ("padded_vocab_size", "vocab_size"),
    ("num_kv_heads", "num_key_value_heads"),
    ("layernorm_epsilon", "layer_norm_eps"),
    ("rms_norm_epsilon", "rms_norm_eps"),
    ("rotary_emb_base", "rope_theta"),
];

pub(super) fn read(path: &Path) -> Result<ModelConfig, HuggingFaceError> {
    if !path.is_file() {
        return Err(HuggingFaceError::Config { path: path.to_owned(), message: "the file is missing".to_owned() });
    }
    parse(path, &files::read(path, MAX_BYTES)?)
}

/// Reads the text of the file.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<ModelConfig, HuggingFaceError> {
    let broken = |message: String| HuggingFaceError::Config { path: path.to_owned(), message };
    // Its class first: the keys of another class may be missing altogether.
    let keys: Map<String, Value> = serde_json::from_slice(text).map_err(|error| broken(error.to_string()))?;
    let class = class(&keys).map_err(|found| HuggingFaceError::Class { path: path.to_owned(), found })?;
    let keys = Value::Object(keys);
    let raw: Raw = serde_path_to_error::deserialize(&keys).map_err(|error| match error.path().iter().next() {
        None => broken(error.inner().to_string()),
        Some(_) => broken(format!("`{}`: {}", error.path(), error.inner())),
    })?;
    let unsupported = |source| HuggingFaceError::Unsupported { path: path.to_owned(), source };
    let mut settings = settings(class, &raw).map_err(unsupported)?;
    if class == HuggingFaceClass::Mistral {
        settings.extend(mistral(&keys, &raw).map_err(unsupported)?);
    }
    let settings = NeoxConfig::from_raw(settings, vec![path.to_owned()]).map_err(spelled)?;
    Ok(ModelConfig { class, settings, mlp_inner_size: raw.intermediate_size, vocab_size: raw.vocab_size })
}

/// By `architectures`, else by `model_type`; the unsupported class otherwise. Capitals do not count: Llama's class was
/// spelled `LLaMAForCausalLM` at first.
fn class(keys: &Map<String, Value>) -> Result<HuggingFaceClass, String> {
    let class = keys.get("architectures").and_then(|classes| classes.get(0)).and_then(Value::as_str);
    let kind = keys.get("model_type").and_then(Value::as_str);
    let asked = class.or(kind).ok_or("neither `architectures` nor `model_type`")?;
    let is = |known: &HuggingFaceClass| {
        asked.eq_ignore_ascii_case(if class.is_some() { known.name() } else { known.model_type() })
    };
    HuggingFaceClass::ALL.into_iter().find(is).ok_or_else(|| asked.to_owned())
}

fn refuse(setting: impl Into<String>, reason: &str) -> Unsupported {
    Unsupported::new(setting, reason, "evaluate it with transformers and lm-evaluation-harness")
}

fn settings(class: HuggingFaceClass, raw: &Raw) -> Result<Map<String, Value>, Unsupported> {
    if raw.quantization_config.is_some() {
        return Err(refuse("quantization_config", "quantised weights are another model"));
    }
    let rope = raw.rope_parameters.as_ref();
    for rope in [rope, raw.rope_scaling.as_ref()].into_iter().flatten() {
        if let Some(kind) = rope.rope_type.as_deref().filter(|&kind| kind != "default") {
            return Err(refuse(format!("rope_type: {kind}"), "gpt-neox does not scale rotary frequencies"));
        }
    }
    let head_size = raw.hidden_size.checked_div(raw.num_attention_heads);
    if let Some(head_dim) = raw.head_dim.filter(|&head_dim| Some(head_dim) != head_size) {
        return Err(refuse(
            format!("head_dim: {head_dim}"),
            "gpt-neox's heads have hidden_size / num_attention_heads elements each",
        ));
    }
    let theta = rope.and_then(|rope| rope.rope_theta).or(raw.rope_theta).or(raw.rotary_emb_base).unwrap_or(10_000.0);
    let share = rope.and_then(|rope| rope.partial_rotary_factor).or(raw.rotary_pct).or(raw.partial_rotary_factor);
    let common = json!({
        "num_layers": raw.num_hidden_layers,
        "hidden_size": raw.hidden_size,
        "num_attention_heads": raw.num_attention_heads,
        "num_kv_heads": raw.num_key_value_heads,
        "max_position_embeddings": raw.max_position_embeddings.unwrap_or(2048),
        "intermediate_size": raw.intermediate_size,
        "padded_vocab_size": raw.vocab_size,
        "pos_emb": "rotary",
        "rotary_emb_base": theta,
        "no_weight_tying": !raw.tie_word_embeddings.unwrap_or(false),
        "output_layer_parallelism": "column",
    });
    let own = match class {
        HuggingFaceClass::GptNeox => {
            let (activation, tanh) = plain_activation(raw.hidden_act.as_deref().unwrap_or("gelu"))?;
            json!({
                "norm": "layernorm",
                "layernorm_epsilon": raw.layer_norm_eps.unwrap_or(1e-5),
                "rotary_pct": share.unwrap_or(0.25),
                "gpt_j_residual": raw.use_parallel_residual.unwrap_or(true),
                "activation": activation,
                "bias_gelu_fusion": tanh,
                "use_bias_in_attn_linear": raw.attention_bias.unwrap_or(true),
                "use_bias_in_mlp": true,
            })
        }
        HuggingFaceClass::Llama | HuggingFaceClass::Mistral => json!({
            "norm": "rmsnorm",
            "rms_norm_epsilon": raw.rms_norm_eps.unwrap_or(1e-6),
            "rotary_pct": share.unwrap_or(1.0),
            "gpt_j_residual": false,
            "activation": gated_activation(raw.hidden_act.as_deref().unwrap_or("silu"))?,
            "use_bias_in_attn_linear": raw.attention_bias.unwrap_or(false),
            "use_bias_in_mlp": raw.mlp_bias.unwrap_or(false),
        }),
    };
    let entries = [common, own].into_iter().filter_map(|value| match value {
        Value::Object(map) => Some(map),
        _ => None,
    });
    Ok(entries.flatten().collect())
}

/// What Mistral has beside Llama's settings, in gpt-neox's keys. Absent keys have the defaults of `MistralConfig`. A window
/// of transformers counts the token itself, one of gpt-neox the tokens before it.
fn mistral(keys: &Value, raw: &Raw) -> Result<Map<String, Value>, Unsupported> {
    let number = |key: &str, default: u64| keys.get(key).map_or(Some(default), Value::as_u64);
    let kv_heads = number("num_key_value_heads", 8).unwrap_or(raw.num_attention_heads as u64);
    let mut settings = Map::new();
    settings.insert("num_kv_heads".to_owned(), json!(kv_heads));
    match number("sliding_window", 4096) {
        None => {}
        Some(window @ 0..=1) => {
            return Err(refuse(format!("sliding_window: {window}"), "gpt-neox has no such window"));
        }
        Some(window) => {
            settings.insert("attention_config".to_owned(), json!([[["flash"], "all"]]));
            settings.insert("sliding_window_width".to_owned(), json!(window - 1));
        }
    }
    Ok(settings)
}

/// gpt-neox's value, and whether GELU is the tanh form (transformers `activations.py`).
fn plain_activation(word: &str) -> Result<(&'static str, bool), Unsupported> {
    Ok(match word {
        "gelu" | "gelu_python" => ("gelu", false),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" | "gelu_python_tanh" => ("gelu", true),
        "relu" => ("relu", false),
        "silu" | "swish" => ("silu", false),
        "mish" => ("mish", false),
        other => return Err(refuse(format!("hidden_act: {other}"), "gpt-neox has no such activation")),
    })
}

/// gpt-neox's value for an activation of the gate.
fn gated_activation(word: &str) -> Result<&'static str, Unsupported> {
    Ok(match word {
        "silu" | "swish" => "swiglu",
        "gelu" | "gelu_python" => "geglu",
        "relu" => "reglu",
        "sigmoid" => "glu",
        "linear" => "bilinear",
        other => return Err(refuse(format!("hidden_act: {other}"), "gpt-neox has no such activation of a gate")),
    })
}

/// The error with the keys of the file.
fn spelled(mut error: ConfigError) -> HuggingFaceError {
    let respell = |key: &mut String| {
        if let Some((_, theirs)) = SPELLED.iter().find(|(ours, _)| ours == key) {
            (*theirs).clone_into(key);
        }
    };
    match &mut error {
        ConfigError::InvalidValue { key, .. } | ConfigError::MissingKey { key, .. } => respell(key),
        ConfigError::Conflict { key, other_key, .. } => {
            respell(key);
            respell(other_key);
        }
        _ => {}
    }
    HuggingFaceError::Value(error)
}
