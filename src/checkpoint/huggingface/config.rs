//! `config.json` of transformers as gpt-neox settings and what is beyond them, so that one resolution of settings serves
//! both.

use std::path::Path;

use serde_json::{Map, Value};

use super::beyond::Beyond;
use super::error::HuggingFaceError;
use super::names::HuggingFaceClass;
use super::raw::{self, GPT2_KEYS, Raw};
use super::{keys, settings};
use crate::config::{ConfigError, NeoxConfig};
use crate::files;

const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct ModelConfig {
    pub class: HuggingFaceClass,
    pub settings: NeoxConfig,
    pub beyond: Beyond,
    pub mlp_inner_size: usize,
    pub vocab_size: usize,
    /// Keys that nobody knows, a sentence each.
    pub notes: Vec<String>,
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
    let keys = if class == HuggingFaceClass::Gpt2 { raw::of_gpt2(keys) } else { keys };
    let keys = Value::Object(keys);
    let raw: Raw = serde_path_to_error::deserialize(&keys).map_err(|error| match error.path().iter().next() {
        None => broken(error.inner().to_string()),
        Some(_) => broken(format!("`{}`: {}", error.path(), error.inner())),
    })?;
    let Value::Object(keys) = keys else { return Err(broken("not an object".to_owned())) };
    let unsupported = |source| HuggingFaceError::Unsupported { path: path.to_owned(), source };
    let notes = keys::check(class, &keys).map_err(unsupported)?;
    let (settings, beyond) = settings::of(class, &keys, &raw).map_err(unsupported)?;
    let settings = NeoxConfig::from_raw(settings, vec![path.to_owned()]).map_err(|error| spelled(class, error))?;
    let (mlp_inner_size, vocab_size) = (raw.intermediate_size, raw.vocab_size);
    Ok(ModelConfig { class, settings, beyond, mlp_inner_size, vocab_size, notes })
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

/// The error with the keys of the file.
fn spelled(class: HuggingFaceClass, mut error: ConfigError) -> HuggingFaceError {
    let respell = |key: &mut String| {
        if let Some((_, theirs)) = SPELLED.iter().find(|(ours, _)| ours == key) {
            (*theirs).clone_into(key);
        }
        if let Some((theirs, _)) = GPT2_KEYS.iter().find(|(_, common)| class == HuggingFaceClass::Gpt2 && common == key)
        {
            (*theirs).clone_into(key);
        }
    };
    match &mut error {
        ConfigError::InvalidValue { key, expected, .. } => {
            respell(key);
            // It may name another key, as `a multiple of num_kv_heads (4)`.
            let words = expected.split(' ').map(|word| {
                let mut word = word.to_owned();
                respell(&mut word);
                word
            });
            *expected = words.collect::<Vec<_>>().join(" ");
        }
        ConfigError::MissingKey { key, .. } => respell(key),
        ConfigError::Conflict { key, other_key, .. } => {
            respell(key);
            respell(other_key);
        }
        _ => {}
    }
    HuggingFaceError::Value(error)
}
