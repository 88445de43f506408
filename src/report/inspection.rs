//! The result of `inspect`: layout, architecture, parameters, drift of the replicas, and which strategies lose nothing. `text.rs` is for the terminal, `heat_map.rs` and `svg.rs` draw the drift.

mod heat_map;
mod svg;
mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::info::{CheckpointInfo, Tool};
use super::model::Exact;
use crate::merge::{Miscount, ParamDrift};
use crate::partition::{Kind, StageKind};
use crate::tensor::DType;

pub(super) use svg::draw_drift;
pub use svg::render_drift_svg;
pub use text::render_inspection;

/// Version of `kintsugi inspect --json`. It is raised when a field changes its meaning or is removed, not when one is added.
pub const INSPECTION_VERSION: &str = "1";

/// The contents of a checkpoint, and the loss of merging it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kintsugi inspection")]
pub struct Inspection {
    /// Version of this format: `1`.
    #[schemars(extend("const" = INSPECTION_VERSION))]
    pub schema_version: String,
    /// The program that made the inspection.
    pub tool: Tool,
    /// The checkpoint: layout, ranks, sizes, architecture.
    pub checkpoint: CheckpointInfo,
    /// Number of parameters of each element type.
    pub dtypes: Vec<DTypeCount>,
    /// The vocabulary and its padding.
    pub vocabulary: Vocabulary,
    /// Anything unusual in the files or easily misread, a sentence each.
    pub notes: Vec<String>,
    /// The parameters, those of all layers that are alike in one row, in the order in which they run.
    pub parameters: Vec<ParameterRow>,
    /// Drift of every replicated parameter of every stage; absent where no weights were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Vec<ParamDrift>>,
    /// The loss of each strategy; absent where no weights were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategies: Option<Vec<Judgement>>,
}

/// The parameters of one element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DTypeCount {
    /// The element type.
    pub dtype: DType,
    /// Number of tensors after joining, replicas counted once.
    pub tensors: usize,
    /// Number of elements in them.
    pub parameters: u64,
}

/// The number of rows of the word embedding, and the size of the tokenizer that its padding implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vocabulary {
    /// Rows of the word embedding, padding included.
    pub padded_size: usize,
    /// The configuration's `make_vocab_size_divisible_by`; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make_vocab_size_divisible_by: Option<usize>,
    /// The vocabulary was padded to a multiple of this: the setting times the number of ranks; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_of: Option<usize>,
    /// Number of tokens of the tokenizer if gpt-neox padded the vocabulary: the fewest and the most. Absent where
    /// the rows are no such multiple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<[usize; 2]>,
}

impl Vocabulary {
    /// The tokenizer's size from the padded one, what that is a multiple of, and the number of ranks.
    pub fn new(padded_size: usize, multiple_of: Option<usize>, tp_size: usize) -> Self {
        let multiple_of = multiple_of.map(|multiple_of| multiple_of.max(1));
        let make_vocab_size_divisible_by = multiple_of.map(|multiple_of| multiple_of / tp_size.max(1));
        let padded = multiple_of.filter(|&multiple_of| padded_size.is_multiple_of(multiple_of));
        let tokens = padded.map(|multiple_of| [(padded_size + 1).saturating_sub(multiple_of), padded_size]);
        Self { padded_size, make_vocab_size_divisible_by, multiple_of, tokens }
    }
}

/// A parameter, or all of that name and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ParameterRow {
    /// Name inside the layer file.
    pub name: String,
    /// Its kind of stage.
    pub stage: StageKind,
    /// Its kind of partition.
    pub kind: Kind,
    /// Element type.
    pub dtype: DType,
    /// Shape after joining; of one replica where it is replicated.
    pub shape: Vec<usize>,
    /// Shape of each rank's tensor.
    pub rank_shape: Vec<usize>,
    /// Number of stages that have it.
    pub stage_count: usize,
    /// Whether the model uses it.
    pub used: bool,
}

/// The loss of one strategy, judged from rules and replicas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// The strategy.
    pub name: String,
    /// A sentence about it.
    pub description: String,
    /// Whether the merge is the unmerged model, and if not, why.
    #[serde(flatten)]
    pub exact: Exact,
    /// Parameters whose multiplicity it gets wrong.
    pub miscounts: Vec<Miscount>,
    /// Number of norms that it folds into matrices, which are then rounded to their element type again.
    pub folded_norms: usize,
}
