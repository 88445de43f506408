//! gpt-neox's settings as one typed value.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::choices::{Activation, AttentionKind, MlpType, Norm, OutputLayerParallelism, PositionEmbedding, Precision};
use super::error::ConfigError;
use super::yaml::{Sources, combine, read_files};

/// The architecture of a gpt-neox model and how it was trained, as far as reading, merging, running and exporting it
/// need to know.
///
/// A field has the name of its key unless its documentation names another. Names, meanings and defaults follow
/// [`megatron/neox_arguments/neox_args.py`](https://github.com/EleutherAI/gpt-neox/blob/ea7aefd8/megatron/neox_arguments/neox_args.py);
/// a key that is absent or `null` has the default. Counts are over all ranks.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of gpt-neox")]
#[derive(Debug, Clone, PartialEq)]
pub struct NeoxConfig {
    /// Number of transformer layers. Required.
    pub num_layers: usize,
    /// Width of the residual stream. Required.
    pub hidden_size: usize,
    /// Number of query heads. Required.
    pub num_attention_heads: usize,
    /// Number of key and value heads; none: as many as query heads.
    pub num_kv_heads: Option<usize>,
    /// Longest training sequence, in tokens. Default: `max_position_embeddings`.
    pub seq_length: usize,
    /// Largest number of positions, in tokens. Required.
    pub max_position_embeddings: usize,

    /// Number of tensor-parallel ranks. gpt-neox's default is 1; none if absent: the files of a checkpoint decide.
    pub model_parallel_size: Option<usize>,
    /// Number of pipeline stages, 0 for no pipeline. gpt-neox's default is 0. The files of a checkpoint do not depend
    /// on it reliably.
    pub pipe_parallel_size: Option<usize>,
    /// Whether activations between tensor-parallel regions were split along the sequence. Default: false.
    pub sequence_parallel: bool,
    /// Whether partial sums are added in single precision (`deepspeed_args.py`). Default: false.
    pub fp32_allreduce: bool,
    /// Stage of the `ZeRO` optimizer, 0 to 3, from `zero_optimization.stage` or `zero_stage`. Default: 0, also where a list
    /// of stages is to be tuned.
    pub zero_stage: usize,

    /// Kind of normalisation. Default: layernorm.
    pub norm: Norm,
    /// Added to the variance by layernorm. Default: 1e-5.
    pub layernorm_epsilon: f64,
    /// Added to the mean square by rmsnorm. Default: 1e-8.
    pub rms_norm_epsilon: f64,
    /// Whether rmsnorm is a fused kernel, which adds its epsilon inside the root in every version. Default: false.
    pub rmsnorm_fusion: bool,
    /// Smallest length that scalenorm divides by. Default: 1e-8.
    pub scalenorm_epsilon: f64,
    /// Whether queries and keys are normalised. Default: false.
    pub use_qk_layernorm: bool,

    /// Kind of position embedding, key `pos_emb`. Default: learned.
    pub position_embedding: PositionEmbedding,
    /// Share of each head's dimensions that rotary embedding turns, 0 to 1. Default: 1.
    pub rotary_pct: f64,
    /// Base of the rotary wavelengths. Default: 10000.
    pub rotary_emb_base: f64,
    /// Positions skipped at the start of the learned table. Default: 0.
    pub opt_pos_emb_offset: usize,
    /// Number of distance buckets of `rpe`. Default: 32.
    pub rpe_num_buckets: usize,
    /// Distance, in tokens, from which `rpe` uses the last bucket. Default: 128.
    pub rpe_max_distance: usize,

    /// How each layer mixes tokens, expanded from `attention_config`. Default: global.
    pub attention: Vec<AttentionKind>,
    /// Tokens that flash attention looks back; none: all.
    pub sliding_window_width: Option<usize>,
    /// Whether scores are divided by the layer's number before the softmax. Default: false.
    pub apply_query_key_layer_scaling: bool,
    /// Whether the softmax runs in single precision. Default: false; true with `apply_query_key_layer_scaling`.
    pub attention_softmax_in_fp32: bool,
    /// Whether the attention's linear layers have biases. Default: true.
    pub use_bias_in_attn_linear: bool,

    /// Non-linearity of the MLP. Default: gelu; geglu with `geglu: true` (until 2021-05).
    pub activation: Activation,
    /// Whether `gelu` is the tanh form: `bias_gelu_fusion`, or `openai_gelu` (until 2021-05). Default: false.
    pub bias_gelu_fusion: bool,
    /// Whether `gelu` is spelled out for ONNX, with √2 rounded to 1.41421. Default: false.
    pub onnx_safe: bool,
    /// Whether the MLP's linear layers have biases. Default: true.
    pub use_bias_in_mlp: bool,
    /// Inner width of the MLP before gating and rounding. What a file holds depends on gpt-neox's version: measure the
    /// tensors.
    pub intermediate_size: Option<usize>,
    /// Inner width of the MLP in units of `hidden_size`; none: 4.
    pub expansion_factor: Option<f64>,
    /// The inner width of a gated MLP is rounded up to a multiple of twice this. None: not rounded.
    pub mlp_multiple_of: Option<usize>,
    /// Matrices of the MLP. Default: regular.
    pub mlp_type: MlpType,
    /// Number of experts; 1 is a dense model. Also `num_experts` (2024-03). Default: 1.
    pub moe_num_experts: usize,

    /// Whether attention and MLP are added to the same residual. Then their partial sums, biases included, share one
    /// all-reduce. Default: false.
    pub gpt_j_residual: bool,
    /// Whether attention and MLP share one normalisation (only with `gpt_j_residual`). Default: false.
    pub gpt_j_tied: bool,
    /// Whether the residual was taken after the normalisation (until 2021-08). Default: false.
    pub apply_residual_connection_post_layernorm: bool,

    /// Whether the output layer has weights of its own. Default: false. See [`NeoxConfig::tied_embeddings`].
    pub no_weight_tying: bool,
    /// How ranks share the output layer. Default: column, as since 2023-05.
    pub output_layer_parallelism: OutputLayerParallelism,
    /// The vocabulary was padded to a multiple of this times the number of tensor-parallel ranks. Default: 128.
    pub make_vocab_size_divisible_by: usize,
    /// Rows of the embedding, padding included. See [`NeoxConfig::padded_vocab_size`].
    pub padded_vocab_size: Option<usize>,

    /// Number format of the trained weights. Layer files may still hold others.
    pub precision: Precision,
    /// Multipliers of maximal update parametrisation, when `use_mup` is set.
    pub mup: Option<Mup>,
    /// Learned and sinusoidal positions are multiplied by this, also without `use_mup`. Default: 1.
    pub mup_rp_embedding_mult: f64,
    /// Which modules came from Transformer Engine.
    pub transformer_engine: TransformerEngine,
    /// Whether a trained prompt precedes the input: a section `soft_prompt_tuning` that is not disabled. It shifts the
    /// numbers of the layer files by one.
    pub soft_prompt_tuning: bool,
    /// Training objective. Default: `normal`; `rm` is a reward model, which ends in `rm_linear`.
    pub train_impl: String,
    /// Whether each save stored the logits of a fixed input. Default: false.
    pub checkpoint_validation_with_forward_pass: bool,

    /// gpt-neox's name of the tokenizer's kind, such as `HFTokenizer`.
    pub tokenizer_type: Option<String>,
    /// Vocabulary or tokenizer file, as a path on the machine that trained.
    pub vocab_file: Option<String>,
    /// Merges file, as a path on the machine that trained.
    pub merge_file: Option<String>,
    /// Training step to load.
    pub iteration: Option<u64>,

    /// Every key of every file, also those without a field, with `_` for `-`.
    pub raw: Map<String, Value>,
    /// The files, and which gave which key.
    pub sources: Sources,
}

/// Multipliers of maximal update parametrisation (keys `mup_*`). All default to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mup {
    /// Of the attention scores, key `mup_attn_temp`.
    pub attention_temperature: f64,
    /// Of the logits, key `mup_output_temp`.
    pub output_temperature: f64,
    /// Of the embedding, key `mup_embedding_mult`.
    pub embedding_multiplier: f64,
}

/// Which modules came from Transformer Engine (keys `te_*`). All default to false.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of gpt-neox")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransformerEngine {
    /// Column-parallel linear layers, key `te_columnparallel`.
    pub column_parallel: bool,
    /// Row-parallel linear layers, key `te_rowparallel`.
    pub row_parallel: bool,
    /// Normalisation and MLP in one module, key `te_layernorm_mlp`.
    pub layernorm_mlp: bool,
    /// Attention, key `te_mha`.
    pub attention: bool,
    /// Attention in 8-bit floats, key `te_fp8_mha`.
    pub fp8_attention: bool,
}

impl TransformerEngine {
    /// Whether any module came from Transformer Engine.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl NeoxConfig {
    /// Reads configuration files, combines and validates them.
    ///
    /// # Errors
    /// Everything in [`ConfigError`] except a mismatch with a checkpoint.
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, ConfigError> {
        let (raw, sources) = read_files(paths)?;
        Self::from_raw(raw, sources)
    }

    /// Combines and validates configuration files whose bytes are at hand.
    ///
    /// # Errors
    /// As [`NeoxConfig::from_files`].
    pub fn from_bytes(contents: &[(PathBuf, Vec<u8>)]) -> Result<Self, ConfigError> {
        let (raw, sources) = combine(contents)?;
        Self::from_raw(raw, sources)
    }

    /// Dimensions of one attention head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Number of key and value heads over all ranks.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.num_kv_heads.unwrap_or(self.num_attention_heads)
    }

    /// Dimensions of each head that rotary embedding turns, the first ones: `int(head_dim * rotary_pct)`.
    #[must_use]
    pub fn rotary_ndims(&self) -> usize {
        rotary_ndims(self.head_dim(), self.rotary_pct)
    }

    /// Whether the output layer uses the embedding's weights.
    #[must_use]
    pub fn tied_embeddings(&self) -> bool {
        !self.no_weight_tying
    }

    /// Whether the MLP's GELU is the tanh form.
    #[must_use]
    pub fn uses_tanh_gelu(&self) -> bool {
        self.activation == Activation::Gelu && self.bias_gelu_fusion
    }

    /// Whether the model ends in a reward head instead of an output layer.
    #[must_use]
    pub fn is_reward_model(&self) -> bool {
        self.train_impl == "rm"
    }
}

/// Rounds down, as Python's `int(head_dim * rotary_pct)`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are below 2^31 and the share is from 0 to 1"
)]
fn rotary_ndims(head_dim: usize, rotary_pct: f64) -> usize {
    (head_dim as f64 * rotary_pct) as usize
}
