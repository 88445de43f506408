//! Random tensor-parallel models in memory: what a proptest case describes ([`Design`]), drawn rank by rank and joined
//! as the checkpoint reader joins ([`RandomModel`]).

mod draw;

use kintsugi::config::{
    Activation, Architecture, AttentionKind, EpsilonPlacement, Head, MlpInput, MlpMatrices, Multipliers, Norm,
    Positions, Precision, QkvLayout, QueryKeyNorm, Residual, RotaryScaling, RotaryTables,
};
use kintsugi::partition::{Kind, Param, ParamValue, PartitionTable, Role, Row, StageId, StageKind, StageTensors, join};
use kintsugi::tensor::{DType, HostTensor};
use proptest::prelude::*;
use proptest::sample::select;
use rand::SeedableRng as _;
use rand::rngs::ChaCha12Rng;

use super::reference::{Ranks, Shards};
use draw::Draw;

/// Tokens of the test sequence; learned tables have two rows more, for an offset.
pub(super) const TOKENS: usize = 5;

/// What the gains of the norms are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gains {
    /// 0.7 … 1.3.
    AroundOne,
    /// Some are 0 on every rank.
    SomeZero,
    /// Some are negative.
    SomeNegative,
    /// Some are a millionth of the others.
    SomeTiny,
    /// Where gains drift, an element can be 0 or negative on one rank only.
    Crossing,
}

/// What the biases of layer norms are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormBiases {
    /// −0.3 … 0.3.
    Random,
    /// All 0.
    Zero,
    /// Σ(β/γ) of the mean bias and mean gain is 0, where the rank-one term cannot be had without a shift.
    Balanced,
}

/// Which replicas drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "kinds of replicas, each for itself")]
pub(super) struct Drifting {
    pub gains: bool,
    pub norm_biases: bool,
    pub row_biases: bool,
    pub positions: bool,
}

/// What a random model is to be.
#[derive(Debug, Clone)]
pub(super) struct Design {
    pub architecture: Architecture,
    pub tp_size: usize,
    pub dtype: DType,
    /// Largest relative difference between a replica and what it drifted from.
    pub drift: f64,
    pub drifting: Drifting,
    pub gains: Gains,
    pub norm_biases: NormBiases,
    /// Whether row-parallel biases are anything but 0.
    pub row_biases: bool,
    pub seed: u64,
}

prop_compose! {
    fn sizes()(
        tp_size in 1..=8_usize,
        heads_per_rank in 1..=4_usize,
        head_size in select(vec![4_usize, 6]),
        layer_count in 1..=3_usize,
        inner_per_rank in 1..=5_usize,
        vocab_per_rank in 2..=5_usize,
    ) -> (usize, usize, usize, usize, usize, usize) {
        (tp_size, heads_per_rank, head_size, layer_count, inner_per_rank, vocab_per_rank)
    }
}

prop_compose! {
    fn norms()(
        (norm, epsilon) in select(vec![
            (Norm::LayerNorm, 1e-5), (Norm::LayerNorm, 1e-5), (Norm::RmsNorm, 1e-8), (Norm::RmsNorm, 0.1),
            (Norm::ScaleNorm, 1e-8), (Norm::ScaleNorm, 3.0), (Norm::NonParametricLayerNorm, 1e-5),
            (Norm::TransformerEngineLayerNorm, 1e-5), (Norm::TransformerEngineRmsNorm, 1e-8),
        ]),
        outside in any::<bool>(),
    ) -> (Norm, f64, EpsilonPlacement) {
        let outside = outside && norm == Norm::RmsNorm;
        (norm, epsilon, if outside { EpsilonPlacement::Outside } else { EpsilonPlacement::Inside })
    }
}

prop_compose! {
    /// Layer scaling, flash attention with and without a window.
    fn scores()(
        query_key_layer_scaling in any::<bool>(),
        attention in prop::collection::vec(select(vec![AttentionKind::Global, AttentionKind::Flash]), 3),
        sliding_window in select(vec![None, None, Some(1), Some(2)]),
    ) -> (bool, Vec<AttentionKind>, Option<usize>) {
        (query_key_layer_scaling, attention, sliding_window)
    }
}

fn multipliers() -> impl proptest::strategy::Strategy<Value = Multipliers> {
    let scaled = Multipliers { embedding: 1.5, positions: 0.75, logit_divisor: 2.0, scores_by_head_size: true };
    select(vec![Multipliers::NONE, Multipliers::NONE, scaled])
}

prop_compose! {
    fn architectures()(
        (tp_size, heads_per_rank, head_size, layer_count, inner_per_rank, vocab_per_rank) in sizes(),
        (norm, norm_epsilon, rms_epsilon) in norms(),
        positions in select(vec![
            Positions::Rotary { dims: 2, base: 10_000.0, scaling: None },
            Positions::Rotary { dims: 4, base: 500.0, scaling: None },
            Positions::Rotary { dims: 4, base: 20.0, scaling: Some(RotaryScaling::Linear { factor: 3.0 }) },
            // One frequency that is kept and one that is interpolated.
            Positions::Rotary { dims: 4, base: 20.0, scaling: Some(RotaryScaling::Llama3 {
                factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 60,
            }) },
            // One that is interpolated and one that is divided.
            Positions::Rotary { dims: 4, base: 20.0, scaling: Some(RotaryScaling::Llama3 {
                factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 20,
            }) },
            Positions::Learned { offset: 0 },
            Positions::Learned { offset: 2 },
            Positions::Sinusoidal,
            Positions::Alibi,
            Positions::RelativeBuckets { buckets: 6, max_distance: 5 },
            Positions::Absent,
        ]),
        (activation, tanh_gelu, onnx_gelu) in select(vec![
            (Activation::Gelu, true, false), (Activation::Gelu, false, false), (Activation::Gelu, false, true),
            (Activation::Relu, false, false), (Activation::Silu, false, false), (Activation::Swish, false, false),
            (Activation::Mish, false, false),
            (Activation::Softsign, false, false), (Activation::GeGlu, false, false), (Activation::GeGlu, true, false),
            (Activation::ReGlu, false, false), (Activation::SwiGlu, false, false), (Activation::Glu, false, false),
            (Activation::Bilinear, false, false), (Activation::SquaredRelu, false, false),
        ]),
        mlp_matrices in select(vec![
            MlpMatrices::UpGate, MlpMatrices::UpGate, MlpMatrices::Separate, MlpMatrices::TransformerEngine,
        ]),
        residual in select(vec![
            Residual::Parallel, Residual::Parallel, Residual::Sequential, Residual::ParallelReducedApart,
        ]),
        mlp_input in select(vec![MlpInput::OwnNorm, MlpInput::AttentionNorm, MlpInput::NormOfAttentionNorm]),
        (kv_heads_per_rank, interleaved_groups) in (1..=4_usize, any::<bool>()),
        head in select(vec![Head::Column, Head::Column, Head::Row, Head::Tied, Head::Reward]),
        (qkv_bias, attention_output_bias, mlp_bias, attention_lost) in any::<(bool, bool, bool, bool)>(),
        (query_key_layer_scaling, attention, sliding_window) in scores(),
        multipliers in multipliers(),
        (query_key_norm, soft_prompt_length, wider) in (
            select(vec![None, None, Some(QueryKeyNorm::OverHeads), Some(QueryKeyNorm::PerHead)]),
            select(vec![0, 0, 0, 2]),
            // Of the hidden size, for every head.
            select(vec![0, 0, 0, 2, -2_isize]),
        ),
    ) -> (usize, Architecture) {
        let head_count = tp_size * heads_per_rank;
        let kv_heads_per_rank = if heads_per_rank.is_multiple_of(kv_heads_per_rank) { kv_heads_per_rank } else { 1 };
        let kv_head_count = tp_size * kv_heads_per_rank;
        // gpt-neox could run that layout only where the heads of keys divide among those of queries.
        let interleaved_groups = interleaved_groups && (head_size * kv_heads_per_rank).is_multiple_of(heads_per_rank);
        // Transformer Engine's MLP has these norms only.
        let mlp_matrices = match mlp_matrices {
            MlpMatrices::TransformerEngine if !(norm.is_rms() || norm.has_bias()) => MlpMatrices::UpGate,
            matrices => matrices,
        };
        let engine = mlp_matrices == MlpMatrices::TransformerEngine;
        let mlp_bias = mlp_bias && mlp_matrices != MlpMatrices::Separate;
        (tp_size, Architecture {
            layer_count,
            hidden_size: head_count * head_size.checked_add_signed(wider).unwrap(),
            head_size,
            head_count,
            kv_head_count,
            padded_vocab_size: tp_size * vocab_per_rank,
            mlp_inner_size: tp_size * inner_per_rank,
            max_position_embeddings: TOKENS + 2,
            norm,
            norm_epsilon,
            rms_epsilon,
            // Over all heads only in the one form of which exact merges exist.
            query_key_norm: query_key_norm.filter(|&form| form == QueryKeyNorm::PerHead || norm == Norm::RmsNorm),
            positions,
            rotary_tables: RotaryTables::Float32,
            storage: Precision::Fp32,
            attention: attention[..layer_count].to_vec(),
            sliding_window,
            query_key_layer_scaling,
            multipliers,
            activation,
            tanh_gelu,
            onnx_gelu,
            gated: activation.is_gated() || mlp_matrices == MlpMatrices::Separate,
            mlp_matrices,
            residual,
            attention_dropped: attention_lost && residual == Residual::Parallel && !mlp_bias,
            mlp_input: match residual {
                Residual::Sequential => MlpInput::OwnNorm,
                _ if engine => MlpInput::OwnNorm,
                // One scalenorm behind another hides the first one's gain, which exactness does not count on.
                _ if norm == Norm::ScaleNorm && mlp_input == MlpInput::NormOfAttentionNorm => MlpInput::OwnNorm,
                _ => mlp_input,
            },
            head,
            qkv: match (kv_head_count == head_count, interleaved_groups) {
                (true, _) => QkvLayout::Interleaved,
                (false, true) => QkvLayout::InterleavedGroups,
                (false, false) => QkvLayout::Blocks,
            },
            qkv_bias,
            attention_output_bias,
            mlp_bias,
            soft_prompt_length,
            sequence_parallel: false,
            not_evaluated: None,
        })
    }
}

prop_compose! {
    /// Models of every architecture, number of ranks and drift, in float64.
    pub(super) fn designs()(
        (tp_size, architecture) in architectures(),
        drift in select(vec![0.0, 1e-3, 0.02, 0.3]),
        (gains_drift, norm_biases_drift, row_biases_drift, positions_drift) in any::<(bool, bool, bool, bool)>(),
        gains in select(vec![
            Gains::AroundOne, Gains::SomeZero, Gains::SomeNegative, Gains::SomeTiny, Gains::Crossing,
        ]),
        norm_biases in select(vec![NormBiases::Random, NormBiases::Random, NormBiases::Zero, NormBiases::Balanced]),
        row_biases in prop::bool::weighted(0.8),
        seed in any::<u64>(),
    ) -> Design {
        let drifting = Drifting {
            gains: gains_drift,
            norm_biases: norm_biases_drift,
            row_biases: row_biases_drift,
            positions: positions_drift,
        };
        Design { architecture, tp_size, dtype: DType::F64, drift, drifting, gains, norm_biases, row_biases, seed }
    }
}

/// A model drawn from a design: as ranks hold it, and as the reader gives it.
pub(super) struct RandomModel {
    pub ranks: Ranks,
    pub stages: Vec<StageTensors>,
}

impl Design {
    /// The same design always draws the same model.
    pub(super) fn draw(&self) -> RandomModel {
        let mut draw = Draw { design: self, random: ChaCha12Rng::seed_from_u64(self.seed) };
        let mut stages = vec![draw.stage(StageId::Embedding, &[StageKind::Embedding, StageKind::SoftPrompt])];
        let layers = (0..self.architecture.layer_count).map(|at| draw.stage(StageId::Layer(at), &[StageKind::Layer]));
        stages.extend(layers.collect::<Vec<_>>());
        let mut output = draw.stage(StageId::Output, &[StageKind::FinalNorm, StageKind::Head]);
        if self.architecture.head == Head::Tied {
            let (words, ranks) = &stages[0];
            output.0.params.insert(Role::HeadWeight, words.params[&Role::WordEmbedding].clone());
            for (shards, embedding) in output.1.iter_mut().zip(ranks) {
                shards.insert(Role::HeadWeight, embedding[&Role::WordEmbedding].clone());
            }
        }
        stages.push(output);
        let (stages, ranks) = stages.into_iter().unzip();
        RandomModel { ranks: Ranks { stages: ranks }, stages }
    }

    /// The ids of the test sequence.
    pub(super) fn ids(&self) -> Vec<usize> {
        let mut random = ChaCha12Rng::seed_from_u64(!self.seed);
        (0..TOKENS).map(|_| random.random_range(0..self.architecture.padded_vocab_size)).collect()
    }
}

/// A merged model as its one rank holds it.
pub(super) fn one_rank(stages: &[StageTensors]) -> Ranks {
    let of_stage = |stage: &StageTensors| {
        assert_eq!(stage.tp_size, 1);
        let values = |param: &Param| {
            let [only] = param.value.tensors() else { panic!("{} has several replicas", param.name) };
            only.to_f64().unwrap()
        };
        vec![stage.params.iter().map(|(&role, param)| (role, values(param))).collect()]
    };
    Ranks { stages: stages.iter().map(of_stage).collect() }
}
