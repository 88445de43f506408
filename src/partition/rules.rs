//! The one table: parameter name → role, kind, shape. Names and shapes after gpt-neox's `megatron/model/transformer.py`,
//! `word_embeddings.py`, `norms.py`, `positional_embeddings.py` and `transformer_engine.py`, from v1.0 to `ea7aefd8`.

use super::kinds::{Kind, Presence, Role, StageKind};
use super::row::Row;
use crate::config::refusals::{EXPERTS, RUN_GPT_NEOX, SPARSE, STATE_SPACE};
use crate::config::{Architecture, Head, MlpInput, MlpMatrices, Norm, Positions, QkvLayout, QueryKeyNorm};

use Kind::{Buffer, ColumnParallel, HeadNorm, HeadParallel, LearnedPositions, NormBias, NormGain, RowParallel};
use Kind::{RelativeBias, RowParallelBias, VocabParallel};
use StageKind::{Embedding, FinalNorm, Layer};

/// Every parameter that a readable checkpoint can hold.
pub(super) static TABLE: &[Row] = &[
    row(Role::WordEmbedding, &["word_embeddings.weight"], Embedding, VocabParallel, always, vocabulary_by_hidden),
    row(
        Role::PositionEmbedding,
        &["position_embeddings.weight"],
        Embedding,
        LearnedPositions,
        |a| only_if(matches!(a.positions, Positions::Learned { .. }), "pos_emb is not learned"),
        |a| vec![a.max_position_embeddings, a.hidden_size],
    ),
    row(
        Role::PositionFrequencies,
        &["position_embeddings.inv_freq"],
        Embedding,
        Buffer,
        |a| unused_if(a.positions == Positions::Sinusoidal, "pos_emb is not sinusoidal"),
        |a| vec![a.hidden_size / 2],
    ),
    // Not positions, but like learned ones: each rank puts its own replica into its stream, after the all-reduce.
    row(
        Role::SoftPrompt,
        &["soft_embedding_weight"],
        StageKind::SoftPrompt,
        LearnedPositions,
        |a| only_if(a.soft_prompt_length > 0, "soft_prompt_tuning is not enabled"),
        |a| vec![a.soft_prompt_length, a.hidden_size],
    ),
    norm(Role::InputNormGain, &["input_layernorm.weight", "ln1.weight"], Layer, NormGain, with_layer_norm),
    norm(Role::InputNormBias, &["input_layernorm.bias", "ln1.bias"], Layer, NormBias, with_layer_norm),
    norm(Role::InputNormGain, &["input_layernorm.scale", "ln1.scale"], Layer, NormGain, with_rms_norm),
    scalar(Role::InputNormGain, &["input_layernorm.g", "ln1.g"], Layer, with_scale_norm),
    norm(Role::InputNormGain, &["input_layernorm.norm.weight"], Layer, NormGain, with_engine_norm),
    norm(Role::InputNormBias, &["input_layernorm.norm.bias"], Layer, NormBias, with_engine_layer_norm),
    // A tied norm leaves `post_attention_layernorm` in the file, untrained and unused.
    norm(Role::MlpNormGain, &["post_attention_layernorm.weight", "ln2.weight"], Layer, NormGain, |a| {
        mlp_norm(a, with_layer_norm(a))
    }),
    norm(Role::MlpNormBias, &["post_attention_layernorm.bias", "ln2.bias"], Layer, NormBias, |a| {
        mlp_norm(a, with_layer_norm(a))
    }),
    norm(Role::MlpNormGain, &["post_attention_layernorm.scale", "ln2.scale"], Layer, NormGain, |a| {
        mlp_norm(a, with_rms_norm(a))
    }),
    scalar(Role::MlpNormGain, &["post_attention_layernorm.g", "ln2.g"], Layer, |a| mlp_norm(a, with_scale_norm(a))),
    norm(Role::MlpNormGain, &["post_attention_layernorm.norm.weight"], Layer, NormGain, |a| {
        mlp_norm(a, with_engine_norm(a))
    }),
    norm(Role::MlpNormBias, &["post_attention_layernorm.norm.bias"], Layer, NormBias, |a| {
        mlp_norm(a, with_engine_layer_norm(a))
    }),
    norm(Role::MlpNormGain, &["mlp.layer_norm_weight"], Layer, NormGain, in_engine_mlp),
    norm(Role::MlpNormBias, &["mlp.layer_norm_bias"], Layer, NormBias, |a| match in_engine_mlp(a) {
        Presence::Required => only_if(a.norm.has_bias(), "the norm has no bias"),
        absent => absent,
    }),
    Row {
        blocks: Some(qkv_blocks),
        ..row(
            Role::QkvWeight,
            &["attention.query_key_value.weight", "attention.qkv.weight"],
            Layer,
            ColumnParallel,
            always,
            |a| vec![a.qkv_size(), a.hidden_size],
        )
    },
    Row {
        blocks: Some(qkv_blocks),
        ..row(
            Role::QkvBias,
            &["attention.query_key_value.bias", "attention.qkv.bias"],
            Layer,
            ColumnParallel,
            |a| only_if(a.qkv_bias, "use_bias_in_attn_linear is false"),
            |a| vec![a.qkv_size()],
        )
    },
    head_norm(Role::QueryKeyNormGain, &["attention.qk_layernorm.weight"], |a| {
        with_query_key_norm(a, with_layer_norm(a))
    }),
    head_norm(Role::QueryKeyNormBias, &["attention.qk_layernorm.bias"], |a| with_query_key_norm(a, with_layer_norm(a))),
    // Over the elements of each head, so that joining is exact.
    head_norm(Role::QueryKeyNormGain, &["attention.qk_layernorm.scale"], |a| with_query_key_norm(a, with_rms_norm(a))),
    // gpt-neox has no such norms; the names are Megatron's.
    per_head_norm(Role::QueryNormGain, &["attention.q_layernorm.weight"], NormGain, with_per_head_norm),
    per_head_norm(Role::QueryNormBias, &["attention.q_layernorm.bias"], NormBias, with_per_head_norm_bias),
    per_head_norm(Role::KeyNormGain, &["attention.k_layernorm.weight"], NormGain, with_per_head_norm),
    per_head_norm(Role::KeyNormBias, &["attention.k_layernorm.bias"], NormBias, with_per_head_norm_bias),
    row(
        Role::AttentionOutputWeight,
        &["attention.dense.weight", "attention.proj.weight"],
        Layer,
        RowParallel,
        always,
        |a| vec![a.hidden_size, a.query_size()],
    ),
    row(
        Role::AttentionOutputBias,
        &["attention.dense.bias", "attention.proj.bias"],
        Layer,
        RowParallelBias,
        |a| only_if(a.attention_output_bias, "use_bias_in_attn_linear is false"),
        hidden,
    ),
    row(
        Role::RotaryFrequencies,
        &["attention.rotary_emb.inv_freq"],
        Layer,
        Buffer,
        |a| unused_if(matches!(a.positions, Positions::Rotary { .. }), "pos_emb is not rotary"),
        |a| match a.positions {
            Positions::Rotary { dims, .. } => vec![dims / 2],
            _ => Vec::new(),
        },
    ),
    // A buffer, but one that gpt-neox uses as it was loaded.
    row(
        Role::AlibiSlopes,
        &["attention.alibi_embed.slopes"],
        Layer,
        HeadParallel,
        |a| only_if(a.positions == Positions::Alibi, "pos_emb is not alibi"),
        |a| vec![a.head_count],
    ),
    // One module for all layers, but every layer file holds a copy.
    row(
        Role::RelativeBias,
        &["attention.rpe.weight"],
        Layer,
        RelativeBias,
        |a| only_if(matches!(a.positions, Positions::RelativeBuckets { .. }), "pos_emb is not rpe"),
        |a| match a.positions {
            Positions::RelativeBuckets { buckets, .. } => vec![buckets, a.head_count],
            _ => Vec::new(),
        },
    ),
    Row {
        blocks: Some(mlp_input_blocks),
        ..row(
            Role::MlpInputWeight,
            &["mlp.linear1.weight", "mlp.fc1_weight", "mlp.dense_h_to_4h.weight"],
            Layer,
            ColumnParallel,
            in_one_matrix,
            |a| vec![a.mlp_input_size(), a.hidden_size],
        )
    },
    Row {
        blocks: Some(mlp_input_blocks),
        ..row(
            Role::MlpInputBias,
            &["mlp.linear1.bias", "mlp.fc1_bias", "mlp.dense_h_to_4h.bias"],
            Layer,
            ColumnParallel,
            with_mlp_bias,
            |a| vec![a.mlp_input_size()],
        )
    },
    row(Role::MlpGateWeight, &["mlp.w1.weight"], Layer, ColumnParallel, in_two_matrices, inner_by_hidden),
    row(Role::MlpUpWeight, &["mlp.w3.weight"], Layer, ColumnParallel, in_two_matrices, inner_by_hidden),
    row(
        Role::MlpOutputWeight,
        &["mlp.linear2.weight", "mlp.w2.weight", "mlp.fc2_weight", "mlp.dense_4h_to_h.weight"],
        Layer,
        RowParallel,
        always,
        |a| vec![a.hidden_size, a.mlp_inner_size],
    ),
    row(
        Role::MlpOutputBias,
        &["mlp.linear2.bias", "mlp.fc2_bias", "mlp.dense_4h_to_h.bias"],
        Layer,
        RowParallelBias,
        with_mlp_bias,
        hidden,
    ),
    norm(Role::FinalNormGain, &["norm.weight"], FinalNorm, NormGain, with_layer_norm),
    norm(Role::FinalNormBias, &["norm.bias"], FinalNorm, NormBias, with_layer_norm),
    norm(Role::FinalNormGain, &["norm.scale"], FinalNorm, NormGain, with_rms_norm),
    scalar(Role::FinalNormGain, &["norm.g"], FinalNorm, with_scale_norm),
    norm(Role::FinalNormGain, &["norm.norm.weight"], FinalNorm, NormGain, with_engine_norm),
    norm(Role::FinalNormBias, &["norm.norm.bias"], FinalNorm, NormBias, with_engine_layer_norm),
    row(
        Role::HeadWeight,
        &["final_linear.weight"],
        StageKind::Head,
        ColumnParallel,
        |a| only_if(a.head == Head::Column, "output_layer_parallelism is not column, or embeddings are tied"),
        vocabulary_by_hidden,
    ),
    row(
        Role::HeadWeight,
        &["final_linear.weight"],
        StageKind::Head,
        RowParallel,
        |a| only_if(a.head == Head::Row, "output_layer_parallelism is not row, or embeddings are tied"),
        vocabulary_by_hidden,
    ),
    row(
        Role::HeadWeight,
        &["rm_linear.weight"],
        StageKind::Head,
        RowParallel,
        |a| only_if(a.head == Head::Reward, "train_impl is not rm, or embeddings are tied"),
        |a| vec![1, a.hidden_size],
    ),
];

/// Why a tensor of this name makes a checkpoint impossible to understand, in any stage, and what to do instead.
pub(crate) fn refused_name(name: &str) -> Option<(&'static str, &'static str)> {
    const GATED: (&str, &str) = ("gMLP and aMLP blocks are not implemented", RUN_GPT_NEOX);
    const TOKEN_TYPES: (&str, &str) =
        ("gpt-neox's GPT has no token types: this is another model", "evaluate it with the program that wrote it");
    const REFUSED: &[(&str, (&str, &str))] = &[
        ("mlp.experts.", EXPERTS),
        ("mlp.router.", EXPERTS),
        ("mlp.deepspeed_moe.", EXPERTS),
        ("attention.sparse_attn.", SPARSE),
        ("sgu.", GATED),
        ("input_linear.", GATED),
        ("mixer.", STATE_SPACE),
        ("mamba.", STATE_SPACE),
        ("tokentype_embeddings.", TOKEN_TYPES),
    ];
    REFUSED.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|&(_, why)| why)
}

/// Whether a tensor of this name is no parameter: Transformer Engine's bookkeeping, and masks that only transformers'
/// class of the model has.
pub(crate) fn ignored_name(name: &str) -> bool {
    name.ends_with("._extra_state") || ["attention.bias", "attention.masked_bias"].contains(&name)
}

const fn row(
    role: Role,
    names: &'static [&'static str],
    stage: StageKind,
    kind: Kind,
    presence: fn(&Architecture) -> Presence,
    shape: fn(&Architecture) -> Vec<usize>,
) -> Row {
    Row { role, names, stage, kind, presence, shape, blocks: None }
}

const fn norm(
    role: Role,
    names: &'static [&'static str],
    stage: StageKind,
    kind: Kind,
    presence: fn(&Architecture) -> Presence,
) -> Row {
    row(role, names, stage, kind, presence, hidden)
}

const fn head_norm(role: Role, names: &'static [&'static str], presence: fn(&Architecture) -> Presence) -> Row {
    row(role, names, Layer, HeadNorm, presence, |a| vec![a.head_count, a.head_size])
}

const fn per_head_norm(
    role: Role,
    names: &'static [&'static str],
    kind: Kind,
    presence: fn(&Architecture) -> Presence,
) -> Row {
    row(role, names, Layer, kind, presence, |a| vec![a.head_size])
}

const fn scalar(
    role: Role,
    names: &'static [&'static str],
    stage: StageKind,
    presence: fn(&Architecture) -> Presence,
) -> Row {
    row(role, names, stage, NormGain, presence, |_| vec![1])
}

fn always(_: &Architecture) -> Presence {
    Presence::Required
}

fn only_if(present: bool, otherwise: &'static str) -> Presence {
    if present { Presence::Required } else { Presence::Absent(otherwise) }
}

fn unused_if(present: bool, otherwise: &'static str) -> Presence {
    if present { Presence::Unused } else { Presence::Absent(otherwise) }
}

fn with_layer_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::LayerNorm, "norm is not layernorm")
}

fn with_rms_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::RmsNorm, "norm is not rmsnorm")
}

fn with_scale_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::ScaleNorm, "norm is not scalenorm")
}

fn with_engine_norm(architecture: &Architecture) -> Presence {
    let engine = [Norm::TransformerEngineLayerNorm, Norm::TransformerEngineRmsNorm];
    only_if(engine.contains(&architecture.norm), "norm is neither te_layernorm nor te_rmsnorm")
}

fn with_engine_layer_norm(architecture: &Architecture) -> Presence {
    only_if(architecture.norm == Norm::TransformerEngineLayerNorm, "norm is not te_layernorm")
}

fn mlp_norm(architecture: &Architecture, presence: Presence) -> Presence {
    match (architecture.mlp_input, presence) {
        _ if architecture.mlp_matrices == MlpMatrices::TransformerEngine => {
            Presence::Absent("Transformer Engine's MLP brings its own norm")
        }
        (MlpInput::AttentionNorm, Presence::Required) => Presence::Unused,
        (_, presence) => presence,
    }
}

fn in_engine_mlp(architecture: &Architecture) -> Presence {
    only_if(architecture.mlp_matrices == MlpMatrices::TransformerEngine, "the MLP is not Transformer Engine's")
}

fn in_one_matrix(architecture: &Architecture) -> Presence {
    only_if(architecture.mlp_matrices != MlpMatrices::Separate, "mlp_type is llama")
}

fn in_two_matrices(architecture: &Architecture) -> Presence {
    only_if(architecture.mlp_matrices == MlpMatrices::Separate, "mlp_type is not llama")
}

fn with_mlp_bias(architecture: &Architecture) -> Presence {
    only_if(architecture.mlp_bias, "use_bias_in_mlp is false")
}

fn with_query_key_norm(architecture: &Architecture, presence: Presence) -> Presence {
    let present = architecture.query_key_norm == Some(QueryKeyNorm::OverHeads);
    if present { presence } else { Presence::Absent("use_qk_layernorm is false") }
}

fn with_per_head_norm(architecture: &Architecture) -> Presence {
    let present = architecture.query_key_norm == Some(QueryKeyNorm::PerHead);
    only_if(present && architecture.norm.has_gain(), "queries and keys have no norms of their own")
}

fn with_per_head_norm_bias(architecture: &Architecture) -> Presence {
    let present = architecture.query_key_norm == Some(QueryKeyNorm::PerHead);
    only_if(present && architecture.norm.has_bias(), "norms of queries and keys have no biases")
}

fn hidden(architecture: &Architecture) -> Vec<usize> {
    vec![architecture.hidden_size]
}

fn vocabulary_by_hidden(architecture: &Architecture) -> Vec<usize> {
    vec![architecture.padded_vocab_size, architecture.hidden_size]
}

fn inner_by_hidden(architecture: &Architecture) -> Vec<usize> {
    vec![architecture.mlp_inner_size, architecture.hidden_size]
}

fn qkv_blocks(architecture: &Architecture) -> Vec<usize> {
    match architecture.qkv {
        QkvLayout::Interleaved | QkvLayout::InterleavedGroups => vec![architecture.qkv_size()],
        QkvLayout::Blocks => {
            let key_value = architecture.kv_head_count * architecture.head_size;
            vec![architecture.query_size(), key_value, key_value]
        }
    }
}

fn mlp_input_blocks(architecture: &Architecture) -> Vec<usize> {
    let inner = architecture.mlp_inner_size;
    if architecture.gated { vec![inner, inner] } else { vec![inner] }
}
