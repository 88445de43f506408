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
    pub num_layers: usize,
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    /// Number of key and value heads; none: as many as query heads.
    pub num_kv_heads: Option<usize>,
    /// Longest training sequence, in tokens. Default: `max_position_embeddings`.
    pub seq_length: usize,
    pub max_position_embeddings: usize,

    /// Number of tensor-parallel ranks. gpt-neox's default is 1; none if absent: the files of a checkpoint decide.
    pub model_parallel_size: Option<usize>,
    /// Number of pipeline stages, 0 for no pipeline. The files of a checkpoint do not depend on it reliably.
    pub pipe_parallel_size: Option<usize>,
    /// Whether activations between tensor-parallel regions were split along the sequence. Default: false.
    pub sequence_parallel: bool,
    pub fp32_allreduce: bool,
    /// Stage of the `ZeRO` optimizer, 0 to 3; 0 also where a list of stages is to be tuned.
    pub zero_stage: usize,

    pub norm: Norm,
    pub layernorm_epsilon: f64,
    pub rms_norm_epsilon: f64,
    /// Whether rmsnorm is a fused kernel, which adds its epsilon inside the root in every version. Default: false.
    pub rmsnorm_fusion: bool,
    pub scalenorm_epsilon: f64,
    pub use_qk_layernorm: bool,

    pub position_embedding: PositionEmbedding,
    /// Share of each head's dimensions that rotary embedding turns, 0 to 1.
    pub rotary_pct: f64,
    pub rotary_emb_base: f64,
    /// Positions skipped at the start of the learned table. Default: 0.
    pub opt_pos_emb_offset: usize,
    pub rpe_num_buckets: usize,
    /// Distance, in tokens, from which `rpe` uses the last bucket. Default: 128.
    pub rpe_max_distance: usize,

    /// How each layer mixes tokens, expanded from `attention_config`. Default: global.
    pub attention: Vec<AttentionKind>,
    /// Tokens that flash attention looks back; none: all.
    pub sliding_window_width: Option<usize>,
    pub apply_query_key_layer_scaling: bool,
    pub attention_softmax_in_fp32: bool,
    pub use_bias_in_attn_linear: bool,

    /// Non-linearity of the MLP. Default: gelu; geglu with `geglu: true` (until 2021-05).
    pub activation: Activation,
    /// Whether `gelu` is the tanh form: `bias_gelu_fusion`, or `openai_gelu` (until 2021-05). Default: false.
    pub bias_gelu_fusion: bool,
    /// Whether `gelu` is spelled out for ONNX, with √2 rounded to 1.41421. Default: false.
    pub onnx_safe: bool,
    pub use_bias_in_mlp: bool,
    /// Inner width of the MLP before gating and rounding; what a file holds depends on gpt-neox's version.
    pub intermediate_size: Option<usize>,
    /// Inner width of the MLP in units of `hidden_size`; none: 4.
    pub expansion_factor: Option<f64>,
    /// The inner width of a gated MLP is rounded up to a multiple of twice this. None: not rounded.
    pub mlp_multiple_of: Option<usize>,
    pub mlp_type: MlpType,
    /// Number of experts; 1 is a dense model. Also `num_experts` (2024-03). Default: 1.
    pub moe_num_experts: usize,

    /// Whether attention and MLP are added to the same residual.
    pub gpt_j_residual: bool,
    /// Whether attention and MLP share one normalisation (only with `gpt_j_residual`). Default: false.
    pub gpt_j_tied: bool,
    pub apply_residual_connection_post_layernorm: bool,

    pub no_weight_tying: bool,
    pub output_layer_parallelism: OutputLayerParallelism,
    /// The vocabulary was padded to a multiple of this times the number of tensor-parallel ranks. Default: 128.
    pub make_vocab_size_divisible_by: usize,
    pub padded_vocab_size: Option<usize>,

    /// Number format of the trained weights. Layer files may still hold others.
    pub precision: Precision,
    pub mup: Option<Mup>,
    /// Learned and sinusoidal positions are multiplied by this, also without `use_mup`. Default: 1.
    pub mup_rp_embedding_mult: f64,
    pub transformer_engine: TransformerEngine,
    /// Whether a trained prompt precedes the input, which shifts the numbers of the layer files by one.
    pub soft_prompt_tuning: bool,
    /// Training objective. Default: `normal`; `rm` is a reward model, which ends in `rm_linear`.
    pub train_impl: String,
    pub checkpoint_validation_with_forward_pass: bool,

    pub tokenizer_type: Option<String>,
    /// Vocabulary or tokenizer file, as a path on the machine that trained.
    pub vocab_file: Option<String>,
    pub merge_file: Option<String>,
    pub iteration: Option<u64>,

    /// Every key of every file, also those without a field, with `_` for `-`.
    pub raw: Map<String, Value>,
    /// The files, and which gave which key.
    pub sources: Sources,
}

/// Multipliers of maximal update parametrisation (keys `mup_*`). All default to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mup {
    pub attention_temperature: f64,
    pub output_temperature: f64,
    pub embedding_multiplier: f64,
}

/// Which modules came from Transformer Engine (keys `te_*`). All default to false.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of gpt-neox")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransformerEngine {
    pub column_parallel: bool,
    pub row_parallel: bool,
    pub layernorm_mlp: bool,
    pub attention: bool,
    pub fp8_attention: bool,
}

impl NeoxConfig {
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, ConfigError> {
        let (raw, sources) = read_files(paths)?;
        Self::from_raw(raw, sources)
    }

    /// As [`NeoxConfig::from_files`], of files whose bytes are at hand.
    pub fn from_bytes(contents: &[(PathBuf, Vec<u8>)]) -> Result<Self, ConfigError> {
        let (raw, sources) = combine(contents)?;
        Self::from_raw(raw, sources)
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    pub fn kv_heads(&self) -> usize {
        self.num_kv_heads.unwrap_or(self.num_attention_heads)
    }

    /// Dimensions of each head that rotary embedding turns, the first ones: `int(head_dim * rotary_pct)`.
    pub(crate) fn rotary_ndims(&self) -> usize {
        rotary_ndims(self.head_dim(), self.rotary_pct)
    }

    pub fn tied_embeddings(&self) -> bool {
        !self.no_weight_tying
    }

    pub(crate) fn uses_tanh_gelu(&self) -> bool {
        self.activation == Activation::Gelu && self.bias_gelu_fusion
    }

    pub(crate) fn is_reward_model(&self) -> bool {
        self.train_impl == "rm"
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are below 2^31 and the share is from 0 to 1"
)]
fn rotary_ndims(head_dim: usize, rotary_pct: f64) -> usize {
    (head_dim as f64 * rotary_pct) as usize
}
