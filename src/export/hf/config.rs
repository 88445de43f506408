//! The JSON files beside the weights, with what transformers 4 and 5 both read.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::model::HfModel;
use crate::checkpoint::HuggingFaceClass;
use crate::config::{Architecture, Head, Residual, RotaryScaling, share_of};
use crate::export::tokenizer_files::TokenizerFiles;
use crate::tensor::DType;

/// Tokens that begin a text, the more specific first.
const BEGINNINGS: &[&str] = &["<s>", "<|begin_of_text|>", "<bos>", "<|endoftext|>"];

/// Tokens that end a text.
const ENDINGS: &[&str] = &["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"];

pub(super) struct Settings<'a> {
    pub architecture: &'a Architecture,
    pub model: &'a HfModel,
    pub vocab_size: usize,
    pub dtype: DType,
    pub unties_head: bool,
    pub tokenizer: Option<&'a TokenizerFiles>,
}

/// `config.json`, `generation_config.json` and what the tokenizer lacks.
pub(super) fn texts(settings: &Settings<'_>) -> Vec<(PathBuf, String)> {
    let token = |names| settings.tokenizer.and_then(|tokenizer: &TokenizerFiles| tokenizer.first_of(names));
    let (beginning, ending) = (token(BEGINNINGS), token(ENDINGS));
    let number = |token: Option<(&str, usize)>| token.map_or(Value::Null, |(_, id)| json!(id));
    let tokens = [("bos_token_id", number(beginning)), ("eos_token_id", number(ending))];
    let mut config = config(settings);
    config.extend(tokens.clone().map(|(key, value)| (key.to_owned(), value)));
    let mut generation = Map::new();
    generation.insert("_from_model_config".to_owned(), json!(true));
    generation.extend(tokens.into_iter().filter(|(_, id)| !id.is_null()).map(|(key, value)| (key.to_owned(), value)));
    let mut texts = vec![
        ("config.json".into(), pretty(&Value::Object(config))),
        ("generation_config.json".into(), pretty(&Value::Object(generation))),
    ];
    let Some(tokenizer) = settings.tokenizer else { return texts };
    let special = [("bos_token", beginning), ("eos_token", ending), ("unk_token", ending)];
    let special: Map<String, Value> =
        special.into_iter().filter_map(|(key, token)| Some((key.to_owned(), json!(token?.0)))).collect();
    if !tokenizer.copies_file("tokenizer_config.json") {
        let mut keys = special.clone();
        keys.insert("tokenizer_class".to_owned(), json!(tokenizer.hugging_face_class()));
        keys.insert("model_max_length".to_owned(), json!(settings.architecture.max_position_embeddings));
        keys.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        texts.push(("tokenizer_config.json".into(), pretty(&Value::Object(keys))));
    }
    if !tokenizer.copies_file("special_tokens_map.json") {
        texts.push(("special_tokens_map.json".into(), pretty(&Value::Object(special))));
    }
    texts
}

fn config(settings: &Settings<'_>) -> Map<String, Value> {
    let Settings { architecture, model, .. } = settings;
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("architectures", json!([model.class.name()]));
    set("model_type", json!(model.class.model_type()));
    match model.class {
        HuggingFaceClass::GptNeox => {
            set("use_parallel_residual", json!(architecture.residual != Residual::Sequential));
            set("layer_norm_eps", json!(model.epsilon));
            set("attention_bias", json!(architecture.qkv_bias));
            set("attention_dropout", json!(0.0));
            set("hidden_dropout", json!(0.0));
        }
        HuggingFaceClass::Gpt2 => {
            set("layer_norm_epsilon", json!(model.epsilon));
            for dropout in ["attn_pdrop", "embd_pdrop", "resid_pdrop"] {
                set(dropout, json!(0.0));
            }
        }
        _ => {
            set("num_key_value_heads", json!(architecture.kv_head_count));
            set("head_dim", json!(architecture.head_size));
            set("rms_norm_eps", json!(model.epsilon));
            set("attention_dropout", json!(0.0));
        }
    }
    if matches!(model.class, HuggingFaceClass::Llama | HuggingFaceClass::Qwen3) {
        set("attention_bias", json!(architecture.qkv_bias));
    }
    if model.class == HuggingFaceClass::Llama {
        set("mlp_bias", json!(architecture.mlp_bias));
    }
    if model.class == HuggingFaceClass::Mistral {
        set("sliding_window", json!(model.window));
    }
    if matches!(model.class, HuggingFaceClass::Qwen2 | HuggingFaceClass::Qwen3) {
        set("use_sliding_window", json!(model.window.is_some()));
        set("sliding_window", json!(model.window));
        // The first layer that has the window.
        set("max_window_layers", json!(if model.window.is_some() { 0 } else { architecture.layer_count }));
    }
    if let Some(rotary) = model.rotary {
        let base = if model.class == HuggingFaceClass::GptNeox { "rotary_emb_base" } else { "rope_theta" };
        set(base, json!(rotary.base));
        if model.class == HuggingFaceClass::GptNeox {
            set("rotary_pct", json!(share_of(rotary.dims, architecture.head_size)));
        }
        if let Some(scaling) = rotary.scaling {
            set("rope_scaling", rope_scaling(scaling));
        }
    }
    let sizes = [
        ("hidden_size", "n_embd", architecture.hidden_size),
        ("intermediate_size", "n_inner", architecture.mlp_inner_size),
        ("num_hidden_layers", "n_layer", architecture.layer_count),
        ("num_attention_heads", "n_head", architecture.head_count),
        ("max_position_embeddings", "n_positions", architecture.max_position_embeddings),
    ];
    let is_gpt2 = model.class == HuggingFaceClass::Gpt2;
    for (key, of_gpt2, size) in sizes {
        set(if is_gpt2 { of_gpt2 } else { key }, json!(size));
    }
    set(if is_gpt2 { "activation_function" } else { "hidden_act" }, json!(model.hidden_act));
    set("vocab_size", json!(settings.vocab_size));
    set("tie_word_embeddings", json!(architecture.head == Head::Tied && !settings.unties_head));
    set("initializer_range", json!(0.02));
    set("use_cache", json!(true));
    let dtype = match settings.dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::F64 => "float64",
        _ => "float32",
    };
    set("torch_dtype", json!(dtype));
    config
}

/// The key that transformers 4 and 5 both read. Until 4.43 `linear` was given by `type`, and by nothing beside the factor.
fn rope_scaling(scaling: RotaryScaling) -> Value {
    match scaling {
        RotaryScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_positions,
        }),
    }
}

pub(super) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
