//! What the table says of norms, positions and modules beside the usual ones.

use serde_json::{Value, json};

use super::{Expected, architecture, architecture_with, pythia};
use crate::config::{Architecture, QueryKeyNorm};
use crate::partition::{Kind, PartitionTable, Presence, Role, StageKind};

use StageKind::{Embedding, FinalNorm, Layer};

const SCALE_NORM: &[Expected] = &[
    (Layer, "input_layernorm.g", Role::InputNormGain, Kind::NormGain, &[1], &[1]),
    (Layer, "ln1.g", Role::InputNormGain, Kind::NormGain, &[1], &[1]),
    (Layer, "post_attention_layernorm.g", Role::MlpNormGain, Kind::NormGain, &[1], &[1]),
    (Layer, "ln2.g", Role::MlpNormGain, Kind::NormGain, &[1], &[1]),
    (FinalNorm, "norm.g", Role::FinalNormGain, Kind::NormGain, &[1], &[1]),
];

const ENGINE_LAYER_NORM: &[Expected] = &[
    (Layer, "input_layernorm.norm.weight", Role::InputNormGain, Kind::NormGain, &[64], &[64]),
    (Layer, "input_layernorm.norm.bias", Role::InputNormBias, Kind::NormBias, &[64], &[64]),
    (Layer, "post_attention_layernorm.norm.weight", Role::MlpNormGain, Kind::NormGain, &[64], &[64]),
    (Layer, "post_attention_layernorm.norm.bias", Role::MlpNormBias, Kind::NormBias, &[64], &[64]),
    (FinalNorm, "norm.norm.weight", Role::FinalNormGain, Kind::NormGain, &[64], &[64]),
    (FinalNorm, "norm.norm.bias", Role::FinalNormBias, Kind::NormBias, &[64], &[64]),
];

const ENGINE_RMS_NORM: &[Expected] = &[
    (Layer, "input_layernorm.norm.weight", Role::InputNormGain, Kind::NormGain, &[64], &[64]),
    (FinalNorm, "norm.norm.weight", Role::FinalNormGain, Kind::NormGain, &[64], &[64]),
];

const ENGINE_MODULES: &[Expected] = &[
    (Layer, "attention.qkv.weight", Role::QkvWeight, Kind::ColumnParallel, &[192, 64], &[96, 64]),
    (Layer, "attention.qkv.bias", Role::QkvBias, Kind::ColumnParallel, &[192], &[96]),
    (Layer, "attention.proj.weight", Role::AttentionOutputWeight, Kind::RowParallel, &[64, 64], &[64, 32]),
    (Layer, "attention.proj.bias", Role::AttentionOutputBias, Kind::RowParallelBias, &[64], &[64]),
    (Layer, "mlp.layer_norm_weight", Role::MlpNormGain, Kind::NormGain, &[64], &[64]),
    (Layer, "mlp.layer_norm_bias", Role::MlpNormBias, Kind::NormBias, &[64], &[64]),
    (Layer, "mlp.fc1_weight", Role::MlpInputWeight, Kind::ColumnParallel, &[192, 64], &[96, 64]),
    (Layer, "mlp.fc1_bias", Role::MlpInputBias, Kind::ColumnParallel, &[192], &[96]),
    (Layer, "mlp.fc2_weight", Role::MlpOutputWeight, Kind::RowParallel, &[64, 96], &[64, 48]),
    (Layer, "mlp.fc2_bias", Role::MlpOutputBias, Kind::RowParallelBias, &[64], &[64]),
];

const THREE_MATRICES: &[Expected] = &[
    (Layer, "mlp.w1.weight", Role::MlpGateWeight, Kind::ColumnParallel, &[96, 64], &[48, 64]),
    (Layer, "mlp.w3.weight", Role::MlpUpWeight, Kind::ColumnParallel, &[96, 64], &[48, 64]),
    (Layer, "mlp.w2.weight", Role::MlpOutputWeight, Kind::RowParallel, &[64, 96], &[64, 48]),
];

const ALIBI: &[Expected] =
    &[(Layer, "attention.alibi_embed.slopes", Role::AlibiSlopes, Kind::HeadParallel, &[8], &[4])];

const BUCKETS: &[Expected] =
    &[(Layer, "attention.rpe.weight", Role::RelativeBias, Kind::RelativeBias, &[16, 8], &[16, 4])];

const SINUSOIDAL: &[Expected] =
    &[(Embedding, "position_embeddings.inv_freq", Role::PositionFrequencies, Kind::Buffer, &[32], &[32])];

const QUERY_KEY_NORM: &[Expected] = &[
    (Layer, "attention.qk_layernorm.weight", Role::QueryKeyNormGain, Kind::HeadNorm, &[8, 8], &[4, 8]),
    (Layer, "attention.qk_layernorm.bias", Role::QueryKeyNormBias, Kind::HeadNorm, &[8, 8], &[4, 8]),
];

const QUERY_KEY_RMS_NORM: &[Expected] =
    &[(Layer, "attention.qk_layernorm.scale", Role::QueryKeyNormGain, Kind::HeadNorm, &[8, 8], &[4, 8])];

const PROMPT: &[Expected] =
    &[(StageKind::SoftPrompt, "soft_embedding_weight", Role::SoftPrompt, Kind::LearnedPositions, &[10, 64], &[10, 64])];

const REWARD: &[Expected] =
    &[(StageKind::Head, "rm_linear.weight", Role::HeadWeight, Kind::RowParallel, &[1, 64], &[1, 32])];

const EARLY_LAYER_NORM: &[Expected] = &[
    (Layer, "ln1.weight", Role::InputNormGain, Kind::NormGain, &[64], &[64]),
    (Layer, "ln1.bias", Role::InputNormBias, Kind::NormBias, &[64], &[64]),
    (Layer, "ln2.weight", Role::MlpNormGain, Kind::NormGain, &[64], &[64]),
    (Layer, "ln2.bias", Role::MlpNormBias, Kind::NormBias, &[64], &[64]),
];

/// Grouped queries head by head are one block, joined as they are; in blocks they are three.
const INTERLEAVED_GROUPS: &[Expected] =
    &[(Layer, "attention.query_key_value.weight", Role::QkvWeight, Kind::ColumnParallel, &[128, 64], &[64, 64])];

const PER_HEAD_NORMS: &[Expected] = &[
    (Layer, "attention.q_layernorm.weight", Role::QueryNormGain, Kind::NormGain, &[16], &[16]),
    (Layer, "attention.q_layernorm.bias", Role::QueryNormBias, Kind::NormBias, &[16], &[16]),
    (Layer, "attention.k_layernorm.weight", Role::KeyNormGain, Kind::NormGain, &[16], &[16]),
    (Layer, "attention.k_layernorm.bias", Role::KeyNormBias, Kind::NormBias, &[16], &[16]),
];

/// Heads of 16 elements, of a hidden size of 64 and 8 heads.
const WIDE_HEADS: &[Expected] = &[
    (Layer, "attention.query_key_value.weight", Role::QkvWeight, Kind::ColumnParallel, &[384, 64], &[192, 64]),
    (Layer, "attention.query_key_value.bias", Role::QkvBias, Kind::ColumnParallel, &[384], &[192]),
    (Layer, "attention.dense.weight", Role::AttentionOutputWeight, Kind::RowParallel, &[64, 128], &[64, 64]),
];

/// Architectures with the rows that they have.
pub(super) fn cases() -> Vec<(Architecture, &'static [Expected])> {
    let cases: [(Value, &[&str], &[Expected]); 14] = [
        (json!({ "norm": "scalenorm" }), &[], SCALE_NORM),
        (json!({ "norm": "te_layernorm" }), &[], ENGINE_LAYER_NORM),
        (json!({ "norm": "te_rmsnorm" }), &[], ENGINE_RMS_NORM),
        (
            json!({ "gpt_j_residual": false, "te_mha": true, "te_layernorm_mlp": true, "activation": "swiglu" }),
            &["attention.qkv.weight", "mlp.fc1_weight"],
            ENGINE_MODULES,
        ),
        (json!({ "mlp_type": "llama", "activation": "silu" }), &["mlp.w1.weight"], THREE_MATRICES),
        (json!({ "pos_emb": "alibi" }), &[], ALIBI),
        (json!({ "pos_emb": "rpe", "rpe_num_buckets": 16 }), &[], BUCKETS),
        (json!({ "pos_emb": "sinusoidal" }), &[], SINUSOIDAL),
        (json!({ "use_qk_layernorm": true }), &[], QUERY_KEY_NORM),
        (json!({ "use_qk_layernorm": true, "norm": "rmsnorm" }), &[], QUERY_KEY_RMS_NORM),
        (json!({ "soft_prompt_tuning": { "enabled": true } }), &[], PROMPT),
        (json!({ "train_impl": "rm" }), &[], REWARD),
        (json!({}), &[], EARLY_LAYER_NORM),
        (json!({ "num_kv_heads": 4 }), &["mlp.dense_h_to_4h.weight"], INTERLEAVED_GROUPS),
    ];
    let of_neox = cases.into_iter().map(|(settings, names, rows)| (architecture_with(settings, names), rows));
    // What no configuration of gpt-neox says.
    let norms = Architecture { query_key_norm: Some(QueryKeyNorm::PerHead), head_size: 16, ..pythia() };
    let wide = Architecture { attention_output_bias: false, head_size: 16, ..pythia() };
    of_neox.chain([(norms, PER_HEAD_NORMS), (wide, WIDE_HEADS)]).collect()
}

#[test]
fn blocks_are_what_the_layout_of_the_era_says() {
    let blocks = |architecture: &Architecture, role| PartitionTable::new(architecture).partition(role).unwrap().blocks;
    let grouped = json!({ "num_kv_heads": 4 });
    assert_eq!(blocks(&architecture_with(grouped.clone(), &["mlp.linear1.weight"]), Role::QkvWeight), [64, 32, 32]);
    assert_eq!(blocks(&architecture_with(grouped, &["mlp.dense_h_to_4h.weight"]), Role::QkvWeight), [128]);
    let engine = json!({ "gpt_j_residual": false, "activation": "swiglu" });
    assert_eq!(blocks(&architecture_with(engine, &["mlp.fc1_weight"]), Role::MlpInputWeight), [96, 96]);
}

#[test]
fn a_norm_without_parameters_has_no_rows() {
    let bare = architecture(json!({ "norm": "non_parametric_layernorm" }));
    let table = PartitionTable::new(&bare);
    for role in [Role::InputNormGain, Role::InputNormBias, Role::MlpNormGain, Role::FinalNormGain] {
        assert!(table.row(role).is_none(), "{role:?}");
    }
    assert_eq!(table.required(FinalNorm).count(), 0);
    let error = table.lookup(Layer, "input_layernorm.weight").unwrap_err().to_string();
    assert!(error.ends_with("the configuration excludes it (norm is not layernorm)"), "{error}");
}

#[test]
fn names_that_another_module_would_have_are_not_in_the_model() {
    let lookup = |settings: Value, names: &[&str], name: &str| {
        let architecture = architecture_with(settings, names);
        PartitionTable::new(&architecture).lookup(Layer, name).unwrap_err().to_string()
    };
    let engine = || json!({ "gpt_j_residual": false });
    for (found, reason) in [
        (lookup(json!({}), &[], "mlp.w1.weight"), "mlp_type is not llama"),
        (lookup(json!({}), &[], "mlp.layer_norm_weight"), "the MLP is not Transformer Engine's"),
        (
            lookup(engine(), &["mlp.fc1_weight"], "post_attention_layernorm.weight"),
            "Transformer Engine's MLP brings its own norm",
        ),
        (lookup(json!({ "mlp_type": "llama", "activation": "silu" }), &[], "mlp.linear1.weight"), "mlp_type is llama"),
        (lookup(json!({}), &[], "attention.alibi_embed.slopes"), "pos_emb is not alibi"),
        (lookup(json!({}), &[], "attention.rpe.weight"), "pos_emb is not rpe"),
        (lookup(json!({}), &[], "attention.qk_layernorm.weight"), "use_qk_layernorm is false"),
        (lookup(json!({}), &[], "input_layernorm.g"), "norm is not scalenorm"),
        (lookup(json!({}), &[], "input_layernorm.norm.weight"), "norm is neither te_layernorm nor te_rmsnorm"),
        (lookup(json!({ "norm": "te_rmsnorm" }), &[], "input_layernorm.norm.bias"), "norm is not te_layernorm"),
    ] {
        assert!(found.ends_with(&format!("the configuration excludes it ({reason})")), "{found}");
    }
}

#[test]
fn buffers_that_the_model_makes_anew_are_unused() {
    let sinusoidal = architecture(json!({ "pos_emb": "sinusoidal" }));
    let row = PartitionTable::new(&sinusoidal).lookup(Embedding, "position_embeddings.inv_freq").unwrap();
    assert_eq!((row.presence)(&sinusoidal), Presence::Unused);
}

#[test]
fn bookkeeping_is_passed_over() {
    for name in ["attention.qkv._extra_state", "mlp._extra_state", "attention.bias", "attention.masked_bias"] {
        assert!(super::ignored_name(name), "{name}");
    }
    for name in ["attention.dense.bias", "mlp.linear1.weight", "extra_state"] {
        assert!(!super::ignored_name(name), "{name}");
    }
}

#[test]
fn biases_of_queries_keys_and_values_come_alone() {
    let architecture = Architecture { attention_output_bias: false, ..pythia() };
    let table = PartitionTable::new(&architecture);
    assert!(table.row(Role::QkvBias).is_some() && table.row(Role::AttentionOutputBias).is_none());
    assert!(table.lookup(Layer, "attention.dense.bias").is_err());
}
