//! Reports: what every model scored on the same documents, what each merge loses against the unmerged baseline, and
//! the renderings of it. A report is built from samples and runs nothing; the numbers come from `stats`, the samples
//! from `samples`. `rows.rs` computes, `json.rs` is the format other programs read, `terminal.rs` and `markdown.rs`
//! are for people, `output.rs` fills an output directory. `inspection.rs` is what a look into a checkpoint found.

mod candidate;
mod error;
mod explanation;
mod format;
mod html;
mod info;
mod inspection;
mod json;
mod lm_eval;
mod markdown;
mod material;
mod model_diff;
mod output;
mod page;
mod plots;
mod records;
mod rows;
mod table;
mod terminal;
mod verdict;
mod why;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use candidate::{CandidateInfo, JoinedKind, ReplicatedKind, SettingDifference};
pub use error::ReportError;
pub use explanation::{
    DivergenceCurve, Effect, Explanation, FactorEffect, ScaleEffect, StrategyEffect, render_explanation,
};
pub use html::render_html;
pub use info::{
    CheckpointInfo, DataInfo, DocumentCounts, FileDigest, RunInfo, Shard, StageSeconds, TaskInfo, TokenizerInfo, Tool,
    Versions,
};
pub use inspection::{
    DTypeCount, INSPECTION_VERSION, Inspection, Judgement, ParameterRow, Vocabulary, render_drift_svg,
    render_inspection,
};
pub use json::{parse_json, read_json, schema, to_json, write_json};
pub use lm_eval::write_lm_eval;
pub use markdown::render_markdown;
pub use material::{Material, Results};
pub use model_diff::render_model_diff;
pub use output::{OutputDir, prepare_output, write_all, write_atomically, write_explanation};
pub use page::{Entry, TerminalStyle, render_table};
pub use records::{
    ChunkRecord, FileStamp, ModelRecord, ModelRole, ModelScores, ModelsRecord, Number, RECORDS_VERSION, Record,
    Records, RunRecord, SliceRecord, combine,
};
pub use rows::{Exact, Loss, ModelRow, VariantRow};
pub use terminal::render_terminal;

use crate::merge::ParamDrift;
use crate::samples::Sample;
use crate::stats::{self, PairedBootstrap};

/// The format of `report.json`. It changes when a field changes its meaning or goes; new fields leave it as it is.
pub const SCHEMA_VERSION: &str = "1";

/// One model evaluated: who it is and what it scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The name of its row: `baseline`, or the strategy or candidate.
    pub name: String,
    /// What it is, in a sentence.
    pub description: String,
    /// Where it comes from: a strategy file, a directory, or the paper or script it follows.
    pub source: String,
    /// One sample a document; the same documents in the same order for every model.
    pub samples: Vec<Sample>,
    /// Whether it is the baseline by construction; `None` where nobody can tell.
    pub exact: Option<Exact>,
    /// Where it was made elsewhere, what it is.
    pub candidate: Option<CandidateInfo>,
}

/// What a report is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportInput {
    /// How the evaluation ran.
    pub run: RunInfo,
    /// The checkpoint that was merged.
    pub checkpoint: CheckpointInfo,
    /// What the models were asked.
    pub task: TaskInfo,
    /// The unmerged model.
    pub baseline: Outcome,
    /// Every merge; none where one model is evaluated alone.
    pub variants: Vec<Outcome>,
    /// The baseline evaluated again with another chunking: differences below its own are noise.
    pub noise_floor: Option<Outcome>,
    /// How far each variant's residual stream strays from the baseline's; empty where not measured.
    pub divergence: Vec<DivergenceCurve>,
    /// Drift of every replicated parameter of every stage; empty where not measured.
    pub drift: Vec<ParamDrift>,
    /// What else was found out, a sentence each.
    pub findings: Vec<String>,
    /// How intervals are made.
    pub bootstrap: PairedBootstrap,
}

impl ReportInput {
    /// Every model: the baseline, the variants, the noise floor.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> + Clone {
        std::iter::once(&self.baseline).chain(&self.variants).chain(&self.noise_floor)
    }
}

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

/// What merging a tensor-parallel checkpoint costs: every merge beside the unmerged model, paired by document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kintsugi report")]
pub struct Report {
    /// Version of this format: `1`.
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: String,
    /// The program that made the report.
    pub tool: Tool,
    /// Whether only some of the documents were evaluated: such numbers are for testing the setup, or a part to be joined.
    pub partial: bool,
    /// The checkpoint that was merged.
    pub checkpoint: CheckpointInfo,
    /// What the models were asked.
    pub task: TaskInfo,
    /// How the evaluation ran.
    pub run: RunInfo,
    /// How the statistics were made.
    pub statistics: Statistics,
    /// The unmerged model, every rank with its own copy of the replicated parameters.
    pub baseline: ModelRow,
    /// Every merge, in the order asked for.
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
    /// What else was found out, a sentence each.
    pub findings: Vec<String>,
}

impl Report {
    /// Computes every row.
    ///
    /// # Errors
    /// Models whose samples are not of the same documents in the same order, with the same texts and target tokens; a
    /// number of samples other than `task.documents.effective`; two models of one name; a number that is not finite.
    pub fn new(input: &ReportInput) -> Result<Self, ReportError> {
        check_names(input)?;
        let (expected, found) = (input.task.documents.effective, input.baseline.samples.len());
        if found == 0 || found != expected {
            return Err(ReportError::DocumentCount { name: input.baseline.name.clone(), expected, found });
        }
        let rows = rows::Baseline::new(&input.baseline.samples, input.bootstrap, input.task.rolling);
        let mut files = output::SampleFiles::default();
        let baseline = rows.model_row(&input.baseline, files.baseline())?;
        let mut variants = Vec::with_capacity(input.variants.len());
        for outcome in &input.variants {
            variants.push(rows.variant_row(outcome, files.variant(&outcome.name))?);
        }
        correct_for_multiplicity(&mut variants, &input.baseline.name)?;
        let noise_floor = input
            .noise_floor
            .as_ref()
            .map(|outcome| rows.variant_row(outcome, files.variant(&outcome.name)))
            .transpose()?;

        let documents = input.task.documents;
        let report = Self {
            schema_version: SCHEMA_VERSION.to_owned(),
            tool: Tool { name: "kintsugi".to_owned(), version: input.run.versions.kintsugi.clone() },
            partial: documents.effective + documents.calibration < documents.original,
            checkpoint: input.checkpoint.clone(),
            task: input.task.clone(),
            run: input.run.clone(),
            statistics: Statistics {
                confidence: input.bootstrap.confidence.level(),
                bootstrap_replicates: input.bootstrap.replicate_count,
                bootstrap_seed: input.bootstrap.seed,
            },
            baseline,
            variants,
            noise_floor,
            divergence: input.divergence.clone(),
            drift: input.drift.clone(),
            findings: input.findings.clone(),
        };
        json::check_finite(&report)?;
        Ok(report)
    }

    /// Every row that is compared with the baseline: the variants, then the noise floor.
    pub fn compared(&self) -> impl Iterator<Item = &VariantRow> {
        self.variants.iter().chain(&self.noise_floor)
    }
}

/// Rows are told apart by their names.
fn check_names(input: &ReportInput) -> Result<(), ReportError> {
    let mut seen = HashSet::new();
    match input.outcomes().find(|outcome| !seen.insert(outcome.name.as_str())) {
        Some(outcome) => Err(ReportError::DuplicateName { name: outcome.name.clone() }),
        None => Ok(()),
    }
}

/// Holm's correction over the variants, which all share one baseline.
fn correct_for_multiplicity(variants: &mut [VariantRow], baseline: &str) -> Result<(), ReportError> {
    let p_values: Vec<f64> = variants.iter().map(|row| row.loss.mcnemar_p).collect();
    let corrected =
        stats::holm(&p_values).map_err(|source| ReportError::Stats { name: baseline.to_owned(), source })?;
    for (row, p_value) in variants.iter_mut().zip(corrected) {
        row.loss.mcnemar_p_holm = p_value;
    }
    Ok(())
}
