//! Which layers attend to a window of the last tokens only, after the configuration classes of transformers 5.

use serde_json::{Map, Value, json};

use super::error::refuse;
use super::names::HuggingFaceClass;
use super::raw::Raw;
use crate::config::Unsupported;

/// Layers from which on a window begins in Qwen's classes, where nothing is stated.
const MAX_WINDOW_LAYERS: usize = 28;

/// gpt-neox's settings for the windows, none where there is no window. A window of transformers counts the token itself,
/// one of gpt-neox the tokens before it.
pub(super) fn settings(
    class: HuggingFaceClass,
    keys: &Map<String, Value>,
    raw: &Raw,
) -> Result<Map<String, Value>, Unsupported> {
    let width = match keys.get("sliding_window") {
        None => Some(4096),
        Some(Value::Null) => None,
        Some(value) => match value.as_u64() {
            Some(width @ 2..) => Some(width),
            _ => return Err(refuse(format!("sliding_window: {value}"), "it is to be a number of tokens, two or more")),
        },
    };
    let windowed = match class {
        HuggingFaceClass::Mistral => vec![true; layer_count(raw)],
        _ => of_qwen(raw, width)?,
    };
    let mut settings = Map::new();
    if let Some(width) = width.filter(|_| windowed.contains(&true)) {
        let kinds: Vec<_> = windowed.into_iter().map(|windowed| if windowed { "flash" } else { "global" }).collect();
        settings.insert("attention_config".to_owned(), json!(kinds));
        settings.insert("sliding_window_width".to_owned(), json!(width - 1));
    }
    Ok(settings)
}

/// Whether each layer has the window.
fn of_qwen(raw: &Raw, width: Option<u64>) -> Result<Vec<bool>, Unsupported> {
    let on = raw.use_sliding_window.unwrap_or(false) && width.is_some();
    let Some(types) = &raw.layer_types else {
        let first = raw.max_window_layers.unwrap_or(MAX_WINDOW_LAYERS);
        return Ok((0..layer_count(raw)).map(|layer| on && layer >= first).collect());
    };
    if types.len() != raw.num_hidden_layers {
        let setting = format!("layer_types: {} of them", types.len());
        return Err(refuse(setting, &format!("there are {} layers (num_hidden_layers)", raw.num_hidden_layers)));
    }
    let of_layer = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" if on => Ok(true),
        "sliding_attention" => {
            Err(refuse("layer_types: sliding_attention", "use_sliding_window is not true, or sliding_window is null"))
        }
        other => {
            Err(refuse(format!("layer_types: {other}"), "only full_attention and sliding_attention are evaluated"))
        }
    };
    types.iter().map(of_layer).collect()
}

/// As many as are made a list of; more than that are refused where the settings are read.
fn layer_count(raw: &Raw) -> usize {
    raw.num_hidden_layers.min(1 << 17)
}
