//! Reports: what every model scored on the same passages, what each merge loses against the unmerged baseline, and the
//! renderings of it. A report is built from samples and runs nothing; the numbers come from `stats`.
//!
//! `contents.rs` is the report, `build.rs` computes it from a run (`rows.rs` a row of it), `standing.rs` judges
//! rows, `verdict.rs` puts all into words. Renderings: `json.rs` is the format other programs read; `terminal.rs`, `markdown.rs` and `html/` are for people;
//! `lm_eval/` is for lm-evaluation-harness's tools. `output.rs` writes an output directory, `report_files.rs` reads it.
//! `certificate.rs` is what was proven of one row, to be kept beside the merge. `inspection.rs` is the result of `inspect`, `explanation.rs` that of `explain`, `model_diff.rs` shows that of `diff`.

mod build;
mod candidate;
mod certificate;
mod contents;
mod error;
mod explanation;
mod format;
mod html;
mod info;
mod inspection;
mod json;
mod judged;
mod lm_eval;
mod markdown;
mod model;
mod model_diff;
mod output;
mod output_dir;
mod page;
mod picture;
mod plots;
mod report_files;
mod rows;
mod standing;
mod table;
mod terminal;
mod verdict;
mod why;

#[cfg(test)]
mod tests;

pub use build::ReportInput;
pub use candidate::{CandidateInfo, ExceptionInfo, SettingDifference};
pub use certificate::{
    Certificate, CertifiedCandidate, CertifiedCheckpoint, CertifiedModel, CertifiedScores, read_certificate,
};
pub use contents::{Report, SCHEMA_VERSION, Statistics};
pub use error::ReportError;
pub use explanation::{
    DivergenceCurve, Effect, Explanation, FactorEffect, ScaleEffect, StrategyEffect, render_explanation,
};
pub use html::render_html;
pub use info::{
    CheckpointInfo, DataInfo, FileDigest, PassageCounts, RunInfo, RunShard, StageSeconds, TaskInfo, TokenizerInfo,
    Tool, UntilDecided, Versions,
};
pub use inspection::{
    DTypeCount, INSPECTION_VERSION, Inspection, Judgement, ParameterRow, Vocabulary, render_drift_svg,
    render_inspection,
};
pub use json::{parse_json, read_json, schema, to_json, write_json};
pub use judged::{LimitVerdict, LimitsInfo};
pub use lm_eval::write_lm_eval;
pub use markdown::render_markdown;
pub use model::{Exact, ModelRecord, ModelRole, StrategyDigest};
pub use model_diff::render_model_diff;
pub use output::{write_all, write_explanation};
pub(crate) use output_dir::write_atomically;
pub use output_dir::{OutputDir, prepare_output};
pub use page::TerminalStyle;
pub(crate) use page::{Entry, render_table};
pub use report_files::{ReportFiles, Results};
pub use rows::{Loss, ModelRow, VariantRow};
pub use standing::Standing;
pub use terminal::render_terminal;
