//! The keys of `config.json` beside those that are read: settings of other functions, which are refused unless they are
//! off, those that change nothing, and those that nobody knows.

use serde_json::{Map, Value};

use super::error::refuse_unread;
use super::names::HuggingFaceClass;
use crate::config::Unsupported;

/// Read of every class.
const READ: &[&str] = &[
    "architectures",
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "hidden_act",
    "tie_word_embeddings",
    "quantization_config",
];

const ROTARY: &[&str] =
    &["rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"];

/// Settings by which a model computes something else, with the value that leaves it as it is where that is not null, false,
/// 0 or empty. Not a class reads them here, but transformers' other classes, older versions or other programs do.
const OTHER_FUNCTIONS: &[(&str, Option<f64>)] = &[
    // Multipliers, caps and clips of Granite, Cohere, Gemma, OLMo, MiniCPM and MPT.
    ("attention_multiplier", None),
    ("embedding_multiplier", Some(1.0)),
    ("residual_multiplier", Some(1.0)),
    ("logits_scaling", Some(1.0)),
    ("logit_scale", Some(1.0)),
    ("scale_emb", Some(1.0)),
    ("scale_depth", None),
    ("dim_model_base", None),
    ("query_pre_attn_scalar", None),
    ("attn_logit_softcapping", None),
    ("final_logit_softcapping", None),
    ("clip_qkv", None),
    // Norms, positions and attention of other classes.
    ("qk_layernorm", None),
    ("use_qk_norm", None),
    ("rope_interleaved", None),
    ("no_rope_layers", None),
    ("no_rope_layer_interval", None),
    ("rope_local_base_freq", None),
    ("alibi", None),
    ("attention_chunk_size", None),
    ("attn_temperature_tuning", None),
    ("per_layer_config", None),
    ("embedding_size", None),
    // Experts.
    ("num_experts", None),
    ("num_local_experts", None),
    ("n_routed_experts", None),
    // What models of any class could have.
    ("pruned_heads", None),
    ("add_cross_attention", None),
    ("is_encoder_decoder", None),
    // Of classes that are read, where this one does not read them.
    ("layer_types", None),
    ("sliding_window", None),
    ("use_sliding_window", None),
    ("head_dim", None),
    ("num_key_value_heads", None),
    ("attention_bias", None),
    ("mlp_bias", None),
    ("use_parallel_residual", None),
    ("partial_rotary_factor", Some(1.0)),
    ("rotary_pct", Some(1.0)),
    ("rotary_emb_base", None),
    ("rope_scaling", None),
    ("scale_attn_by_inverse_layer_idx", None),
];

/// What does not change the function: training, generation, other heads, bookkeeping.
const WITHOUT_EFFECT: &[&str] = &[
    "transformers_version",
    "torch_dtype",
    "dtype",
    "initializer_range",
    "use_cache",
    "return_dict",
    "torchscript",
    "output_hidden_states",
    "output_attentions",
    "chunk_size_feed_forward",
    "use_bfloat16",
    "is_decoder",
    "tie_encoder_decoder",
    "cross_attention_hidden_size",
    "gradient_checkpointing",
    "pretraining_tp",
    "auto_map",
    "is_llama_config",
    "transformers.js_config",
    "unsloth_version",
    "n_ctx",
    "tokenizer_class",
    "name_or_path",
    "attention_dropout",
    "hidden_dropout",
    "classifier_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "summary_type",
    "summary_use_proj",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_first_dropout",
    "reorder_and_upcast_attn",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "unk_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    "finetuning_task",
    "prefix",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "tf_legacy_loss",
    "tie_last_hidden_states",
];

/// Refuses keys that would make another function of the model; of those that nobody knows, a sentence each.
pub(super) fn check(class: HuggingFaceClass, keys: &Map<String, Value>) -> Result<Vec<String>, Unsupported> {
    let read = |key: &str| READ.contains(&key) || of_class(class).iter().any(|keys| keys.contains(&key));
    for (key, value) in keys.iter().filter(|(key, _)| !read(key)) {
        let Some((_, neutral)) = OTHER_FUNCTIONS.iter().find(|(other, _)| other == key) else { continue };
        let neutral = neutral.or_else(|| implied(key, keys));
        if !is_off(key, value, neutral) {
            let off = neutral.map(|neutral| format!("; {neutral} leaves the model as it is")).unwrap_or_default();
            return Err(refuse_unread(class.name(), key, &shortened(value), &off));
        }
    }
    let known = |key: &str| {
        let changes = OTHER_FUNCTIONS.iter().any(|(other, _)| *other == key);
        read(key) || changes || key.starts_with('_') || WITHOUT_EFFECT.contains(&key)
    };
    let unknown = keys.keys().filter(|key| !known(key));
    let sentence =
        |key: &String| format!("`{}` (config.json) is not a setting of {} and is not read", key, class.name());
    Ok(unknown.map(sentence).collect())
}

/// The further keys that a class reads.
fn of_class(class: HuggingFaceClass) -> [&'static [&'static str]; 2] {
    const LLAMA: &[&str] = &["num_key_value_heads", "rms_norm_eps", "head_dim", "attention_bias", "mlp_bias"];
    const MISTRAL: &[&str] = &["num_key_value_heads", "rms_norm_eps", "head_dim", "sliding_window"];
    const QWEN: &[&str] = &[
        "num_key_value_heads",
        "rms_norm_eps",
        "head_dim",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
    ];
    const QWEN3: &[&str] = &[
        "num_key_value_heads",
        "rms_norm_eps",
        "head_dim",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "layer_types",
        "attention_bias",
    ];
    const NEOX: &[&str] =
        &["layer_norm_eps", "use_parallel_residual", "attention_bias", "rotary_pct", "rotary_emb_base"];
    const GPT2: &[&str] = &["layer_norm_eps", "scale_attn_weights"];
    match class {
        HuggingFaceClass::GptNeox => [NEOX, ROTARY],
        HuggingFaceClass::Llama => [LLAMA, ROTARY],
        HuggingFaceClass::Mistral => [MISTRAL, ROTARY],
        HuggingFaceClass::Qwen2 => [QWEN, ROTARY],
        HuggingFaceClass::Qwen3 => [QWEN3, ROTARY],
        HuggingFaceClass::Gpt2 => [GPT2, &[]],
    }
}

/// What the model has where a setting is not read.
fn implied(key: &str, keys: &Map<String, Value>) -> Option<f64> {
    let number = |key: &str| keys.get(key).and_then(Value::as_f64);
    match key {
        "num_key_value_heads" => number("num_attention_heads"),
        "head_dim" => Some(number("hidden_size")? / number("num_attention_heads")?),
        _ => None,
    }
}

/// Whether a setting of another function leaves the model as it is.
fn is_off(key: &str, value: &Value, neutral: Option<f64>) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::String(_) => false,
        Value::Number(number) => {
            let neutral = neutral.unwrap_or(0.0);
            number.as_f64().is_some_and(|number| number.total_cmp(&neutral).is_eq() || number == 0.0 && neutral == 0.0)
        }
        Value::Object(entries) => entries.is_empty(),
        Value::Array(entries) => entries.iter().all(|entry| match key {
            "layer_types" => entry == "full_attention",
            // 1 where a layer has rotary embedding.
            "no_rope_layers" => entry == 1,
            _ => false,
        }),
    }
}

fn shortened(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= LONGEST { text } else { text.chars().take(LONGEST).chain("…".chars()).collect() }
}
