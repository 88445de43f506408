//! What the model is, once configuration and tensors have been heard: the one description that the partition table, the
//! merger, the forward pass and the exporters go by. [`Architecture::resolve`] refuses what cannot be evaluated.

use serde_json::{Map, Value};

use super::{Activation, AttentionKind, MlpType, NeoxConfig, Norm, OutputLayerParallelism, PositionEmbedding};

/// A setting that this version cannot evaluate.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct Unsupported {
    /// The configuration key and its value.
    pub setting: String,
    /// Why it is refused.
    pub reason: String,
}

/// Facts that only the tensors know.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Number of ranks that hold shards.
    pub tp_size: usize,
    /// Width of the MLP between its two layers, all ranks together (after gating).
    pub mlp_inner_size: Option<usize>,
    /// Rows of the word embedding, all ranks together.
    pub padded_vocab_size: Option<usize>,
    /// Shape of one rank's output head, where there is one.
    pub head_shape: Option<Vec<usize>>,
}

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
    /// None.
    Absent,
}

/// How attention and MLP are added to the residual stream, and with it where row-parallel biases are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// `x + reduce(attention(x) + mlp(x))` (`gpt_j_residual: true`): each rank adds its row-parallel biases *before* the
    /// all-reduce, so the model's bias is their sum.
    Parallel,
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
    /// How positions enter.
    pub positions: Positions,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Whether GELU is the tanh approximation (`bias_gelu_fusion`).
    pub tanh_gelu: bool,
    /// Whether the MLP's first layer makes `[up | gate]`.
    pub gated: bool,
    /// How branches are added.
    pub residual: Residual,
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
    /// Combines configuration and tensors.
    ///
    /// # Errors
    /// The first setting that this version cannot evaluate, with the reason.
    pub fn resolve(config: &NeoxConfig, observed: &Observed) -> Result<Self, Unsupported> {
        refuse(config)?;
        let hidden_size = config.hidden_size;
        let missing = |what: &str| Unsupported {
            setting: what.to_owned(),
            reason: "neither the configuration nor the tensors tell it".to_owned(),
        };
        let padded_vocab_size = observed.padded_vocab_size.ok_or_else(|| missing("padded_vocab_size"))?;
        let norm_epsilon = match config.norm {
            Norm::RmsNorm => config.rms_norm_epsilon,
            _ => config.layernorm_epsilon,
        };
        let kv_head_count = config.kv_heads();
        let activation = config.activation;
        Ok(Self {
            layer_count: config.num_layers,
            hidden_size,
            head_count: config.num_attention_heads,
            kv_head_count,
            padded_vocab_size,
            mlp_inner_size: observed.mlp_inner_size.ok_or_else(|| missing("the MLP's width"))?,
            max_position_embeddings: config.max_position_embeddings,
            norm: config.norm,
            norm_epsilon,
            positions: match config.position_embedding {
                PositionEmbedding::Rotary => {
                    Positions::Rotary { dims: config.rotary_ndims(), base: config.rotary_emb_base }
                }
                PositionEmbedding::Learned => Positions::Learned { offset: config.opt_pos_emb_offset },
                _ => Positions::Absent,
            },
            activation,
            tanh_gelu: config.uses_tanh_gelu(),
            gated: activation.is_gated(),
            residual: if config.gpt_j_residual { Residual::Parallel } else { Residual::Sequential },
            mlp_input: if config.gpt_j_residual && config.gpt_j_tied {
                MlpInput::AttentionNorm
            } else {
                MlpInput::OwnNorm
            },
            head: resolve_head(config, observed, padded_vocab_size),
            qkv: if kv_head_count == config.num_attention_heads { QkvLayout::Interleaved } else { QkvLayout::Blocks },
            attention_bias: config.use_bias_in_attn_linear,
            mlp_bias: config.use_bias_in_mlp,
        })
    }

    /// The settings by name, for reports.
    #[must_use]
    pub fn summary(&self) -> Map<String, Value> {
        let positions = match self.positions {
            Positions::Rotary { dims, base } => format!("rotary, {dims} of {} elements, base {base}", self.head_size()),
            Positions::Learned { offset: 0 } => "learned".to_owned(),
            Positions::Learned { offset } => format!("learned, offset {offset}"),
            Positions::Absent => "none".to_owned(),
        };
        let activation = if self.tanh_gelu { "gelu (tanh)".to_owned() } else { self.activation.to_string() };
        let residual = match self.residual {
            Residual::Parallel => "parallel: row-parallel biases added before the all-reduce",
            Residual::Sequential => "sequential: row-parallel biases added after the all-reduce",
        };
        let head = match self.head {
            Head::Column => "column-parallel",
            Head::Row => "row-parallel",
            Head::Tied => "tied to the word embedding",
        };
        let entries: [(&str, Value); 15] = [
            ("layers", self.layer_count.into()),
            ("hidden_size", self.hidden_size.into()),
            ("attention_heads", self.head_count.into()),
            ("key_value_heads", self.kv_head_count.into()),
            ("mlp_inner_size", self.mlp_inner_size.into()),
            ("padded_vocab_size", self.padded_vocab_size.into()),
            ("max_position_embeddings", self.max_position_embeddings.into()),
            ("norm", format!("{}, epsilon {}", self.norm, self.norm_epsilon).into()),
            ("positions", positions.into()),
            ("activation", activation.into()),
            ("residual", residual.into()),
            ("mlp_norm", if self.mlp_input == MlpInput::OwnNorm { "own" } else { "shared with attention" }.into()),
            ("head", head.into()),
            ("attention_bias", self.attention_bias.into()),
            ("mlp_bias", self.mlp_bias.into()),
        ];
        entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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

    /// Whether ranks can come to hold different residual streams: after the all-reduce each adds something of its own.
    #[must_use]
    pub fn streams_can_differ(&self) -> bool {
        let row_bias = self.residual == Residual::Sequential && (self.attention_bias || self.mlp_bias);
        row_bias || matches!(self.positions, Positions::Learned { .. })
    }
}

/// A head that the configuration does not describe is recognised by its shape: gpt-neox's default was `row` until
/// 2023-05-02 and is `column` since.
fn resolve_head(config: &NeoxConfig, observed: &Observed, padded_vocab_size: usize) -> Head {
    if config.tied_embeddings() {
        return Head::Tied;
    }
    let by_config = match config.output_layer_parallelism {
        OutputLayerParallelism::Column => Head::Column,
        OutputLayerParallelism::Row => Head::Row,
    };
    let stated = config.raw.contains_key("output_layer_parallelism");
    match observed.head_shape.as_deref() {
        Some([rows, _]) if !stated && observed.tp_size > 1 => {
            if *rows == padded_vocab_size {
                Head::Row
            } else {
                Head::Column
            }
        }
        _ => by_config,
    }
}

/// `apply_query_key_layer_scaling` divides the scores by the layer's number and multiplies them again before the softmax:
/// nothing is left of it but rounding, as long as no relative bias is added in between.
fn refuse(config: &NeoxConfig) -> Result<(), Unsupported> {
    let refusal = |setting: String, reason: &str| Err(Unsupported { setting, reason: reason.to_owned() });
    if config.use_qk_layernorm {
        return refusal(
            "use_qk_layernorm: true".to_owned(),
            "each rank takes the norm's statistics over its own heads, so no one-rank model equals the trained one",
        );
    }
    if config.moe_num_experts > 1 {
        return refusal(
            format!("moe_num_experts: {}", config.moe_num_experts),
            "mixture-of-experts layers are not supported",
        );
    }
    if config.mup.is_some() {
        return refusal("use_mup: true".to_owned(), "mup multipliers are not supported");
    }
    if config.mlp_type == MlpType::Llama {
        return refusal("mlp_type: llama".to_owned(), "the three-matrix MLP of 2023-05 to 2024-09 is not supported");
    }
    if !matches!(config.norm, Norm::LayerNorm | Norm::RmsNorm) {
        return refusal(format!("norm: {}", config.norm), "only layernorm and rmsnorm are supported");
    }
    if !matches!(
        config.position_embedding,
        PositionEmbedding::Rotary | PositionEmbedding::Learned | PositionEmbedding::Absent
    ) {
        return refusal(
            format!("pos_emb: {}", config.position_embedding),
            "only rotary, learned and none are supported",
        );
    }
    if let Some(kind) =
        config.attention.iter().find(|kind| !matches!(kind, AttentionKind::Global | AttentionKind::Flash))
    {
        return refusal(format!("attention_config: {kind}"), "only global and flash attention are supported");
    }
    Ok(())
}
