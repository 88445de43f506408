//! What was proven of one merge, small enough to lie beside it: which files were compared, on what, and the bounds of the losses.

use std::fmt::Write as _;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::candidate::{CandidateInfo, SettingDifference};
use super::contents::Report;
use super::error::ReportError;
use super::format;
use super::info::{CheckpointInfo, FileDigest, TaskInfo, Tool, Versions};
use super::json;
use super::judged::LimitVerdict;
use super::model::StrategyDigest;
use super::rows::{ModelRow, VariantRow};
use super::standing::Standing;
use crate::limits::{Rounding, bound, limit, loss};
use crate::stats::Verdict;

/// Version of the format. It is raised when a field changes its meaning or is removed, not when one is added.
const CERTIFICATE_VERSION: &str = "1";

/// The largest certificate that is read; most of one is digests.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What `kintsugi verify` checks a merge against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of this format: `1`.
    #[serde(rename = "certificate_version")]
    pub version: String,
    /// The program that wrote it.
    pub tool: Tool,
    /// When the evaluation began, RFC 3339, UTC.
    pub evaluated: Timestamp,
    /// Versions of the software that computed the numbers.
    pub versions: Versions,
    /// Where it ran, such as `NVIDIA H200` or `cpu`.
    pub device: String,
    /// Data type of the matrix products.
    pub dtype: String,
    /// Whether only some of the passages were evaluated.
    pub partial: bool,
    /// The rule by which the run stopped when its limits were decided; absent where all passages were to be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_rule: Option<String>,
    /// The unmerged model.
    pub checkpoint: CertifiedCheckpoint,
    /// The merge.
    pub model: CertifiedModel,
    /// The task, with the digests of its data and tokenizer.
    pub task: TaskInfo,
    /// The scores of the unmerged model.
    pub baseline: CertifiedScores,
    /// Those of the merge.
    pub merged: CertifiedScores,
    /// What the limits amount to.
    pub standing: Standing,
    /// Chance α of a false verdict: of *within* for each limit, of *beyond* for all limits of the report together.
    pub significance: f64,
    /// Where the limits come from: a file, or `built-in`.
    pub limits_origin: String,
    /// Each limit, the bounds of the loss, and what they prove at α.
    pub limits: Vec<LimitVerdict>,
}

/// The checkpoint that was merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertifiedCheckpoint {
    /// A short name.
    pub name: String,
    /// The training iteration it was saved at.
    pub iteration: u64,
    /// Number of tensor-parallel ranks.
    pub tp_size: usize,
    /// Data type the parameters are stored in, and those of the merge that was evaluated.
    pub dtype: String,
    /// The architecture: name of a setting to its value.
    pub architecture: Map<String, Value>,
    /// The files with its weights.
    pub files: Vec<FileDigest>,
}

/// The merge that was evaluated: `strategies` or `candidate` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertifiedModel {
    /// Its name in the report.
    pub name: String,
    /// The strategies that make it of the checkpoint; empty for a candidate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strategies: Vec<StrategyDigest>,
    /// Whether it is the unmerged model in exact arithmetic; absent where this is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// A merge made by another tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CertifiedCandidate>,
}

/// A merge made by another tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CertifiedCandidate {
    /// Its format, such as `Hugging Face GPTNeoXForCausalLM`.
    pub format: String,
    /// Settings that are not the checkpoint's.
    pub settings: Vec<SettingDifference>,
    /// The files with its weights.
    pub files: Vec<FileDigest>,
}

/// The scores of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CertifiedScores {
    /// Perplexity per passage.
    pub perplexity: f64,
    /// Accuracy, a fraction.
    pub acc: f64,
}

impl CertifiedScores {
    fn of(row: &ModelRow) -> Self {
        Self { perplexity: row.perplexity, acc: row.acc }
    }
}

/// Reads a certificate. Unknown fields are ignored.
///
/// # Errors
/// A file that cannot be read, is no certificate, or has a version that this program does not know.
pub fn read_certificate(path: &Path) -> Result<Certificate, ReportError> {
    Certificate::parse(&json::read(path, MAX_FILE_BYTES)?, path)
}

impl Certificate {
    /// Of the row of this name, or of the only one.
    ///
    /// # Errors
    /// No such row, or several and no name; a row without limits; a report without digests.
    pub fn new(report: &Report, tool: Tool, model: Option<&str>) -> Result<Self, ReportError> {
        let row = choose(report, model)?;
        let lacks = |what| ReportError::NotCertifiable { name: row.model.name.clone(), lacks: what };
        let CheckpointInfo { name, iteration, tp_size, dtype, architecture, digests, .. } = report.checkpoint.clone();
        let files = digests.ok_or_else(|| lacks("digests of the checkpoint"))?;
        let candidate = match row.candidate.clone() {
            None => None,
            Some(CandidateInfo { format, settings, digests, .. }) => {
                let files = digests.ok_or_else(|| lacks("digests of its files"))?;
                Some(CertifiedCandidate { format, settings, files })
            }
        };
        if candidate.is_none() && row.strategies.is_empty() {
            return Err(lacks("digest of its strategy"));
        }
        if row.verdicts.is_empty() {
            return Err(lacks("limits"));
        }
        Ok(Self {
            version: CERTIFICATE_VERSION.to_owned(),
            tool,
            evaluated: report.run.started,
            versions: report.run.versions.clone(),
            device: report.run.device.clone(),
            dtype: report.run.dtype.clone(),
            partial: report.partial,
            stopping_rule: report.run.until_decided.as_ref().map(|until| until.rule.clone()),
            checkpoint: CertifiedCheckpoint { name, iteration, tp_size, dtype, architecture, files },
            model: CertifiedModel {
                name: row.model.name.clone(),
                strategies: row.strategies.clone(),
                exact: row.exact.as_ref().map(|exact| exact.exact),
                candidate,
            },
            task: report.task.clone(),
            baseline: CertifiedScores::of(&report.baseline),
            merged: CertifiedScores::of(&row.model),
            standing: Standing::of(&row.verdicts),
            significance: report.limits.significance,
            limits_origin: report.limits.origin.clone(),
            limits: row.verdicts.clone(),
        })
    }

    /// Of bytes; `path` is named in errors.
    ///
    /// # Errors
    /// As [`read_certificate`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, ReportError> {
        json::parse_certificate(bytes, path, CERTIFICATE_VERSION)
    }

    /// As pretty-printed JSON with a final line break.
    ///
    /// # Errors
    /// [`ReportError::Json`] where it cannot be written as text.
    pub fn to_json(&self) -> Result<String, ReportError> {
        json::pretty(self)
    }

    /// A section for a model card.
    pub fn to_markdown(&self) -> String {
        let Self { checkpoint, model, task, baseline, merged, .. } = self;
        let made = match (&model.candidate, &model.strategies[..]) {
            (Some(candidate), _) => format!("`{}` ({})", model.name, candidate.format),
            (None, strategies) => {
                let names: Vec<_> = strategies.iter().map(|strategy| format!("`{}`", strategy.name)).collect();
                format!("strategy {}", names.join(" = "))
            }
        };
        let partial = if self.partial { format!(" of {}", task.passages.original) } else { String::new() };
        let mut text = format!(
            "## Certificate: {}\n\n{made}, compared with the unmerged checkpoint {} (step {}, {}) on {}{partial} passages of \
             {} by kintsugi {} on {}, {}, in {}. Bounds are one-sided, at α = {}.{}\n\n| criterion | seen | bound | limit | verdict |\n\
             |---|---|---|---|---|\n",
            self.standing.words(),
            checkpoint.name,
            checkpoint.iteration,
            format::count(checkpoint.tp_size, "rank"),
            task.passages.effective,
            task.name,
            self.versions.kintsugi,
            self.device,
            self.evaluated.strftime("%Y-%m-%d"),
            self.dtype,
            self.significance,
            self.stopping_rule.as_ref().map(|rule| format!(" Stopping rule: {rule}.")).unwrap_or_default(),
        );
        for proven in &self.limits {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                proven.criterion.name(),
                loss(proven.criterion, proven.loss, Rounding::Nearest),
                bound(proven.criterion, proven.verdict, proven.lower.zip(proven.upper)),
                limit(proven.criterion, proven.limit),
                if undecided_counts_not(proven) { "undecided, which may stay" } else { proven.verdict.word() },
            );
        }
        let scores = |scores: &CertifiedScores| {
            format!("perplexity {}, accuracy {} %", format::perplexity(scores.perplexity), format::points(scores.acc))
        };
        let _ = write!(
            text,
            "\n- unmerged: {}; merge: {}\n- data: SHA-256 `{}`\n- tokenizer: SHA-256 `{}`\n",
            scores(baseline),
            scores(merged),
            task.data.sha256,
            task.tokenizer.sha256
        );
        let _ = writeln!(text, "- checkpoint: {}", of_files(&checkpoint.files));
        match &model.candidate {
            Some(candidate) => {
                let _ = writeln!(text, "- merge: {}", of_files(&candidate.files));
            }
            None => model.strategies.iter().for_each(|StrategyDigest { name, blake3 }| {
                let _ = writeln!(text, "- strategy {name}: BLAKE3 `{blake3}`");
            }),
        }
        text.push_str("\n`kintsugi verify CERTIFICATE MERGE` checks the digests.\n");
        text
    }
}

fn undecided_counts_not(proven: &LimitVerdict) -> bool {
    proven.verdict == Verdict::Undecided && proven.may_stay_undecided
}

/// One digest for many files: that of the sorted output of `b3sum`.
fn of_files(files: &[FileDigest]) -> String {
    let mut lines: Vec<_> = files.iter().map(|file| format!("{}  {}\n", file.blake3, file.file)).collect();
    lines.sort();
    format!(
        "{}, BLAKE3 of the sorted lines of `b3sum`: `{}`",
        format::count(files.len(), "file"),
        blake3::hash(lines.concat().as_bytes())
    )
}

fn choose<'a>(report: &'a Report, model: Option<&str>) -> Result<&'a VariantRow, ReportError> {
    let rows = &report.variants[..];
    let known = || rows.iter().map(|row| row.model.name.as_str()).collect::<Vec<_>>().join(", ");
    match (model, rows) {
        (Some(name), _) => rows
            .iter()
            .find(|row| row.model.is_called(name))
            .ok_or_else(|| ReportError::NoRow { name: name.to_owned(), known: known() }),
        (None, [row]) => Ok(row),
        (None, []) => Err(ReportError::NothingToCertify),
        (None, _) => Err(ReportError::ManyRows { known: known() }),
    }
}
