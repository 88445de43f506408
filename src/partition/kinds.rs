//! Kinds of stages and parameters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of stage that the files of a model are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageKind {
    /// Word (and position) embedding.
    Embedding,
    /// A trained prompt. It runs with the embedding.
    SoftPrompt,
    /// One transformer layer.
    Layer,
    /// Final norm.
    FinalNorm,
    /// Output projection to the vocabulary.
    Head,
}

impl std::fmt::Display for StageKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Embedding => "embedding",
            Self::SoftPrompt => "soft prompt",
            Self::Layer => "transformer layer",
            Self::FinalNorm => "final norm",
            Self::Head => "output head",
        })
    }
}

/// A parameter's function in the model, independent of its names in the eras.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the field's own; rules.rs maps tensors to them")]
pub enum Role {
    WordEmbedding,
    PositionEmbedding,
    InputNormGain,
    InputNormBias,
    MlpNormGain,
    MlpNormBias,
    QkvWeight,
    QkvBias,
    AttentionOutputWeight,
    AttentionOutputBias,
    MlpInputWeight,
    MlpInputBias,
    MlpOutputWeight,
    MlpOutputBias,
    FinalNormGain,
    FinalNormBias,
    HeadWeight,
    RotaryFrequencies,
    MlpGateWeight,
    MlpUpWeight,
    QueryKeyNormGain,
    QueryKeyNormBias,
    AlibiSlopes,
    RelativeBias,
    PositionFrequencies,
    SoftPrompt,
    QueryNormGain,
    QueryNormBias,
    KeyNormGain,
    KeyNormBias,
}

impl Role {
    /// Whether it belongs to the norm of queries or of keys, each over the elements of a head. Between it and the matrix
    /// before it stands the normalisation, behind it the rotation: no linear layer can take it up.
    pub(crate) fn is_per_head_norm(self) -> bool {
        matches!(self, Self::QueryNormGain | Self::QueryNormBias | Self::KeyNormGain | Self::KeyNormBias)
    }
}

/// How a parameter relates to the tensor-parallel ranks. Strategies give one rule per kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Rows of the vocabulary divided among the ranks (`VocabParallelEmbedding`).
    VocabParallel,
    /// Split along the output dimension (`ColumnParallelLinear`, weight and bias).
    ColumnParallel,
    /// Split along the input dimension (`RowParallelLinear`, weight).
    RowParallel,
    /// Full-size bias of a row-parallel layer, one replica a rank; gpt-neox adds it before or after the all-reduce.
    RowParallelBias,
    /// Gain of a norm, one replica a rank.
    NormGain,
    /// Bias of a norm, one replica a rank.
    NormBias,
    /// Learned positions, and trained prompts: one replica a rank, put into its stream after the embedding's all-reduce.
    LearnedPositions,
    /// A table the model recomputes; never merged by a rule.
    Buffer,
    /// A number for each head, divided among the ranks (alibi slopes).
    HeadParallel,
    /// A column for each head, divided among the ranks (relative position bias, `rpe`).
    RelativeBias,
    /// A row for each head of a norm that takes its statistics over all heads of its rank (`qk_layernorm`): joining the
    /// rows does not give the same norm.
    HeadNorm,
}

impl Kind {
    /// The dimension that is split, `None` for replicas and buffers.
    pub fn partition_dim(self) -> Option<usize> {
        match self {
            Self::VocabParallel | Self::ColumnParallel | Self::HeadParallel | Self::HeadNorm => Some(0),
            Self::RowParallel | Self::RelativeBias => Some(1),
            Self::RowParallelBias | Self::NormGain | Self::NormBias | Self::LearnedPositions | Self::Buffer => None,
        }
    }

    /// Whether a merge strategy needs a rule for it.
    pub fn is_replicated(self) -> bool {
        self.partition_dim().is_none() && self != Self::Buffer
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::VocabParallel => "vocab-parallel",
            Self::ColumnParallel => "column-parallel",
            Self::RowParallel => "row-parallel",
            Self::RowParallelBias => "row-parallel-bias",
            Self::NormGain => "norm-gain",
            Self::NormBias => "norm-bias",
            Self::LearnedPositions => "learned-positions",
            Self::Buffer => "buffer",
            Self::HeadParallel => "head-parallel",
            Self::RelativeBias => "relative-bias",
            Self::HeadNorm => "head-norm",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How shards lie in the joined tensor: split along `dim`, each of `blocks` divided among the ranks by itself, so that
/// rank r's shard is `[block 0 part r | block 1 part r | …]` and the joined tensor is `[block 0 | block 1 | …]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub dim: usize,
    /// Extents of the blocks in the joined tensor.
    pub blocks: Vec<usize>,
}

/// Whether a model of this architecture has the parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Every stage of the kind has it.
    Required,
    /// It may be there; the model does not use it.
    Unused,
    /// The model has none; the text names the setting.
    Absent(&'static str),
}

/// Which kind of stage a layer file holds, judged by the names in it (never by its number: soft prompts shift those).
pub(crate) fn classify_stage<'a>(mut names: impl Iterator<Item = &'a str> + Clone) -> Option<StageKind> {
    let any = |prefixes: &[&str]| names.clone().any(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    if any(&["word_embeddings."]) {
        Some(StageKind::Embedding)
    } else if any(&["attention.", "mlp.", "input_layernorm.", "ln1."]) {
        Some(StageKind::Layer)
    } else if any(&["soft_embedding_weight"]) {
        Some(StageKind::SoftPrompt)
    } else if any(&["final_linear.", "rm_linear."]) {
        Some(StageKind::Head)
    } else if names.any(|name| name.starts_with("norm.")) {
        Some(StageKind::FinalNorm)
    } else {
        None
    }
}
