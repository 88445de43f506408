//! Provenance: everything needed to repeat a result.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::samples::RollingText;

/// The program that made the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// Always `kintsugi`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// How the evaluation ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunInfo {
    /// The command line, program name first; enough to repeat the run.
    pub argv: Vec<String>,
    /// When the run began, RFC 3339, UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started: Timestamp,
    /// Wall-clock seconds from start to the last sample: over all sessions where the run was interrupted, of the slowest run
    /// shard where run shards were joined.
    pub seconds: f64,
    /// The device, such as `NVIDIA H200` or `cpu`.
    pub device: String,
    /// Data type of the matrix products: `f32`, `bf16` or `f16`.
    pub dtype: String,
    /// Number of CPU threads of libtorch.
    pub threads: usize,
    /// Versions of the software.
    pub versions: Versions,
    /// Only the first so many passages were evaluated (`--limit`); absent where all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only this share of the passages was evaluated (`--shard`); absent where all were, or where run shards were joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_shard: Option<RunShard>,
    /// Number of run shards that were joined (`combine`); absent where one process evaluated all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_shards: Option<usize>,
    /// How the run decided when to stop (`--until-decided`); absent where all passages were to be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_decided: Option<UntilDecided>,
    /// Packed tokens per matrix product.
    pub chunk_tokens: usize,
    /// Number of slices the passages were cut into, so that the residual streams fit in memory and results are saved from
    /// time to time; every slice reads the checkpoint once.
    pub slices: usize,
    /// Largest resident memory of the process, in bytes; absent where the system does not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Where the time went; absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<StageSeconds>,
    /// Tokens pushed through each model, targets included.
    pub tokens: u64,
    /// Tokens a second over all models evaluated.
    pub tokens_per_second: f64,
}

/// A run that stops when every model is decided against its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UntilDecided {
    /// The rule by which it stops.
    pub rule: String,
    /// The limits it was judged by: their file, or `built-in`.
    pub limits: String,
    /// Whether every model was decided at the last look; otherwise all passages were evaluated.
    pub decided: bool,
    /// The numbers of passages after which it looked.
    pub looked_after: Vec<usize>,
    /// Passages that it would have evaluated if nothing had been decided.
    pub of: usize,
    /// The passages seen, by `doc_id`, in the random order in which they were seen.
    pub order: Vec<usize>,
}

/// Versions of the software that computed the numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Versions {
    /// Version of kintsugi.
    pub kintsugi: String,
    /// Git commit it was built from; absent where it was built outside a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Version of the libtorch that was loaded.
    pub libtorch: String,
}

/// A share of the passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunShard {
    /// Its number, counted from 1.
    pub index: usize,
    /// Number of run shards.
    pub count: usize,
}

impl fmt::Display for RunShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for RunShard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)));
        match parsed {
            Some((index, count)) if index >= 1 && index <= count => Ok(Self { index, count }),
            _ => Err("expected I/N with 1 ≤ I ≤ N, for example 2/4".to_owned()),
        }
    }
}

/// Seconds spent per kind of work. On GPUs a stage is merged and copied while the one before is computed, so the sum may exceed
/// `run.seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StageSeconds {
    /// Waiting for a stage to be read, on GPUs also to be merged and copied.
    pub read_seconds: f64,
    /// Merging parameters.
    pub merge_seconds: f64,
    /// Forward passes.
    pub compute_seconds: f64,
    /// Copying weights to GPUs ahead of computing; 0 in reports that did not count it.
    #[serde(default)]
    pub copy_seconds: f64,
    /// Measuring how far residual streams are from the baseline's; 0 in reports that did not count it.
    #[serde(default)]
    pub divergence_seconds: f64,
}

/// The checkpoint that was merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckpointInfo {
    /// The directory as it was given.
    pub path: String,
    /// A short name for headings.
    pub name: String,
    /// The training iteration it was saved at.
    pub iteration: u64,
    /// Number of tensor-parallel ranks.
    pub tp_size: usize,
    /// Layout of the files, such as `layer files`.
    pub layout: String,
    /// Data type the parameters are stored in.
    pub dtype: String,
    /// Number of parameters of the model, replicas counted once.
    pub parameter_count: u64,
    /// Size of the files read, in bytes.
    pub bytes: u64,
    /// The architecture: name of a setting to its value.
    pub architecture: Map<String, Value>,
    /// Digest of every file read; absent where they were not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Vec<FileDigest>>,
}

/// The contents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileDigest {
    /// File name, relative to the checkpoint.
    pub file: String,
    /// BLAKE3 of its bytes (256 bits), hexadecimal, as `b3sum` prints it.
    pub blake3: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The task, its data and its tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskInfo {
    /// The task, by lm-evaluation-harness's name where it has it.
    pub name: String,
    /// Version of the task's definition.
    pub version: f64,
    /// The data file.
    pub data: DataInfo,
    /// Number of passages in all and evaluated.
    pub passages: PassageCounts,
    /// The tokenizer.
    pub tokenizer: TokenizerInfo,
    /// How a passage becomes context and target.
    pub splitting: String,
    /// Number of passages whose context was cut at its beginning to fit the model.
    pub truncated_count: usize,
    /// Size of the texts where every token of whole texts is predicted. Passages are windows then, perplexities are per
    /// word, and accuracies are those of the greedy next token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolling: Option<RollingText>,
}

/// The data file of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataInfo {
    /// File name.
    pub file: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Whether it is, byte for byte, the file that the task pins; absent where the task pins none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_task_data: Option<bool>,
    /// The same in a sentence that names the difference.
    pub identity: String,
}

/// Numbers of passages, by lm-evaluation-harness's names (`n-samples`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassageCounts {
    /// Passages in the data file.
    pub original: usize,
    /// Passages evaluated.
    pub effective: usize,
}

/// The tokenizer of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenizerInfo {
    /// File name.
    pub file: String,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// Tokens around every text: `none` or `bos`; where the tokenizer would end a text, `, eos at the end ignored` follows.
    #[serde(default)]
    pub special_tokens: String,
}

#[cfg(test)]
mod tests {
    use super::RunShard;

    #[test]
    fn run_shards_are_counted_from_one() {
        assert_eq!("2/4".parse(), Ok(RunShard { index: 2, count: 4 }));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<RunShard>().is_err(), "{wrong}");
        }
    }
}
