//! Megatron's parameter names, of every year, and what they are. Legacy names after `megatron/model/{language_model,transformer}.py`
//! (2019 to 2023, later `megatron/legacy/model/`), core's after `megatron/core/models/gpt/{gpt_model,gpt_layer_specs}.py`, with
//! the local spec and with Transformer Engine's, where norms are fused into the layers behind them.

use crate::config::Unsupported;
use crate::partition::Role;

/// Where a parameter is in a pipeline stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Embedding,
    /// A transformer layer, counted from 0 in its stage.
    Layer(usize),
    Output,
    /// The last stage's copy of a tied word embedding; also where an untied head may be.
    Head,
}

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Parameter(Place, Role),
    /// No parameter: a table that is computed anew.
    Ignored,
    Unknown,
}

/// Whether a model of these names is of the code before Megatron core.
pub(super) fn is_legacy(name: &str) -> bool {
    name.starts_with("language_model.") || name.starts_with("word_embeddings_for_head.")
}

const OUTER: &[(&str, Place, Role)] = &[
    ("embedding.word_embeddings.weight", Place::Embedding, Role::WordEmbedding),
    ("embedding.position_embeddings.weight", Place::Embedding, Role::PositionEmbedding),
    ("output_layer.weight", Place::Head, Role::HeadWeight),
    ("word_embeddings_for_head.weight", Place::Head, Role::HeadWeight),
];

/// Names behind `encoder.`, `transformer.` or `decoder.`.
const FINAL: &[(&str, Role)] = &[
    ("final_layernorm.weight", Role::FinalNormGain),
    ("final_layernorm.bias", Role::FinalNormBias),
    ("final_norm.weight", Role::FinalNormGain),
    ("final_norm.bias", Role::FinalNormBias),
];

/// Names in a layer, without `attention.` or `self_attention.`; legacy ones first.
const INNER: &[(&str, Role)] = &[
    ("input_layernorm.weight", Role::InputNormGain),
    ("input_layernorm.bias", Role::InputNormBias),
    ("input_norm.weight", Role::InputNormGain),
    ("input_norm.bias", Role::InputNormBias),
    ("post_attention_layernorm.weight", Role::MlpNormGain),
    ("post_attention_layernorm.bias", Role::MlpNormBias),
    ("post_attention_norm.weight", Role::MlpNormGain),
    ("post_attention_norm.bias", Role::MlpNormBias),
    ("pre_mlp_layernorm.weight", Role::MlpNormGain),
    ("pre_mlp_layernorm.bias", Role::MlpNormBias),
    ("mlp.dense_h_to_4h.weight", Role::MlpInputWeight),
    ("mlp.dense_h_to_4h.bias", Role::MlpInputBias),
    ("mlp.dense_4h_to_h.weight", Role::MlpOutputWeight),
    ("mlp.dense_4h_to_h.bias", Role::MlpOutputBias),
    ("mlp.linear_fc1.layer_norm_weight", Role::MlpNormGain),
    ("mlp.linear_fc1.layer_norm_bias", Role::MlpNormBias),
    ("mlp.linear_fc1.weight", Role::MlpInputWeight),
    ("mlp.linear_fc1.bias", Role::MlpInputBias),
    ("mlp.linear_fc2.weight", Role::MlpOutputWeight),
    ("mlp.linear_fc2.bias", Role::MlpOutputBias),
];

const ATTENTION: &[(&str, Role)] = &[
    ("query_key_value.weight", Role::QkvWeight),
    ("query_key_value.bias", Role::QkvBias),
    ("dense.weight", Role::AttentionOutputWeight),
    ("dense.bias", Role::AttentionOutputBias),
    ("linear_qkv.layer_norm_weight", Role::InputNormGain),
    ("linear_qkv.layer_norm_bias", Role::InputNormBias),
    ("linear_qkv.weight", Role::QkvWeight),
    ("linear_qkv.bias", Role::QkvBias),
    ("linear_proj.weight", Role::AttentionOutputWeight),
    ("linear_proj.bias", Role::AttentionOutputBias),
    ("q_layernorm.weight", Role::QueryNormGain),
    ("q_layernorm.bias", Role::QueryNormBias),
    ("k_layernorm.weight", Role::KeyNormGain),
    ("k_layernorm.bias", Role::KeyNormBias),
];

pub(super) fn meaning(name: &str) -> Meaning {
    if name.ends_with("rotary_pos_emb.inv_freq") || name.ends_with("rotary_emb.inv_freq") {
        return Meaning::Ignored;
    }
    let inner = name.strip_prefix("language_model.").unwrap_or(name);
    if let Some(&(_, place, role)) = OUTER.iter().find(|(known, ..)| *known == inner) {
        return Meaning::Parameter(place, role);
    }
    let stacks: &[&str] = if inner.len() < name.len() { &["encoder.", "transformer."] } else { &["decoder."] };
    let Some(inner) = stacks.iter().find_map(|stack| inner.strip_prefix(stack)) else { return Meaning::Unknown };
    let found = match inner.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((number, inner)) => layer_number(number).zip(layer_role(inner)),
        None => FINAL.iter().find(|(known, _)| *known == inner).map(|&(_, role)| (Place::Output, role)),
    };
    found.map_or(Meaning::Unknown, |(place, role)| Meaning::Parameter(place, role))
}

fn layer_number(text: &str) -> Option<Place> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u32>().ok().filter(|_| digits).and_then(|number| usize::try_from(number).ok()).map(Place::Layer)
}

fn layer_role(inner: &str) -> Option<Role> {
    let attention = ["self_attention.", "attention."].iter().find_map(|prefix| inner.strip_prefix(prefix));
    let (names, name) = attention.map_or((INNER, inner), |name| (ATTENTION, name));
    names.iter().find(|(known, _)| *known == name).map(|&(_, role)| role)
}

const EXPERTS: &str = "mixtures of experts route each token to its own matrices, which are not read";
const LATENT: &str = "multi-latent attention is not implemented";
const BERT: &str = "this is a BERT, not a GPT";
const T5: &str = "encoders and decoders with attention between them (T5, retrieval) are not implemented";
const STATE_SPACE: &str = "layers of another kind (Mamba, hybrid models, linear attention) are not implemented";

/// Parts of names that show a model which is not read.
const REFUSED: &[(&str, &str)] = &[
    ("mlp.router.", EXPERTS),
    ("mlp.experts.", EXPERTS),
    ("mlp.local_experts.", EXPERTS),
    ("mlp.shared_experts.", EXPERTS),
    ("mlp.gate.", EXPERTS),
    ("mlp.deepspeed_moe.", EXPERTS),
    ("self_attention.linear_q_down_proj.", LATENT),
    ("self_attention.linear_q_up_proj.", LATENT),
    ("self_attention.linear_q_proj.", LATENT),
    ("self_attention.linear_kv_down_proj.", LATENT),
    ("self_attention.linear_kv_up_proj.", LATENT),
    ("tokentype_embeddings.", BERT),
    ("pooler.", BERT),
    ("lm_head.", BERT),
    ("binary_head.", BERT),
    ("inter_attention.", T5),
    ("cross_attention.", T5),
    ("pre_cross_attn_layernorm.", T5),
    ("post_inter_attention_layernorm.", T5),
    ("language_model.decoder.", T5),
    ("relative_pos_emb.", "relative positions (T5) are not implemented"),
    ("mixer.", STATE_SPACE),
    ("self_attention.in_proj.", STATE_SPACE),
    ("softmax_offset", "scores with a learned offset (attention sinks) are not implemented"),
    ("mtp.", "heads that predict further tokens (mtp_num_layers) would be lost in every merge"),
];

const NEEDED: &str = "evaluate it with Megatron-LM";

/// Why a tensor of this name makes a model one that is not read.
pub(super) fn refused(name: &str) -> Option<Unsupported> {
    let part = |part: &str| name.starts_with(part) || name.contains(&format!(".{part}"));
    let &(_, reason) = REFUSED.iter().find(|(known, _)| part(known))?;
    Some(Unsupported::new(format!("tensor `{name}`"), reason, NEEDED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_year() {
        let layer = |number, role| Meaning::Parameter(Place::Layer(number), role);
        for (name, expected) in [
            // 2019-08 to 2021-08.
            ("language_model.transformer.layers.3.attention.query_key_value.weight", layer(3, Role::QkvWeight)),
            ("language_model.transformer.final_layernorm.bias", Meaning::Parameter(Place::Output, Role::FinalNormBias)),
            // Since then.
            ("language_model.encoder.layers.0.self_attention.dense.bias", layer(0, Role::AttentionOutputBias)),
            ("language_model.encoder.layers.0.post_attention_norm.weight", layer(0, Role::MlpNormGain)),
            ("word_embeddings_for_head.weight", Meaning::Parameter(Place::Head, Role::HeadWeight)),
            ("language_model.output_layer.weight", Meaning::Parameter(Place::Head, Role::HeadWeight)),
            // Core.
            ("decoder.layers.11.self_attention.linear_qkv.layer_norm_weight", layer(11, Role::InputNormGain)),
            ("decoder.layers.11.self_attention.q_layernorm.weight", layer(11, Role::QueryNormGain)),
            ("decoder.layers.1.mlp.linear_fc1.layer_norm_bias", layer(1, Role::MlpNormBias)),
            ("embedding.word_embeddings.weight", Meaning::Parameter(Place::Embedding, Role::WordEmbedding)),
            ("rotary_pos_emb.inv_freq", Meaning::Ignored),
            // No name of either.
            ("language_model.decoder.layers.0.input_layernorm.weight", Meaning::Unknown),
            ("decoder.layers.-1.input_layernorm.weight", Meaning::Unknown),
            ("decoder.layers.0.input_layernorm.weights", Meaning::Unknown),
        ] {
            assert_eq!(meaning(name), expected, "{name}");
        }
        assert!(refused("decoder.layers.0.mlp.experts.linear_fc1.weight0").is_some());
        assert!(refused("language_model.embedding.tokentype_embeddings.weight").is_some());
        assert!(refused("decoder.layers.0.mlp.linear_fc1.weight").is_none());
    }
}
