//! The forms that the parts of a model take: positions, residuals, norms, layouts.

use super::choices::Norm;
use super::quirk_values::EpsilonPlacement;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Rotation of the first `dims` elements of queries and keys (Su et al. 2021, in gpt-neox's half-rotation form).
    Rotary {
        dims: usize,
        base: f64,
        scaling: Option<RotaryScaling>,
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
        buckets: usize,
        /// The distance from which the last bucket holds.
        max_distance: usize,
    },
    Absent,
}

/// Frequencies of rotary embedding that were changed for longer contexts (transformers `modeling_rope_utils.py`); no
/// setting of gpt-neox.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// By wavelength, as Llama 3.1: waves longer than `original_positions / low_freq_factor` have their frequency divided
    /// by `factor`, those shorter than `original_positions / high_freq_factor` keep it, between them it is interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        /// Positions that the model was trained for before.
        original_positions: usize,
    },
    /// All divided by `factor`.
    Linear { factor: f64 },
}

/// How queries and keys are normalised before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// One norm for both, with a gain for every head and element (gpt-neox, `use_qk_layernorm`). Layer norms take their
    /// statistics over all heads of a rank, RMS norms over the elements of each head.
    OverHeads,
    /// A norm for queries and one for keys, over the elements of each head, their gains shared by all heads (Megatron,
    /// Qwen3). Replicated: each rank has its own.
    PerHead,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpInput {
    /// Its own norm of the residual stream.
    OwnNorm,
    /// The attention's norm (`gpt_j_tied`).
    AttentionNorm,
    /// Its own norm of the attention's norm's output (2021-09-29 to 2021-10-20).
    NormOfAttentionNorm,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Its vocabulary is divided among the ranks.
    Column,
    Row,
    /// The word embedding, used again.
    Tied,
    /// One score instead of a vocabulary, its inputs divided among the ranks (`train_impl: rm`).
    Reward,
}

impl Head {
    /// Whether its inputs are divided among the ranks, so that each reads its own slice of the final norm.
    pub const fn is_row_parallel(self) -> bool {
        matches!(self, Self::Row | Self::Reward)
    }
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
    pub const NONE: Self = Self { embedding: 1.0, positions: 1.0, logit_divisor: 1.0, scores_by_head_size: false };
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormForm {
    pub kind: Norm,
    pub epsilon: f64,
    pub placement: EpsilonPlacement,
}
