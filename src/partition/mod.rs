//! The partition table: what every parameter of a GPT-NeoX checkpoint is, and how the shards of the tensor-parallel
//! ranks make one tensor. Reader, merger, splitter, model and exporter all read this one table (`rules`); nothing
//! anywhere infers a kind from values. A name that matches no row, or a required row that finds no name, stops the run.

mod canonical;
mod rules;
mod split;
mod stage;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Architecture, Head};
pub use canonical::canonical;
pub use split::{join, rank_ranges, split};
pub use stage::{Param, ParamValue, StageId, StageTensors};

/// What can go wrong with names and shapes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// No row of the table knows the name.
    #[error("unexpected tensor `{name}` in the {stage}")]
    UnknownName {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
    },
    /// A row knows the name and says why it cannot be handled.
    #[error("tensor `{name}` in the {stage}: {reason}")]
    Refused {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
        /// Why.
        reason: &'static str,
        /// What would be needed.
        needed: &'static str,
    },
    /// The configuration says that the model has no such parameter.
    #[error("tensor `{name}` in the {stage}: the configuration says the model has none ({reason})")]
    NotInModel {
        /// Name inside the layer file.
        name: String,
        /// Where it was found.
        stage: StageKind,
        /// The setting that excludes it.
        reason: &'static str,
    },
    /// Shards cannot be joined or a tensor cannot be split.
    #[error("extent {extent} does not divide into {tp_size} ranks with blocks {blocks:?}")]
    Indivisible {
        /// Extent of the joined tensor along the partition dimension.
        extent: usize,
        /// Number of ranks.
        tp_size: usize,
        /// Extents of the blocks that are partitioned one by one.
        blocks: Vec<usize>,
    },
    /// The tensors do not fit together.
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
}

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

/// What a parameter does in the model, whatever an era calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the field's own; rules.rs says which tensor each is")]
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
    #[must_use]
    pub fn partition_dim(self) -> Option<usize> {
        match self {
            Self::VocabParallel | Self::ColumnParallel | Self::HeadParallel | Self::HeadNorm => Some(0),
            Self::RowParallel | Self::RelativeBias => Some(1),
            Self::RowParallelBias | Self::NormGain | Self::NormBias | Self::LearnedPositions | Self::Buffer => None,
        }
    }

    /// Whether a merge strategy needs a rule for it.
    #[must_use]
    pub fn is_replicated(self) -> bool {
        self.partition_dim().is_none() && self != Self::Buffer
    }

    /// The name used in strategy files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
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
    /// The dimension that is split.
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
    /// The model has none; the text says by which setting.
    Absent(&'static str),
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// What the parameter does.
    pub role: Role,
    /// Its names inside a layer file, one per era.
    pub names: &'static [&'static str],
    /// The stage it belongs to.
    pub stage: StageKind,
    /// How it relates to the ranks.
    pub kind: Kind,
    /// Whether the model has it.
    pub presence: fn(&Architecture) -> Presence,
    /// Shape of the joined tensor (of one replica, where it is replicated).
    pub shape: fn(&Architecture) -> Vec<usize>,
    /// Blocks along the partition dimension where there is more than one.
    pub blocks: Option<fn(&Architecture) -> Vec<usize>>,
}

impl Row {
    /// How shards make the joined tensor; `None` for replicas and buffers.
    #[must_use]
    pub fn partition(&self, architecture: &Architecture) -> Option<Partition> {
        let dim = self.kind.partition_dim()?;
        let blocks = match self.blocks {
            Some(blocks) => blocks(architecture),
            None => vec![(self.shape)(architecture)[dim]],
        };
        Some(Partition { dim, blocks })
    }

    /// Shape of one rank's tensor.
    ///
    /// # Errors
    /// A block does not divide by the number of ranks.
    pub fn rank_shape(&self, architecture: &Architecture, tp_size: usize) -> Result<Vec<usize>, PartitionError> {
        let mut shape = (self.shape)(architecture);
        if let Some(partition) = self.partition(architecture) {
            let extent = shape[partition.dim];
            if tp_size == 0 || partition.blocks.iter().any(|block| !block.is_multiple_of(tp_size)) {
                return Err(PartitionError::Indivisible { extent, tp_size, blocks: partition.blocks });
            }
            shape[partition.dim] = extent / tp_size;
        }
        Ok(shape)
    }
}

/// The rows that hold for one architecture.
#[derive(Debug, Clone, Copy)]
pub struct PartitionTable<'a> {
    architecture: &'a Architecture,
}

impl<'a> PartitionTable<'a> {
    /// The table for models of this architecture.
    #[must_use]
    pub fn new(architecture: &'a Architecture) -> Self {
        Self { architecture }
    }

    /// The row that a tensor of this name belongs to.
    ///
    /// # Errors
    /// No row knows the name, the row refuses it, or the architecture excludes it.
    pub fn lookup(&self, stage: StageKind, name: &str) -> Result<&'static Row, PartitionError> {
        if let Some((reason, needed)) = rules::refusal(name) {
            return Err(PartitionError::Refused { name: name.to_owned(), stage, reason, needed });
        }
        let mut excluded = None;
        for row in rules::TABLE.iter().filter(|row| row.stage == stage && row.names.contains(&name)) {
            match (row.presence)(self.architecture) {
                Presence::Required | Presence::Unused => return Ok(row),
                Presence::Absent(reason) => excluded = Some(reason),
            }
        }
        Err(match excluded {
            Some(reason) => PartitionError::NotInModel { name: name.to_owned(), stage, reason },
            None => PartitionError::UnknownName { name: name.to_owned(), stage },
        })
    }

    /// The rows that every stage of the kind must have.
    pub fn required(&self, stage: StageKind) -> impl Iterator<Item = &'static Row> + use<'a> {
        let architecture = self.architecture;
        rules::TABLE.iter().filter(move |row| row.stage == stage && (row.presence)(architecture) == Presence::Required)
    }

    /// The row of a role in this architecture; `None` where the model has no such parameter.
    #[must_use]
    pub fn row(&self, role: Role) -> Option<&'static Row> {
        rules::TABLE
            .iter()
            .find(|row| row.role == role && !matches!((row.presence)(self.architecture), Presence::Absent(_)))
    }

    /// How the shards of a role make the joined tensor; `None` for replicas and for what the model does not have.
    #[must_use]
    pub fn partition(&self, role: Role) -> Option<Partition> {
        let role = match (role, self.architecture.head) {
            // A tied head is the word embedding, whose vocabulary rows are split alike.
            (Role::HeadWeight, Head::Tied) => Role::WordEmbedding,
            (role, _) => role,
        };
        self.row(role)?.partition(self.architecture)
    }
}

/// Why a tensor of this name makes a checkpoint impossible to understand, wherever it stands, and what would be needed;
/// `None` if it does not.
#[must_use]
pub fn refused_name(name: &str) -> Option<(&'static str, &'static str)> {
    rules::refusal(name)
}

/// Whether a tensor of this name is no parameter of the model: bookkeeping that is passed over.
#[must_use]
pub fn ignored_name(name: &str) -> bool {
    rules::is_ignored(name)
}

/// Which kind of stage a layer file holds, judged by the names in it (never by its number: soft prompts shift those).
#[must_use]
pub fn classify_stage<'a>(mut names: impl Iterator<Item = &'a str> + Clone) -> Option<StageKind> {
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
