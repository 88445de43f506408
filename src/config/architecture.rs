//! What the model is, once configuration and tensors have been heard: the one description that the partition table, the
//! merger, the forward pass and the exporters go by. [`Architecture::resolve`] refuses what cannot be evaluated.

use super::observed::{Observed, resolve_head};
use super::refusals::{self, Unsupported};
use super::{
    Activation, AttentionBranch, AttentionKind, EpsilonPlacement, GqaLayout, MlpNormInput, MlpType, NeoxConfig, Norm,
    NormTying, PositionEmbedding, Precision, QuirkOptions, Quirks, Reduction, RotaryTables,
};

/// How positions enter the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Rotation of the first `dims` elements of queries and keys (Su et al. 2021, in gpt-neox's half-rotation form).
    Rotary {
        /// Rotated elements of each head.
        dims: usize,
        /// Base of the frequencies.
        base: f64,
    },
    /// A learned table, added to the embedding by each rank from its own replica.
    Learned {
        /// Added to the position before the table is read (`opt_pos_emb_offset`).
        offset: usize,
    },
    /// Fixed sines, then cosines, added to the embedding.
    Sinusoidal,
    /// A slope for each head, times the distance, subtracted from the scores (Press et al. 2021).
    Alibi,
    /// A learned number for each head and bucket of distances, added to the scores (T5, Raffel et al. 2019).
    RelativeBuckets {
        /// Number of buckets.
        buckets: usize,
        /// The distance from which the last bucket holds.
        max_distance: usize,
    },
    /// None.
    Absent,
}

/// How attention and MLP are added to the residual stream, and with it where row-parallel biases are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// `x + reduce(attention(x) + mlp(x))` (`gpt_j_residual: true`): each rank adds its row-parallel biases *before* the
    /// all-reduce, so the model's bias is their sum.
    Parallel,
    /// `x + reduce(attention(x)) + bias + reduce(mlp(x)) + bias` (`gpt_j_residual: true` until 2021-09-29): each rank adds
    /// its whole replicas *after* the all-reduces.
    ParallelReducedApart,
    /// `x + reduce(attention) + bias`, then the MLP likewise: each rank adds its whole replica *after* the all-reduce.
    Sequential,
}

/// What the MLP's first layer is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpInput {
    /// Its own norm of the residual stream.
    OwnNorm,
    /// The attention's norm (`gpt_j_tied`).
    AttentionNorm,
    /// Its own norm of what the attention's norm puts out (2021-09-29 to 2021-10-20).
    NormOfAttentionNorm,
}

/// The matrices of the MLP's first layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpMatrices {
    /// One; `[up | gate]` where it is gated.
    UpGate,
    /// One, with its norm in the same module; `[gate | up]` where it is gated, GELU always in its tanh form (Transformer
    /// Engine, `te_layernorm_mlp`).
    TransformerEngine,
    /// `w1` (gate) and `w3` (up) (`mlp_type: llama`, 2023-05 to 2024-09).
    Separate,
}

/// The output projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Its vocabulary is divided among the ranks.
    Column,
    /// Its inputs are divided among the ranks.
    Row,
    /// The word embedding, used again.
    Tied,
}

/// How queries, keys and values lie in `attention.query_key_value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvLayout {
    /// Head by head: `[heads, 3, head size]`.
    Interleaved,
    /// Per rank `[Q | K | V]` (grouped-query attention since gpt-neox 96c242eb, 2024-11-14).
    Blocks,
    /// Query head by query head, each followed by its share of K and of V: with k key heads to q query heads,
    /// `[q, head size + 2 · head size · k/q]`. The shares of K, one behind another, are the key heads (grouped-query
    /// attention from f36aed7f, 2024-02-22, to 96c242eb).
    InterleavedGroups,
}

/// Factors of maximal update parametrisation; all 1 where it is not used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// Of the embedding, positions included.
    pub embedding: f64,
    /// Of learned and sinusoidal positions.
    pub positions: f64,
    /// The final norm's output is divided by this.
    pub logit_divisor: f64,
    /// Whether scores are divided by the head size instead of its root.
    pub scores_by_head_size: bool,
}

impl Multipliers {
    /// Of a model that does not use it.
    pub const NONE: Self = Self { embedding: 1.0, positions: 1.0, logit_divisor: 1.0, scores_by_head_size: false };
}

/// How a norm computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormForm {
    /// The norm.
    pub kind: Norm,
    /// Its epsilon.
    pub epsilon: f64,
    /// Where rmsnorm adds it.
    pub placement: EpsilonPlacement,
}

/// What the model is.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings of gpt-neox's configuration")]
pub struct Architecture {
    /// Transformer layers.
    pub layer_count: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads.
    pub kv_head_count: usize,
    /// Rows of the word embedding with padding.
    pub padded_vocab_size: usize,
    /// Width of the MLP between its two layers, after gating.
    pub mlp_inner_size: usize,
    /// Longest input.
    pub max_position_embeddings: usize,
    /// The norm.
    pub norm: Norm,
    /// Its epsilon.
    pub norm_epsilon: f64,
    /// Where rmsnorm adds it.
    pub rms_epsilon: EpsilonPlacement,
    /// Whether queries and keys are normalised over all heads of a rank (`use_qk_layernorm`).
    pub query_key_norm: bool,
    /// How positions enter.
    pub positions: Positions,
    /// What type rotary tables are made in.
    pub rotary_tables: RotaryTables,
    /// Number format of the files, in which tables that gpt-neox keeps as buffers are rounded.
    pub storage: Precision,
    /// What each layer uses to mix tokens: global or flash.
    pub attention: Vec<AttentionKind>,
    /// Tokens that flash attention looks back, none: all.
    pub sliding_window: Option<usize>,
    /// Whether scores are scaled by the layer's number around the relative biases (`apply_query_key_layer_scaling`).
    pub query_key_layer_scaling: bool,
    /// Factors of maximal update parametrisation.
    pub multipliers: Multipliers,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether GELU is the tanh approximation (`bias_gelu_fusion`).
    pub tanh_gelu: bool,
    /// Whether GELU has √2 rounded to 1.41421 (`onnx_safe`).
    pub onnx_gelu: bool,
    /// Whether the MLP's first layer makes `[up | gate]`.
    pub gated: bool,
    /// The matrices of the MLP's first layer.
    pub mlp_matrices: MlpMatrices,
    /// How branches are added.
    pub residual: Residual,
    /// Whether the attention branch is computed and lost, as in gpt-neox since e37ad2f0 (2024-09-10) with a parallel
    /// residual and an MLP without biases.
    pub attention_dropped: bool,
    /// What feeds the MLP.
    pub mlp_input: MlpInput,
    /// The output projection.
    pub head: Head,
    /// How queries, keys and values lie in one matrix.
    pub qkv: QkvLayout,
    /// Whether the attention's linear layers have biases.
    pub attention_bias: bool,
    /// Whether the MLP's linear layers have biases.
    pub mlp_bias: bool,
}

impl Architecture {
    /// Combines configuration and tensors, with today's meaning of whatever they leave open.
    ///
    /// # Errors
    /// The first setting that this version cannot evaluate, with the reason.
    pub fn resolve(config: &NeoxConfig, observed: &Observed) -> Result<Self, Unsupported> {
        Ok(Self::resolve_with(config, observed, &QuirkOptions::default())?.0)
    }

    /// Refuses what the configuration alone shows to be impossible, before any tensor has been looked at.
    ///
    /// # Errors
    /// The first setting that this version cannot evaluate, with the reason.
    pub fn check_settings(config: &NeoxConfig, tp_size: usize, options: &QuirkOptions) -> Result<(), Unsupported> {
        let observed = Observed { tp_size, ..Observed::default() };
        refusals::check(config, &observed, &Quirks::decide(config, &observed, options))
    }

    /// Combines configuration and tensors; also says what was decided about the quirks of gpt-neox's versions.
    ///
    /// # Errors
    /// The first setting that this version cannot evaluate, with the reason.
    pub fn resolve_with(
        config: &NeoxConfig,
        observed: &Observed,
        options: &QuirkOptions,
    ) -> Result<(Self, Quirks), Unsupported> {
        let quirks = Quirks::decide(config, observed, options);
        refusals::check(config, observed, &quirks)?;
        let hidden_size = config.hidden_size;
        let missing = |what: &str| Unsupported {
            setting: what.to_owned(),
            reason: "neither the configuration nor the tensors tell it".to_owned(),
        };
        let padded_vocab_size = observed.padded_vocab_size.ok_or_else(|| missing("padded_vocab_size"))?;
        let kv_head_count = config.kv_heads();
        let activation = config.activation;
        let (engine_attention, engine_mlp) = (observed.engine_attention(config), observed.engine_mlp(config));
        let mlp_matrices = match config.mlp_type {
            _ if engine_mlp => MlpMatrices::TransformerEngine,
            MlpType::Llama => MlpMatrices::Separate,
            MlpType::Regular => MlpMatrices::UpGate,
        };
        let mlp_bias = engine_mlp || (config.use_bias_in_mlp && mlp_matrices == MlpMatrices::UpGate);
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
            padded_vocab_size,
            mlp_inner_size: observed.mlp_inner_size.ok_or_else(|| missing("the MLP's width"))?,
            max_position_embeddings: config.max_position_embeddings,
            norm: config.norm,
            norm_epsilon: norm_epsilon(config),
            rms_epsilon: quirks.rms_epsilon.value,
            query_key_norm: config.use_qk_layernorm,
            positions: positions(config),
            rotary_tables: quirks.rotary_tables.value,
            storage: observed.precision.unwrap_or(config.precision),
            attention: config.attention.clone(),
            sliding_window: config.sliding_window_width,
            query_key_layer_scaling: config.apply_query_key_layer_scaling && !engine_attention,
            multipliers: Multipliers {
                embedding: config.mup.map_or(1.0, |mup| mup.embedding_multiplier),
                positions: config.mup_rp_embedding_mult,
                logit_divisor: config.mup.and(quirks.mup_width).unwrap_or(1.0),
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
            attention_bias: config.use_bias_in_attn_linear || engine_attention,
            mlp_bias,
        };
        Ok((architecture, quirks))
    }

    /// Elements of one head.
    #[must_use]
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.head_count
    }

    /// Rows of the joined query-key-value matrix.
    #[must_use]
    pub fn qkv_size(&self) -> usize {
        self.hidden_size + 2 * self.kv_head_count * self.head_size()
    }

    /// Rows of the MLP's joined first matrix.
    #[must_use]
    pub fn mlp_input_size(&self) -> usize {
        if self.gated { 2 * self.mlp_inner_size } else { self.mlp_inner_size }
    }

    /// Longest input, in tokens.
    #[must_use]
    pub fn longest_input(&self) -> usize {
        match self.positions {
            Positions::Learned { offset } => self.max_position_embeddings.saturating_sub(offset),
            _ => self.max_position_embeddings,
        }
    }

    /// Whether a layer runs through the `FlashAttention` kernels, which ignore `rpe`, layer scaling and
    /// `scores_by_head_size`, and alone know a sliding window.
    #[must_use]
    pub fn is_flash(&self, layer: usize) -> bool {
        self.attention.get(layer) == Some(&AttentionKind::Flash)
    }

    /// How the norms compute, except the MLP's.
    #[must_use]
    pub fn norm_form(&self) -> NormForm {
        NormForm { kind: self.norm, epsilon: self.norm_epsilon, placement: self.rms_epsilon }
    }

    /// How the MLP's norm computes. Transformer Engine's own has a fixed epsilon (gpt-neox
    /// `megatron/model/transformer_engine.py`, `TELayerNormMLP`).
    #[must_use]
    pub fn mlp_norm_form(&self) -> NormForm {
        if self.mlp_matrices != MlpMatrices::TransformerEngine {
            return self.norm_form();
        }
        let epsilon = if self.norm.is_rms() { 1e-8 } else { 1e-5 };
        NormForm { kind: self.norm, epsilon, placement: EpsilonPlacement::Inside }
    }

    /// Whether each rank adds its whole row-parallel biases after the all-reduce, to a residual stream of its own.
    #[must_use]
    pub fn biases_after_reduction(&self) -> bool {
        self.residual != Residual::Parallel
    }

    /// Whether ranks can come to hold different residual streams: after the all-reduce each adds something of its own.
    #[must_use]
    pub fn streams_can_differ(&self) -> bool {
        let row_bias = self.biases_after_reduction() && (self.attention_bias || self.mlp_bias);
        row_bias || matches!(self.positions, Positions::Learned { .. })
    }

    /// The slope of each head's `alibi`, as gpt-neox computes them (`megatron/model/positional_embeddings.py`, `AliBi`):
    /// 2^(−8(i+1)/heads), and where the number of heads is no power of two, those of the power below and every other one
    /// of the power above.
    #[must_use]
    pub fn alibi_slopes(&self) -> Vec<f64> {
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
    #[must_use]
    pub fn never_exact(&self) -> Option<&'static str> {
        self.query_key_norm.then_some(
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
        PositionEmbedding::Rotary => Positions::Rotary { dims: config.rotary_ndims(), base: config.rotary_emb_base },
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
