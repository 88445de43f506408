//! The contents of `report.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::explanation::DivergenceCurve;
use super::info::{CheckpointInfo, RunInfo, TaskInfo, Tool};
use super::judged::LimitsInfo;
use super::rows::{ModelRow, VariantRow};
use crate::merge::ParamDrift;

/// Version of `report.json`. It is raised when a field changes its meaning or is removed, not when one is added.
pub const SCHEMA_VERSION: &str = "2";

/// How the statistics of a report were made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Statistics {
    /// Level of every interval, a fraction; p-values are judged against the rest.
    pub confidence: f64,
    /// Number of bootstrap resamples.
    pub bootstrap_replicates: usize,
    /// Seed of the resampling.
    pub bootstrap_seed: u64,
}

/// The losses of merging a tensor-parallel checkpoint: every merge compared with the unmerged model, paired by passage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kintsugi report")]
pub struct Report {
    /// Version of this format: `2`.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: String,
    /// The program that made the report.
    pub tool: Tool,
    /// Whether only some of the passages were evaluated: such numbers are for testing the setup, or a run shard to be joined.
    pub partial: bool,
    /// The checkpoint that was merged.
    pub checkpoint: CheckpointInfo,
    /// The task, its data and its tokenizer.
    pub task: TaskInfo,
    /// How the evaluation ran.
    pub run: RunInfo,
    /// How the statistics were made.
    pub statistics: Statistics,
    /// The limits that rows are judged by.
    pub limits: LimitsInfo,
    /// The unmerged model, every rank with its own copy of the replicated parameters.
    pub baseline: ModelRow,
    /// Every merge and candidate, in the order given.
    pub variants: Vec<VariantRow>,
    /// The baseline evaluated again with another chunking, as if it were a variant: differences below its own are noise.
    /// Absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<VariantRow>,
    /// How far each variant's residual stream strays from the baseline's, layer by layer; absent where not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divergence: Vec<DivergenceCurve>,
    /// Drift of every replicated parameter of every stage; absent where not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<ParamDrift>,
    /// Other findings, a sentence each.
    pub findings: Vec<String>,
}

impl Report {
    /// Every row that is compared with the baseline: the variants, then the noise floor.
    pub fn compared(&self) -> impl Iterator<Item = &VariantRow> {
        self.variants.iter().chain(&self.noise_floor)
    }

    /// Every model: the baseline, then those compared with it.
    pub fn models(&self) -> impl Iterator<Item = &ModelRow> {
        std::iter::once(&self.baseline).chain(self.compared().map(|row| &row.model))
    }
}
