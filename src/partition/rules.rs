//! The one table: parameter name → role, kind, shape. Names and shapes after gpt-neox's `megatron/model/transformer.py`,
//! `word_embeddings.py`, `norms.py` and `positional_embeddings.py`, from v1.0 to `ea7aefd8`.

use super::{Kind, Presence, Role, Row, StageKind};
use crate::config::{Architecture, Head, MlpInput, Norm, Positions, QkvLayout};

/// Every parameter that a readable checkpoint can hold.
pub(super) static TABLE: &[Row] = &[
    Row {
        role: Role::WordEmbedding,
        names: &["word_embeddings.weight"],
        stage: StageKind::Embedding,
        kind: Kind::VocabParallel,
        presence: |_| Presence::Required,
        shape: |a| vec![a.padded_vocab_size, a.hidden_size],
        blocks: None,
    },
    Row {
        role: Role::PositionEmbedding,
        names: &["position_embeddings.weight"],
        stage: StageKind::Embedding,
        kind: Kind::LearnedPositions,
        presence: |a| only_if(matches!(a.positions, Positions::Learned { .. }), "pos_emb is not learned"),
        shape: |a| vec![a.max_position_embeddings, a.hidden_size],
        blocks: None,
    },
    gain(Role::InputNormGain, &["input_layernorm.weight"], StageKind::Layer, with_layer_norm),
    bias(Role::InputNormBias, &["input_layernorm.bias"], StageKind::Layer, with_layer_norm),
    gain(Role::InputNormGain, &["input_layernorm.scale"], StageKind::Layer, with_rms_norm),
    // A tied norm leaves `post_attention_layernorm` in the file, untrained and unused.
    gain(Role::MlpNormGain, &["post_attention_layernorm.weight"], StageKind::Layer, |a| {
        mlp_norm(a, with_layer_norm(a))
    }),
    bias(Role::MlpNormBias, &["post_attention_layernorm.bias"], StageKind::Layer, |a| mlp_norm(a, with_layer_norm(a))),
    gain(Role::MlpNormGain, &["post_attention_layernorm.scale"], StageKind::Layer, |a| mlp_norm(a, with_rms_norm(a))),
    Row {
        role: Role::QkvWeight,
        names: &["attention.query_key_value.weight"],
        stage: StageKind::Layer,
        kind: Kind::ColumnParallel,
        presence: |_| Presence::Required,
        shape: |a| vec![a.qkv_size(), a.hidden_size],
        blocks: Some(qkv_blocks),
    },
    Row {
        role: Role::QkvBias,
        names: &["attention.query_key_value.bias"],
        stage: StageKind::Layer,
        kind: Kind::ColumnParallel,
        presence: |a| only_if(a.attention_bias, "use_bias_in_attn_linear is false"),
        shape: |a| vec![a.qkv_size()],
        blocks: Some(qkv_blocks),
    },
    Row {
        role: Role::AttentionOutputWeight,
        names: &["attention.dense.weight"],
        stage: StageKind::Layer,
        kind: Kind::RowParallel,
        presence: |_| Presence::Required,
        shape: |a| vec![a.hidden_size, a.hidden_size],
        blocks: None,
    },
    Row {
        role: Role::AttentionOutputBias,
        names: &["attention.dense.bias"],
        stage: StageKind::Layer,
        kind: Kind::RowParallelBias,
        presence: |a| only_if(a.attention_bias, "use_bias_in_attn_linear is false"),
        shape: |a| vec![a.hidden_size],
        blocks: None,
    },
    Row {
        role: Role::RotaryFrequencies,
        names: &["attention.rotary_emb.inv_freq"],
        stage: StageKind::Layer,
        kind: Kind::Buffer,
        presence: |a| match a.positions {
            Positions::Rotary { .. } => Presence::Unused,
            _ => Presence::Absent("pos_emb is not rotary"),
        },
        shape: |a| match a.positions {
            Positions::Rotary { dims, .. } => vec![dims / 2],
            _ => Vec::new(),
        },
        blocks: None,
    },
    Row {
        role: Role::MlpInputWeight,
        names: &["mlp.linear1.weight", "mlp.dense_h_to_4h.weight"],
        stage: StageKind::Layer,
        kind: Kind::ColumnParallel,
        presence: |_| Presence::Required,
        shape: |a| vec![a.mlp_input_size(), a.hidden_size],
        blocks: Some(mlp_input_blocks),
    },
    Row {
        role: Role::MlpInputBias,
        names: &["mlp.linear1.bias", "mlp.dense_h_to_4h.bias"],
        stage: StageKind::Layer,
        kind: Kind::ColumnParallel,
        presence: |a| only_if(a.mlp_bias, "use_bias_in_mlp is false"),
        shape: |a| vec![a.mlp_input_size()],
        blocks: Some(mlp_input_blocks),
    },
    Row {
        role: Role::MlpOutputWeight,
        names: &["mlp.linear2.weight", "mlp.dense_4h_to_h.weight"],
        stage: StageKind::Layer,
        kind: Kind::RowParallel,
        presence: |_| Presence::Required,
        shape: |a| vec![a.hidden_size, a.mlp_inner_size],
        blocks: None,
    },
    Row {
        role: Role::MlpOutputBias,
        names: &["mlp.linear2.bias", "mlp.dense_4h_to_h.bias"],
        stage: StageKind::Layer,
        kind: Kind::RowParallelBias,
        presence: |a| only_if(a.mlp_bias, "use_bias_in_mlp is false"),
        shape: |a| vec![a.hidden_size],
        blocks: None,
    },
    gain(Role::FinalNormGain, &["norm.weight"], StageKind::FinalNorm, with_layer_norm),
    bias(Role::FinalNormBias, &["norm.bias"], StageKind::FinalNorm, with_layer_norm),
    gain(Role::FinalNormGain, &["norm.scale"], StageKind::FinalNorm, with_rms_norm),
    Row {
        role: Role::HeadWeight,
        names: &["final_linear.weight"],
        stage: StageKind::Head,
        kind: Kind::ColumnParallel,
        presence: |a| only_if(a.head == Head::Column, "output_layer_parallelism is not column, or embeddings are tied"),
        shape: |a| vec![a.padded_vocab_size, a.hidden_size],
        blocks: None,
    },
    Row {
        role: Role::HeadWeight,
        names: &["final_linear.weight"],
        stage: StageKind::Head,
        kind: Kind::RowParallel,
        presence: |a| only_if(a.head == Head::Row, "output_layer_parallelism is not row, or embeddings are tied"),
        shape: |a| vec![a.padded_vocab_size, a.hidden_size],
        blocks: None,
    },
];

/// Why a tensor of this name cannot be handled, if it cannot.
pub(super) fn refusal(name: &str) -> Option<&'static str> {
    const REFUSED: &[(&str, &str)] = &[
        (
            "attention.qk_layernorm.",
            "qk_layernorm takes its statistics over the heads of one rank, so no one-rank model equals this one",
        ),
        ("mlp.experts.", "mixture-of-experts layers are not supported"),
        ("mlp.router.", "mixture-of-experts layers are not supported"),
        ("rm_linear.", "a reward-model head gives no token probabilities"),
    ];
    REFUSED.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|&(_, reason)| reason)
}

const fn gain(
    role: Role,
    names: &'static [&'static str],
    stage: StageKind,
    presence: fn(&Architecture) -> Presence,
) -> Row {
    Row { role, names, stage, kind: Kind::NormGain, presence, shape: |a| vec![a.hidden_size], blocks: None }
}

const fn bias(
    role: Role,
    names: &'static [&'static str],
    stage: StageKind,
    presence: fn(&Architecture) -> Presence,
) -> Row {
    Row { role, names, stage, kind: Kind::NormBias, presence, shape: |a| vec![a.hidden_size], blocks: None }
}

fn only_if(present: bool, otherwise: &'static str) -> Presence {
    if present { Presence::Required } else { Presence::Absent(otherwise) }
}

fn with_layer_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::LayerNorm, "norm is not layernorm")
}

fn with_rms_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::RmsNorm, "norm is not rmsnorm")
}

fn mlp_norm(architecture: &Architecture, presence: Presence) -> Presence {
    match (architecture.mlp_input, presence) {
        (MlpInput::AttentionNorm, Presence::Required) => Presence::Unused,
        (_, presence) => presence,
    }
}

fn qkv_blocks(architecture: &Architecture) -> Vec<usize> {
    match architecture.qkv {
        QkvLayout::Interleaved => vec![architecture.qkv_size()],
        QkvLayout::Blocks => {
            let key_value = architecture.kv_head_count * architecture.head_size();
            vec![architecture.hidden_size, key_value, key_value]
        }
    }
}

fn mlp_input_blocks(architecture: &Architecture) -> Vec<usize> {
    let inner = architecture.mlp_inner_size;
    if architecture.gated { vec![inner, inner] } else { vec![inner] }
}
