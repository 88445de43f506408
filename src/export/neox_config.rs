//! The configuration of a written checkpoint: the source's, with the settings that the merge changes.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Number, Value, json};

use super::drift::Drift;
use super::neox_origin::{Origin, VOCABULARY_MULTIPLE, precision};
use crate::checkpoint::{Layout, ModelSource};
use crate::config::{ClientArgs, Head};
use crate::export::tokenizer_files::TokenizerFiles;
use crate::tensor::DType;

#[derive(Debug, Clone)]
pub(super) struct Changes<'a> {
    pub source: &'a dyn ModelSource,
    pub origin: &'a Origin,
    pub tp_size: usize,
    /// Rows of the vocabulary that are written.
    pub vocab_size: usize,
    pub unties_head: bool,
    /// The type that all weights are converted to, if they are.
    pub dtype: Option<DType>,
    /// The directory, under the name that it will have.
    pub directory: &'a Path,
    /// The tokenizer that is copied into it.
    pub tokenizer: Option<&'a TokenizerFiles>,
    pub drift: Option<Drift>,
}

impl Changes<'_> {
    /// The setting with which gpt-neox pads its vocabulary to the rows that are written: it rounds the number of tokens
    /// up to a multiple of this times the ranks.
    fn make_vocab_size_divisible_by(&self) -> usize {
        let padded_to = self.origin.vocabulary_multiple.unwrap_or(VOCABULARY_MULTIPLE * self.tp_size);
        let whole = self.vocab_size >= self.source.architecture().padded_vocab_size;
        if whole && padded_to.is_multiple_of(self.tp_size) && self.vocab_size.is_multiple_of(padded_to) {
            return padded_to / self.tp_size;
        }
        // Any number of tokens up to the rows that there are is rounded up to just these.
        (self.vocab_size / self.tp_size).max(1)
    }

    /// The arguments that gpt-neox compares with the configuration when it loads the checkpoint.
    pub(super) fn client_args(&self) -> ClientArgs {
        let architecture = self.source.architecture();
        ClientArgs {
            num_layers: Some(architecture.layer_count),
            hidden_size: Some(architecture.hidden_size),
            num_attention_heads: Some(architecture.head_count),
            max_position_embeddings: Some(architecture.max_position_embeddings),
            make_vocab_size_divisible_by: Some(self.make_vocab_size_divisible_by()),
            padded_vocab_size: Some(self.vocab_size),
            model_parallel_size: Some(self.tp_size),
            tokenizer_type: match self.tokenizer {
                Some(tokenizer) => Some(tokenizer.neox_type().to_owned()),
                None => self.origin.tokenizer_type.clone(),
            },
            quirks: self.origin.stated(),
        }
    }

    /// The text of the configuration file.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("# Written by kintsugi merge. Other settings are those of the source.\n");
        yaml(&mut text, &Value::Object(self.settings()), 0);
        text.push('\n');
        text
    }

    pub(super) fn settings(&self) -> Map<String, Value> {
        let mut keys = self.origin.settings.clone();
        let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        set("model_parallel_size", json!(self.tp_size));
        set("pipe_parallel_size", json!(usize::from(self.origin.layout == Layout::LayerFiles)));
        set("make_vocab_size_divisible_by", json!(self.make_vocab_size_divisible_by()));
        let directory = json!(self.directory.to_string_lossy());
        set("load", directory.clone());
        set("save", directory);
        // There is no optimizer to load, no learning-rate scheduler, no random state.
        set("no_load_optim", json!(true));
        set("no_load_rng", json!(true));
        if self.unties_head {
            set("no_weight_tying", json!(true));
        }
        // Its default is another one since 2023-05.
        match self.source.architecture().head {
            Head::Tied if self.unties_head => drop(set("output_layer_parallelism", json!("column"))),
            Head::Row => drop(set("output_layer_parallelism", json!("row"))),
            _ => {}
        }
        if let Some(tokenizer) = self.tokenizer {
            set("tokenizer_type", json!(tokenizer.neox_type()));
            for (key, name) in tokenizer.neox_files() {
                set(key, json!(self.directory.join(name).to_string_lossy()));
            }
        }
        if let Some(dtype) = self.dtype {
            set("precision", json!(precision(dtype)));
            keys.remove("fp16");
            keys.remove("bf16");
        }
        if keys.contains_key("padded_vocab_size") {
            keys.insert("padded_vocab_size".to_owned(), json!(self.vocab_size));
        }
        if let Some(Value::Object(zero)) = keys.get_mut("zero_optimization") {
            zero.insert("stage".to_owned(), json!(0));
        } else {
            keys.insert("zero_optimization".to_owned(), json!({ "stage": 0 }));
        }
        if keys.contains_key("zero_stage") {
            keys.insert("zero_stage".to_owned(), json!(0));
        }
        keys
    }
}

/// Writes a value as YAML in flow style, as in gpt-neox's own files. Not as JSON: PyYAML takes `1e-8` for a
/// string and wants `1.0e-08`.
fn yaml(text: &mut String, value: &Value, depth: usize) {
    let list = |text: &mut String, ends: [char; 2], items: &mut dyn Iterator<Item = (Option<&String>, &Value)>| {
        text.push(ends[0]);
        let mut separator = "";
        for (key, item) in items {
            text.push_str(separator);
            separator = ",";
            if let Some(key) = key {
                let _ = write!(text, "\n{:width$}{}: ", "", Value::from(key.as_str()), width = 2 * (depth + 1));
            } else if separator == "," && !text.ends_with(ends[0]) {
                text.push(' ');
            }
            yaml(text, item, depth + 1);
        }
        if ends[0] == '{' && !separator.is_empty() {
            let _ = write!(text, "\n{:width$}", "", width = 2 * depth);
        }
        text.push(ends[1]);
    };
    match value {
        Value::Object(entries) => list(text, ['{', '}'], &mut entries.iter().map(|(key, item)| (Some(key), item))),
        Value::Array(items) => list(text, ['[', ']'], &mut items.iter().map(|item| (None, item))),
        Value::Number(number) => text.push_str(&yaml_number(number)),
        other => {
            let _ = write!(text, "{other}");
        }
    }
}

/// A number that YAML 1.1 reads as one: with a point in the mantissa and a sign in the exponent.
fn yaml_number(number: &Number) -> String {
    let text = number.to_string();
    let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else { return text };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
    format!("{mantissa}{point}e{sign}{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_in_yaml() {
        let mut text = String::new();
        let value =
            json!({ "eps": 1e-8, "large": 1e30, "list": [1, 2.5, [true, null]], "empty": {}, "text": "a: \"b\"" });
        yaml(&mut text, &value, 0);
        assert!(text.contains("\"eps\": 1.0e-8,\n"), "{text}");
        assert!(text.contains("\"large\": 1.0e+30,\n"), "{text}");
        assert!(text.contains("\"list\": [1, 2.5, [true, null]],\n"), "{text}");
        assert!(text.contains("\"empty\": {},\n"), "{text}");
        let read: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, value);
    }
}
