mod canonical;
mod eras;

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Architecture, MlpMatrices, NeoxConfig, Observed, Positions, QkvLayout, QueryKeyNorm};
use crate::tensor::{DType, HostTensor};

/// 8 heads of 8, MLP width 96, vocabulary 128; changed by `settings`.
fn architecture(settings: Value) -> Architecture {
    architecture_with(settings, &[])
}

/// Of a checkpoint whose layers hold tensors of these names.
fn architecture_with(settings: Value, layer_tensors: &[&str]) -> Architecture {
    let object = |value: Value| -> Map<String, Value> { serde_json::from_value(value).unwrap() };
    let mut raw = object(json!({
        "num_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "max_position_embeddings": 32,
        "pos_emb": "rotary", "rotary_pct": 0.25, "no_weight_tying": true, "gpt_j_residual": true,
    }));
    raw.extend(object(settings));
    let config = NeoxConfig::from_raw(raw, Vec::new()).unwrap();
    let observed = Observed {
        tp_size: 2,
        mlp_inner_size: Some(96),
        padded_vocab_size: Some(128),
        layer_tensors: layer_tensors.iter().map(|&name| name.to_owned()).collect(),
        ..Observed::default()
    };
    Architecture::resolve(&config, &observed).unwrap()
}

fn pythia() -> Architecture {
    architecture(json!({}))
}

fn llama() -> Architecture {
    architecture(json!({
        "norm": "rmsnorm", "activation": "swiglu", "num_kv_heads": 4, "gpt_j_residual": false,
        "use_bias_in_attn_linear": false, "use_bias_in_mlp": false,
    }))
}

fn learned_tied() -> Architecture {
    architecture(json!({ "pos_emb": "learned", "no_weight_tying": false, "gpt_j_residual": false }))
}

/// What the table says of a name: role, kind, shape of the joined tensor (or of a replica), shape on one of two ranks.
type Expected = (StageKind, &'static str, Role, Kind, &'static [usize], &'static [usize]);

const PYTHIA: &[Expected] = &[
    (StageKind::Embedding, "word_embeddings.weight", Role::WordEmbedding, Kind::VocabParallel, &[128, 64], &[64, 64]),
    (StageKind::Layer, "input_layernorm.weight", Role::InputNormGain, Kind::NormGain, &[64], &[64]),
    (StageKind::Layer, "input_layernorm.bias", Role::InputNormBias, Kind::NormBias, &[64], &[64]),
    (StageKind::Layer, "post_attention_layernorm.weight", Role::MlpNormGain, Kind::NormGain, &[64], &[64]),
    (StageKind::Layer, "post_attention_layernorm.bias", Role::MlpNormBias, Kind::NormBias, &[64], &[64]),
    (
        StageKind::Layer,
        "attention.query_key_value.weight",
        Role::QkvWeight,
        Kind::ColumnParallel,
        &[192, 64],
        &[96, 64],
    ),
    (StageKind::Layer, "attention.query_key_value.bias", Role::QkvBias, Kind::ColumnParallel, &[192], &[96]),
    (StageKind::Layer, "attention.dense.weight", Role::AttentionOutputWeight, Kind::RowParallel, &[64, 64], &[64, 32]),
    (StageKind::Layer, "attention.dense.bias", Role::AttentionOutputBias, Kind::RowParallelBias, &[64], &[64]),
    (StageKind::Layer, "attention.rotary_emb.inv_freq", Role::RotaryFrequencies, Kind::Buffer, &[1], &[1]),
    (StageKind::Layer, "mlp.linear1.weight", Role::MlpInputWeight, Kind::ColumnParallel, &[96, 64], &[48, 64]),
    (StageKind::Layer, "mlp.linear1.bias", Role::MlpInputBias, Kind::ColumnParallel, &[96], &[48]),
    (StageKind::Layer, "mlp.linear2.weight", Role::MlpOutputWeight, Kind::RowParallel, &[64, 96], &[64, 48]),
    (StageKind::Layer, "mlp.linear2.bias", Role::MlpOutputBias, Kind::RowParallelBias, &[64], &[64]),
    (StageKind::FinalNorm, "norm.weight", Role::FinalNormGain, Kind::NormGain, &[64], &[64]),
    (StageKind::FinalNorm, "norm.bias", Role::FinalNormBias, Kind::NormBias, &[64], &[64]),
    (StageKind::Head, "final_linear.weight", Role::HeadWeight, Kind::ColumnParallel, &[128, 64], &[64, 64]),
];

/// Where a llama-like model differs.
const LLAMA: &[Expected] = &[
    (StageKind::Layer, "input_layernorm.scale", Role::InputNormGain, Kind::NormGain, &[64], &[64]),
    (StageKind::Layer, "post_attention_layernorm.scale", Role::MlpNormGain, Kind::NormGain, &[64], &[64]),
    (
        StageKind::Layer,
        "attention.query_key_value.weight",
        Role::QkvWeight,
        Kind::ColumnParallel,
        &[128, 64],
        &[64, 64],
    ),
    (StageKind::Layer, "mlp.linear1.weight", Role::MlpInputWeight, Kind::ColumnParallel, &[192, 64], &[96, 64]),
    (StageKind::FinalNorm, "norm.scale", Role::FinalNormGain, Kind::NormGain, &[64], &[64]),
];

const LEARNED: &[Expected] = &[(
    StageKind::Embedding,
    "position_embeddings.weight",
    Role::PositionEmbedding,
    Kind::LearnedPositions,
    &[32, 64],
    &[32, 64],
)];

const ROW_HEAD: &[Expected] =
    &[(StageKind::Head, "final_linear.weight", Role::HeadWeight, Kind::RowParallel, &[128, 64], &[128, 32])];

#[test]
fn every_row_is_found_by_its_name_and_says_what_gpt_neox_stores() {
    let row_head = architecture(json!({ "output_layer_parallelism": "row" }));
    let mut cases = vec![(pythia(), PYTHIA), (llama(), LLAMA), (learned_tied(), LEARNED), (row_head, ROW_HEAD)];
    cases.extend(eras::cases());
    let mut seen = BTreeSet::new();
    for (architecture, names) in cases {
        let table = PartitionTable::new(&architecture);
        for &(stage, name, role, kind, joined, of_rank) in names {
            let row = table.lookup(stage, name).unwrap();
            assert_eq!((row.role, row.kind), (role, kind), "{name}");
            assert_eq!((row.shape)(&architecture), joined, "{name}");
            assert_eq!(row.rank_shape(&architecture, 2).unwrap(), of_rank, "{name}");
            assert_eq!(row.partition(&architecture).map(|partition| partition.dim), kind.partition_dim(), "{name}");
            assert!(std::ptr::eq(table.row(role).unwrap(), row), "{name}");
            seen.insert(std::ptr::from_ref(row));
        }
    }
    let missed: Vec<_> = rules::TABLE.iter().filter(|row| !seen.contains(&std::ptr::from_ref(*row))).collect();
    assert!(missed.is_empty(), "rows that no case looks up: {missed:?}");
}

#[test]
fn names_of_older_eras_are_the_same_parameters() {
    let pythia = pythia();
    let table = PartitionTable::new(&pythia);
    for (legacy, name) in [
        ("mlp.dense_h_to_4h.weight", "mlp.linear1.weight"),
        ("mlp.dense_h_to_4h.bias", "mlp.linear1.bias"),
        ("mlp.dense_4h_to_h.weight", "mlp.linear2.weight"),
        ("mlp.dense_4h_to_h.bias", "mlp.linear2.bias"),
    ] {
        let (old, new) = (table.lookup(StageKind::Layer, legacy), table.lookup(StageKind::Layer, name));
        assert!(std::ptr::eq(old.unwrap(), new.unwrap()), "{legacy}");
    }
}

#[test]
fn names_that_cannot_be_handled_are_refused_with_the_reason() {
    let message = |architecture: &Architecture, stage, name| {
        PartitionTable::new(architecture).lookup(stage, name).unwrap_err().to_string()
    };
    let (pythia, llama) = (pythia(), llama());
    for (name, expected) in [
        (
            "attention.qk_layernorm.weight",
            "tensor `attention.qk_layernorm.weight` in the transformer layer: the configuration excludes it \
             (use_qk_layernorm is false)",
        ),
        (
            "mlp.experts.0.linear1.weight",
            "tensor `mlp.experts.0.linear1.weight` in the transformer layer: routing tokens to experts is not implemented",
        ),
        (
            "mlp.router.layer.weight",
            "tensor `mlp.router.layer.weight` in the transformer layer: routing tokens to experts is not implemented",
        ),
        ("mlp.linear3.weight", "unexpected tensor `mlp.linear3.weight` in the transformer layer"),
        // A name of another stage, and a name that only looks like a known one.
        ("word_embeddings.weight", "unexpected tensor `word_embeddings.weight` in the transformer layer"),
        ("mlp.linear1.weight_", "unexpected tensor `mlp.linear1.weight_` in the transformer layer"),
        (
            "input_layernorm.scale",
            "tensor `input_layernorm.scale` in the transformer layer: the configuration excludes it \
             (norm is not rmsnorm)",
        ),
    ] {
        assert_eq!(message(&pythia, StageKind::Layer, name), expected);
    }
    for (name, reason) in [
        ("input_layernorm.weight", "norm is not layernorm"),
        ("attention.dense.bias", "use_bias_in_attn_linear is false"),
        ("attention.query_key_value.bias", "use_bias_in_attn_linear is false"),
        ("mlp.linear1.bias", "use_bias_in_mlp is false"),
        ("mlp.dense_4h_to_h.bias", "use_bias_in_mlp is false"),
    ] {
        let found = message(&llama, StageKind::Layer, name);
        assert!(found.ends_with(&format!("the configuration excludes it ({reason})")), "{found}");
    }
    let positions = message(&pythia, StageKind::Embedding, "position_embeddings.weight");
    assert!(positions.contains("in the embedding") && positions.ends_with("(pos_emb is not learned)"), "{positions}");
    let frequencies = message(&learned_tied(), StageKind::Layer, "attention.rotary_emb.inv_freq");
    assert!(frequencies.ends_with("(pos_emb is not rotary)"), "{frequencies}");
    let head = message(&learned_tied(), StageKind::Head, "final_linear.weight");
    assert!(head.contains("in the output head") && head.contains("embeddings are tied"), "{head}");
}

#[test]
fn required_rows_are_what_the_architecture_says() {
    let names = |architecture: &Architecture, stage| -> Vec<_> {
        PartitionTable::new(architecture).required(stage).map(|row| row.names[0]).collect()
    };
    let of_layer = |names: &[Expected]| -> Vec<_> {
        let layer =
            names.iter().filter(|(stage, _, role, ..)| *stage == StageKind::Layer && *role != Role::RotaryFrequencies);
        layer.map(|&(_, name, ..)| name).collect()
    };
    assert_eq!(names(&pythia(), StageKind::Layer), of_layer(PYTHIA));
    assert_eq!(
        names(&llama(), StageKind::Layer),
        [
            "input_layernorm.scale",
            "post_attention_layernorm.scale",
            "attention.query_key_value.weight",
            "attention.dense.weight",
            "mlp.linear1.weight",
            "mlp.linear2.weight"
        ]
    );
    // The norm that a tied model saves and does not use may be there or not.
    let tied_norm = architecture(json!({ "gpt_j_tied": true }));
    assert!(!names(&tied_norm, StageKind::Layer).iter().any(|name| name.starts_with("post_attention")));
    let unused = PartitionTable::new(&tied_norm).lookup(StageKind::Layer, "post_attention_layernorm.bias").unwrap();
    assert_eq!((unused.presence)(&tied_norm), Presence::Unused);
    assert_eq!(names(&pythia(), StageKind::Embedding), ["word_embeddings.weight"]);
    assert_eq!(names(&learned_tied(), StageKind::Embedding), ["word_embeddings.weight", "position_embeddings.weight"]);
    assert_eq!(names(&pythia(), StageKind::FinalNorm), ["norm.weight", "norm.bias"]);
    assert_eq!(names(&llama(), StageKind::FinalNorm), ["norm.scale"]);
    assert_eq!(names(&pythia(), StageKind::Head), ["final_linear.weight"]);
    assert!(names(&learned_tied(), StageKind::Head).is_empty());
}

#[test]
fn stages_are_told_apart_by_their_names() {
    let kind = |names: &[&str]| classify_stage(names.iter().copied());
    assert_eq!(kind(&["word_embeddings.weight"]), Some(StageKind::Embedding));
    assert_eq!(kind(&["attention.dense.weight", "mlp.linear1.weight"]), Some(StageKind::Layer));
    assert_eq!(kind(&["norm.weight", "norm.bias"]), Some(StageKind::FinalNorm));
    assert_eq!(kind(&["final_linear.weight"]), Some(StageKind::Head));
    assert_eq!(kind(&["rm_linear.weight"]), Some(StageKind::Head));
    assert_eq!(kind(&["soft_embedding_weight"]), Some(StageKind::SoftPrompt));
    assert_eq!(kind(&["adapter.weight"]), None);
    assert_eq!(kind(&[]), None);
}

#[test]
fn a_tied_head_is_divided_as_the_embedding_is() {
    let tied = learned_tied();
    let partition = PartitionTable::new(&tied).partition(Role::HeadWeight);
    assert_eq!(partition, Some(Partition { dim: 0, blocks: vec![128] }));
    assert!(PartitionTable::new(&tied).row(Role::HeadWeight).is_none());
    assert_eq!(PartitionTable::new(&tied).partition(Role::InputNormGain), None);
}

#[test]
fn sizes_that_do_not_divide_are_refused() {
    let pythia = pythia();
    let row = PartitionTable::new(&pythia).row(Role::MlpInputWeight).unwrap();
    let error = row.rank_shape(&pythia, 5).unwrap_err();
    assert_eq!(error.to_string(), "extent 96 does not divide into 5 ranks with blocks [96]");
    assert!(row.rank_shape(&pythia, 0).is_err());
    // The whole divides, its blocks do not: 4 key-value heads of 8 among 64 ranks would be half a row each.
    let llama = llama();
    let qkv = PartitionTable::new(&llama).row(Role::QkvWeight).unwrap();
    assert_eq!(qkv.rank_shape(&llama, 32).unwrap(), [4, 64]);
    let error = qkv.rank_shape(&llama, 64).unwrap_err();
    assert_eq!(error.to_string(), "extent 128 does not divide into 64 ranks with blocks [64, 32, 32]");
}

fn bytes(shape: &[usize], values: impl IntoIterator<Item = u8>) -> HostTensor {
    HostTensor::new(DType::U8, shape.to_vec(), values.into_iter().collect()).unwrap()
}

#[test]
fn blocks_are_joined_one_by_one() {
    // Gated: rank r stores [x_r | g_r]; one rank stores [x0 | x1 | g0 | g1].
    let gated = Partition { dim: 0, blocks: vec![4, 4] };
    let shards = [bytes(&[4], [1, 2, 11, 12]), bytes(&[4], [3, 4, 13, 14])];
    assert_eq!(join(&gated, &shards).unwrap().bytes(), [1, 2, 3, 4, 11, 12, 13, 14]);
    assert_eq!(rank_ranges(&gated, 2, 1).unwrap(), [2..4, 6..8]);
    // Grouped queries: [q_r | k_r | v_r] → [q0 | q1 | k0 | k1 | v0 | v1].
    let grouped = Partition { dim: 0, blocks: vec![4, 2, 2] };
    let shards = [bytes(&[4], [1, 2, 21, 31]), bytes(&[4], [3, 4, 22, 32])];
    assert_eq!(join(&grouped, &shards).unwrap().bytes(), [1, 2, 3, 4, 21, 22, 31, 32]);
    // Row-parallel: columns side by side.
    let rows = Partition { dim: 1, blocks: vec![4] };
    let shards = [bytes(&[2, 2], [1, 2, 5, 6]), bytes(&[2, 2], [3, 4, 7, 8])];
    assert_eq!(join(&rows, &shards).unwrap().bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn wrong_shards_are_not_joined_and_wrong_tensors_not_split() {
    let partition = Partition { dim: 0, blocks: vec![4] };
    let good = bytes(&[2, 3], 0..6);
    for wrong in [bytes(&[3, 3], 0..9), bytes(&[1, 3], 0..3), bytes(&[2, 2], 0..4), bytes(&[2], 0..2)] {
        assert!(join(&partition, &[good.clone(), wrong.clone()]).is_err(), "{wrong:?}");
        assert!(join(&partition, &[wrong.clone(), good.clone()]).is_err(), "{wrong:?}");
    }
    let other_type = HostTensor::new(DType::I8, vec![2, 3], vec![0; 6]).unwrap();
    assert!(join(&partition, &[good.clone(), other_type]).is_err());
    assert!(join(&partition, &[]).is_err());
    assert!(join(&partition, std::slice::from_ref(&good)).is_err());
    assert!(join(&Partition { dim: 2, blocks: vec![2] }, std::slice::from_ref(&good)).is_err());
    // The extent is right, the blocks are not.
    let uneven = Partition { dim: 0, blocks: vec![3, 1] };
    assert!(join(&uneven, &[good.clone(), good.clone()]).is_err());
    assert!(split(&uneven, &bytes(&[4], 0..4), 2).is_err());
    for extent in [2_u8, 5, 8] {
        let joined = bytes(&[usize::from(extent)], 0..extent);
        assert!(split(&partition, &joined, 2).is_err(), "a tensor of {extent} rows, not 4, was split");
    }
    assert!(rank_ranges(&partition, 2, 2).is_err());
    assert!(rank_ranges(&partition, 0, 0).is_err());
}

const MATRICES: [MlpMatrices; 3] = [MlpMatrices::UpGate, MlpMatrices::TransformerEngine, MlpMatrices::Separate];

proptest! {
    #[test]
    fn joining_what_was_split_gives_the_tensor_back(
        (tp_size, gated, group, row_head) in (1..=8_usize, any::<bool>(), 1..=3_usize, any::<bool>()),
        (alibi, interleaved, matrices) in (any::<bool>(), any::<bool>(), select(MATRICES.to_vec())),
        (head_size, wider, per_rank, seed) in (1..=3_usize, 0..=1_usize, 1..=2_usize, any::<u32>()),
    ) {
        let mut architecture = if row_head {
            architecture(json!({ "output_layer_parallelism": "row" }))
        } else {
            llama()
        };
        architecture.kv_head_count = tp_size * per_rank;
        architecture.head_count = architecture.kv_head_count * group;
        architecture.head_size = head_size * 2;
        architecture.hidden_size = architecture.head_count * (head_size * 2 + wider);
        architecture.mlp_inner_size = tp_size * (per_rank + 2);
        architecture.padded_vocab_size = tp_size * 3;
        architecture.gated = gated || matrices == MlpMatrices::Separate;
        architecture.mlp_matrices = matrices;
        (architecture.qkv_bias, architecture.attention_output_bias) = (true, true);
        architecture.mlp_bias = matrices != MlpMatrices::Separate;
        architecture.query_key_norm = Some(QueryKeyNorm::OverHeads);
        architecture.positions = if alibi {
            Positions::Alibi
        } else {
            Positions::RelativeBuckets { buckets: 4, max_distance: 16 }
        };
        architecture.qkv = match group {
            1 => QkvLayout::Interleaved,
            _ if interleaved => QkvLayout::InterleavedGroups,
            _ => QkvLayout::Blocks,
        };
        let table = PartitionTable::new(&architecture);
        let mut kinds = BTreeSet::new();
        for stage in [StageKind::Embedding, StageKind::Layer, StageKind::Head] {
            for row in table.required(stage) {
                let Some(partition) = row.partition(&architecture) else { continue };
                kinds.insert(row.kind);
                let shape = (row.shape)(&architecture);
                let noise = (0_u32..)
                    .take(shape.iter().product())
                    .flat_map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes());
                let joined = HostTensor::new(DType::F32, shape, noise.collect()).unwrap();
                let shards = split(&partition, &joined, tp_size).unwrap();
                prop_assert_eq!(shards.len(), tp_size);
                for shard in &shards {
                    let expected = row.rank_shape(&architecture, tp_size).unwrap();
                    prop_assert_eq!(shard.shape(), expected.as_slice());
                }
                prop_assert!(join(&partition, &shards).unwrap().same_bits(&joined), "{:?}", row.role);
                if tp_size > 1 {
                    let mut swapped = shards.clone();
                    swapped.swap(0, 1);
                    prop_assert!(!join(&partition, &swapped).unwrap().same_bits(&joined), "{:?}", row.role);
                }
            }
        }
        prop_assert_eq!(kinds.len(), 5, "every kind that is divided");
    }
}
