//! The model's architecture, from configuration and tensors: the one description that the partition table, the merger, the
//! forward pass and the exporters use. [`Architecture::resolve`] refuses models that are not understood;
//! [`Architecture::not_evaluated`] is the reason why one that is understood cannot be evaluated.

use super::choices::{Activation, AttentionKind, Norm, PositionEmbedding, Precision};
use super::forms::{Head, MlpInput, MlpMatrices, Multipliers, NormForm, Positions, QkvLayout, QueryKeyNorm, Residual};
use super::neox::NeoxConfig;
use super::observed::{Observed, resolve_head};
use super::quirk_values::{
    AttentionBranch, EpsilonPlacement, GqaLayout, MlpNormInput, NormTying, Reduction, RotaryTables,
};
use super::quirks::{QuirkOptions, Quirks};
use super::refusals;
use super::unsupported::Unsupported;

/// gpt-neox's default of `soft_prompt_tuning.num_tokens`.
const SOFT_PROMPT_DEFAULT: usize = 10;

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
pub struct Architecture {
    pub layer_count: usize,
    pub hidden_size: usize,
    pub head_count: usize,
    pub kv_head_count: usize,
    /// Elements of each head; not everywhere `hidden_size / head_count`.
    pub head_size: usize,
    /// Rows of the word embedding with padding.
    pub padded_vocab_size: usize,
    /// Width of the MLP between its two layers, after gating.
    pub mlp_inner_size: usize,
    pub max_position_embeddings: usize,
    pub norm: Norm,
    pub norm_epsilon: f64,
    /// Where rmsnorm adds it.
    pub rms_epsilon: EpsilonPlacement,
    /// Of queries and keys; `None` where they are not normalised.
    pub query_key_norm: Option<QueryKeyNorm>,
    pub positions: Positions,
    pub rotary_tables: RotaryTables,
    /// Number format of the files, in which tables that gpt-neox keeps as buffers are rounded.
    pub storage: Precision,
    /// How each layer mixes tokens: global or flash.
    pub attention: Vec<AttentionKind>,
    /// Tokens that flash attention looks back, none: all.
    pub sliding_window: Option<usize>,
    /// Whether scores are scaled by the layer's number around the relative biases (`apply_query_key_layer_scaling`).
    pub query_key_layer_scaling: bool,
    pub multipliers: Multipliers,
    pub activation: Activation,
    /// Whether GELU is the tanh approximation (`bias_gelu_fusion`).
    pub tanh_gelu: bool,
    /// Whether GELU has √2 rounded to 1.41421 (`onnx_safe`).
    pub onnx_gelu: bool,
    /// Whether the MLP's first layer makes `[up | gate]`.
    pub gated: bool,
    pub mlp_matrices: MlpMatrices,
    pub residual: Residual,
    /// Whether the attention branch is computed and lost, as in gpt-neox since e37ad2f0 (2024-09-10) with a parallel
    /// residual and an MLP without biases.
    pub attention_dropped: bool,
    pub mlp_input: MlpInput,
    pub head: Head,
    pub qkv: QkvLayout,
    pub qkv_bias: bool,
    /// Of the attention's output projection; a row-parallel bias.
    pub attention_output_bias: bool,
    pub mlp_bias: bool,
    /// Rows of the trained prompt before every input (`soft_prompt_tuning`); 0 without one.
    pub soft_prompt_length: usize,
    /// Whether in training each rank's norms, and biases added after the all-reduce, acted on its own stretch of the
    /// sequence (`sequence_parallel`).
    pub sequence_parallel: bool,
    /// Why it can be read and merged but not evaluated; `None` where it can.
    pub not_evaluated: Option<Unsupported>,
}

impl Architecture {
    /// Combines configuration and tensors, with today's meaning of whatever they leave open.
    pub fn resolve(config: &NeoxConfig, observed: &Observed) -> Result<Self, Unsupported> {
        Ok(Self::resolve_with(config, observed, &QuirkOptions::default())?.0)
    }

    /// Refuses what the configuration alone shows to be impossible, before any tensor has been looked at.
    pub fn check_settings(config: &NeoxConfig, observed: &Observed, options: &QuirkOptions) -> Result<(), Unsupported> {
        refusals::check(config, observed, &Quirks::decide(config, observed, options))
    }

    /// Combines configuration and tensors; also returns the quirks that were decided on.
    pub fn resolve_with(
        config: &NeoxConfig,
        observed: &Observed,
        options: &QuirkOptions,
    ) -> Result<(Self, Quirks), Unsupported> {
        let quirks = Quirks::decide(config, observed, options);
        refusals::check(config, observed, &quirks)?;
        let hidden_size = config.hidden_size;
        let missing = |what: &str| {
            let (reason, needed) = (
                "it is neither in the configuration nor in the tensors",
                "pass a configuration that contains it with --neox-config FILE",
            );
            Unsupported::new(what, reason, needed)
        };
        let padded_vocab_size = observed.padded_vocab_size.ok_or_else(|| missing("padded_vocab_size"))?;
        let kv_head_count = config.kv_heads();
        let activation = config.activation;
        let (engine_attention, engine_mlp) = (observed.engine_attention(config), observed.engine_mlp(config));
        let mlp_matrices = if engine_mlp {
            MlpMatrices::TransformerEngine
        } else if observed.separate_mlp(config) {
            MlpMatrices::Separate
        } else {
            MlpMatrices::UpGate
        };
        let mlp_bias = engine_mlp || (config.use_bias_in_mlp && mlp_matrices == MlpMatrices::UpGate);
        let attention_bias = config.use_bias_in_attn_linear || engine_attention;
        let residual = match (config.gpt_j_residual, quirks.reduction.value) {
            (false, _) => Residual::Sequential,
            (true, Reduction::Shared) => Residual::Parallel,
            (true, Reduction::PerBranch) => Residual::ParallelReducedApart,
        };
        let architecture = Self {
            layer_count: config.num_layers,
            hidden_size,
            head_count: config.num_attention_heads,
            kv_head_count,
            head_size: hidden_size / config.num_attention_heads,
            padded_vocab_size,
            mlp_inner_size: observed.mlp_inner_size.ok_or_else(|| missing("the MLP's width"))?,
            max_position_embeddings: config.max_position_embeddings,
            norm: config.norm,
            norm_epsilon: norm_epsilon(config),
            rms_epsilon: quirks.rms_epsilon.value,
            query_key_norm: config.use_qk_layernorm.then_some(QueryKeyNorm::OverHeads),
            positions: positions(config),
            rotary_tables: quirks.rotary_tables.value,
            storage: observed.precision.unwrap_or(config.precision),
            attention: config.attention.clone(),
            sliding_window: config.sliding_window_width,
            query_key_layer_scaling: config.apply_query_key_layer_scaling && !engine_attention,
            multipliers: Multipliers {
                embedding: config.mup.map_or(1.0, |mup| mup.embedding_multiplier),
                positions: config.mup_rp_embedding_mult,
                logit_divisor: config.mup.and(quirks.mup_width.as_ref()).map_or(1.0, |width| width.value),
                scores_by_head_size: config.mup.is_some() && !engine_attention,
            },
            activation,
            tanh_gelu: config.uses_tanh_gelu() || engine_mlp,
            onnx_gelu: config.onnx_safe && activation == Activation::Gelu && !engine_mlp,
            gated: activation.is_gated() || mlp_matrices == MlpMatrices::Separate,
            mlp_matrices,
            residual,
            attention_dropped: residual == Residual::Parallel
                && !mlp_bias
                && quirks.attention_branch.value == AttentionBranch::Dropped,
            mlp_input: mlp_input(config, &quirks, residual, engine_mlp),
            head: resolve_head(config, observed, padded_vocab_size),
            qkv: match quirks.gqa_layout.value {
                _ if kv_head_count == config.num_attention_heads => QkvLayout::Interleaved,
                GqaLayout::Blocks => QkvLayout::Blocks,
                GqaLayout::Interleaved => QkvLayout::InterleavedGroups,
            },
            qkv_bias: attention_bias,
            attention_output_bias: attention_bias,
            mlp_bias,
            soft_prompt_length: if config.soft_prompt_tuning {
                observed.soft_prompt_length.unwrap_or(SOFT_PROMPT_DEFAULT)
            } else {
                0
            },
            sequence_parallel: config.sequence_parallel && observed.tp_size > 1,
            not_evaluated: refusals::check_evaluation(config, observed, &quirks).err(),
        };
        Ok((architecture, quirks))
    }

    /// Rows of the joined query matrix, columns of the attention's output projection.
    pub(crate) fn query_size(&self) -> usize {
        self.head_count * self.head_size
    }

    /// Rows of the joined query-key-value matrix.
    pub(crate) fn qkv_size(&self) -> usize {
        self.query_size() + 2 * self.kv_head_count * self.head_size
    }

    /// Rows of the MLP's joined first matrix.
    pub(crate) fn mlp_input_size(&self) -> usize {
        if self.gated { 2 * self.mlp_inner_size } else { self.mlp_inner_size }
    }

    /// Longest input, in tokens, a trained prompt not counted.
    pub fn longest_input(&self) -> usize {
        let positions = match self.positions {
            Positions::Learned { offset } => self.max_position_embeddings.saturating_sub(offset),
            _ => self.max_position_embeddings,
        };
        positions.saturating_sub(self.soft_prompt_length)
    }

    /// Whether a layer runs through the `FlashAttention` kernels, which ignore `rpe`, layer scaling and
    /// `scores_by_head_size`, and alone know a sliding window.
    pub fn is_flash(&self, layer: usize) -> bool {
        self.attention.get(layer) == Some(&AttentionKind::Flash)
    }

    pub(crate) fn norm_form(&self) -> NormForm {
        NormForm { kind: self.norm, epsilon: self.norm_epsilon, placement: self.rms_epsilon }
    }

    /// How the MLP's norm computes. Transformer Engine's own has a fixed epsilon (gpt-neox
    /// `megatron/model/transformer_engine.py`, `TELayerNormMLP`).
    pub(crate) fn mlp_norm_form(&self) -> NormForm {
        if self.mlp_matrices != MlpMatrices::TransformerEngine {
            return self.norm_form();
        }
        let epsilon = if self.norm.is_rms() { 1e-8 } else { 1e-5 };
        NormForm { kind: self.norm, epsilon, placement: EpsilonPlacement::Inside }
    }

    /// Whether each rank adds its whole row-parallel biases after the all-reduce, to a residual stream of its own.
    pub(crate) fn biases_after_reduction(&self) -> bool {
        self.residual != Residual::Parallel
    }

    /// Whether ranks can come to hold different residual streams: after the all-reduce each adds something of its own.
    pub(crate) fn streams_can_differ(&self) -> bool {
        let row_bias = self.biases_after_reduction() && (self.attention_output_bias || self.mlp_bias);
        row_bias || self.soft_prompt_length > 0 || matches!(self.positions, Positions::Learned { .. })
    }

    /// The slope of each head's `alibi`, as gpt-neox computes them (`megatron/model/positional_embeddings.py`, `AliBi`):
    /// 2^(−8(i+1)/heads), and where the number of heads is no power of two, those of the power below and every other one
    /// of the power above.
    pub(crate) fn alibi_slopes(&self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a number of heads")]
        let of_power = |heads: usize| -> Vec<f64> {
            (1..=heads).map(|head| 2_f64.powf(-8.0 * head as f64 / heads as f64)).collect()
        };
        let below =
            if self.head_count.is_power_of_two() { self.head_count } else { self.head_count.next_power_of_two() / 2 };
        let further = of_power(2 * below).into_iter().step_by(2).take(self.head_count - below);
        of_power(below).into_iter().chain(further).collect()
    }

    /// Why no one-rank model equals the trained one whatever the replicas hold; `None` where one does.
    pub(crate) fn never_exact(&self) -> Option<&'static str> {
        // An rmsnorm takes them over the elements of each head, which its rank holds whole.
        (self.query_key_norm == Some(QueryKeyNorm::OverHeads) && !self.norm.is_rms()).then_some(
            "qk_layernorm takes its statistics over the heads of one rank, so no one-rank model equals this one",
        )
    }
}

fn norm_epsilon(config: &NeoxConfig) -> f64 {
    match config.norm {
        Norm::RmsNorm | Norm::TransformerEngineRmsNorm => config.rms_norm_epsilon,
        Norm::ScaleNorm => config.scalenorm_epsilon,
        Norm::LayerNorm | Norm::NonParametricLayerNorm | Norm::TransformerEngineLayerNorm => config.layernorm_epsilon,
    }
}

fn positions(config: &NeoxConfig) -> Positions {
    match config.position_embedding {
        PositionEmbedding::Rotary => {
            Positions::Rotary { dims: config.rotary_ndims(), base: config.rotary_emb_base, scaling: None }
        }
        PositionEmbedding::Learned => Positions::Learned { offset: config.opt_pos_emb_offset },
        PositionEmbedding::Sinusoidal => Positions::Sinusoidal,
        PositionEmbedding::Alibi => Positions::Alibi,
        PositionEmbedding::RelativeBuckets => {
            Positions::RelativeBuckets { buckets: config.rpe_num_buckets, max_distance: config.rpe_max_distance }
        }
        PositionEmbedding::Absent => Positions::Absent,
    }
}

fn mlp_input(config: &NeoxConfig, quirks: &Quirks, residual: Residual, engine_mlp: bool) -> MlpInput {
    let tied = match quirks.norm_tying.value {
        NormTying::AsConfigured => config.gpt_j_tied,
        NormTying::Inverted => !config.gpt_j_tied,
    };
    match residual {
        // Transformer Engine's MLP brings its own norm, tied or not.
        Residual::Sequential => MlpInput::OwnNorm,
        _ if engine_mlp => MlpInput::OwnNorm,
        Residual::ParallelReducedApart => MlpInput::AttentionNorm,
        Residual::Parallel if quirks.mlp_norm_input.value == MlpNormInput::AttentionNorm => {
            MlpInput::NormOfAttentionNorm
        }
        Residual::Parallel if tied => MlpInput::AttentionNorm,
        Residual::Parallel => MlpInput::OwnNorm,
    }
}
