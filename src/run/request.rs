//! What a run is asked for. A flag, a key of a run file, a variable `KINTSUGI_…` and a method of
//! [`Comparison`](crate::Comparison) are one field here.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use super::named_path::NamedPath;
use super::reading::ReadingOptions;
use super::strategies::StrategyOptions;
use super::text::{as_list, as_option, as_text};
use crate::options::{Compute, DeviceChoice, SpecialTokens};
use crate::report::RunShard;
use crate::stats::PairedBootstrap;

/// What `compare` is asked for; `eval` and `explain` take a part of it.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Request {
    /// Save directory (its `latest` is followed), `global_stepN` directory, Hugging Face directory, or a name on the Hub
    pub checkpoint: PathBuf,
    /// The task, its passages and its tokenizer.
    #[command(flatten)]
    #[serde(flatten)]
    pub task: TaskOptions,
    /// The merges to judge.
    #[command(flatten)]
    #[serde(flatten)]
    pub strategies: StrategyOptions,
    /// Judge a merge by another tool like a strategy (repeatable; NAME= names its row)
    ///
    /// A Hugging Face directory (GPT-NeoX, Llama, Mistral, Qwen2, Qwen3, GPT-2; safetensors or pytorch_model.bin), a name on the
    /// Hub, or a gpt-neox checkpoint with any number of ranks. If its vocabulary is padded or trimmed differently, its probabilities are over
    /// its own vocabulary, and KL is between both distributions renormalised over the tokens that both have.
    #[arg(long = "candidate", value_name = "[NAME=]DIR", help_heading = "Strategies")]
    #[serde(with = "as_list", rename = "candidate")]
    pub candidates: Vec<NamedPath>,
    /// Where results go.
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputOptions,
    /// Device, type, memory.
    #[command(flatten)]
    #[serde(flatten)]
    pub resources: ResourceOptions,
    /// How losses are measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub statistics: StatisticsOptions,
    /// How the checkpoint is read.
    #[command(flatten)]
    #[serde(flatten)]
    pub reading: ReadingOptions,
}

/// What is evaluated on.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Task")]
#[serde(default, rename_all = "kebab-case")]
pub struct TaskOptions {
    /// Built-in task, or a task file
    #[arg(long, value_name = "NAME|FILE", default_value_t = Self::default().task)]
    pub task: String,
    /// Passages: a JSON object with `text` a line, or one passage a line
    ///
    /// Default: the task's own file, from the Hugging Face cache or Hub if it is not in the working directory.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// A tokenizer.json, or a name on the Hugging Face Hub (EleutherAI/gpt-neox-20b)
    ///
    /// Default: the file that the checkpoint's configuration names, else `tokenizer.json` or `20B_tokenizer.json` beside it.
    #[arg(long, value_name = "FILE|NAME")]
    pub tokenizer: Option<PathBuf>,
    /// Begin every text with BOS: auto (if the tokenizer itself does, as Llama's), yes or no
    ///
    /// As `add_bos_token` of lm-evaluation-harness. No token is ever put behind a text, even if the tokenizer does it.
    #[arg(long, value_name = "CHOICE", default_value_t)]
    #[serde(with = "as_text")]
    pub add_special_tokens: SpecialTokens,
    /// Only the first N passages, for a quick trial; the report is marked as partial
    #[arg(long, value_name = "N", value_parser = count(u32::MAX))]
    pub limit: Option<usize>,
    /// Longest input in tokens; longer contexts lose tokens on the left
    ///
    /// Default: the model's `max_position_embeddings`.
    #[arg(long, value_name = "TOKENS", value_parser = count(u32::MAX))]
    pub max_length: Option<usize>,
    /// Text for fold-calibrated to measure with: plain, or a JSON object with `text` a line
    ///
    /// None of it may be scored. Default: the beginning of a novel that comes with kintsugi.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            task: "lambada_openai".to_owned(),
            data: None,
            tokenizer: None,
            add_special_tokens: SpecialTokens::default(),
            limit: None,
            max_length: None,
            calibration: None,
        }
    }
}

/// Where and in which portions it is computed.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Resources")]
#[serde(default, rename_all = "kebab-case")]
pub struct ResourceOptions {
    /// auto, cpu, cuda, or cuda:N[,N…]; auto takes all GPUs if there are any
    #[arg(long, value_name = "DEVICE", default_value_t)]
    #[serde(with = "as_text")]
    pub device: DeviceChoice,
    /// Type to compute in: auto (the checkpoint's on a GPU, f32 on a CPU), f32, bf16, f16 or f64
    #[arg(long, value_name = "TYPE", default_value_t)]
    #[serde(with = "as_text")]
    pub dtype: Compute,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = count(u16::MAX.into()))]
    pub threads: Option<usize>,
    /// Memory for residual streams, for example 8GiB or 500MB [default: half of what is available; on a GPU 85 % of what
    /// weights and activations leave]
    #[arg(long, value_name = "BYTES", value_parser = super::bytes::parse_bytes)]
    pub memory_budget: Option<u64>,
    /// Tokens that go through a layer together [default: by device]
    #[arg(long, value_name = "N", value_parser = count(u32::MAX))]
    pub chunk_tokens: Option<usize>,
    /// Tokens of a slice [default: about a minute's work, more where reading takes long]
    ///
    /// After each slice the results are on disk (with --output-dir), and the checkpoint is read again for the next.
    #[arg(long, value_name = "N", value_parser = count(u32::MAX))]
    pub slice_tokens: Option<usize>,
}

/// Where results go.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Output")]
#[serde(default, rename_all = "kebab-case")]
pub struct OutputOptions {
    /// Write the report, its page and plots, samples and lm-eval files into this folder
    ///
    /// An interrupted run goes on where it was when the same command is given again.
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Discard what an earlier run has left in --output-dir instead of going on with it
    #[arg(long)]
    pub restart: bool,
    /// Only the I-th of N shares of the passages (counted from 1); `combine` joins them
    ///
    /// Default: from the environment of torchrun, Slurm, Open MPI or Kubernetes, else everything (1/1).
    #[arg(long, value_name = "I/N")]
    #[serde(with = "as_option")]
    pub shard: Option<RunShard>,
}

/// How losses are measured.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Statistics")]
#[serde(default, rename_all = "kebab-case")]
pub struct StatisticsOptions {
    /// Leave out the noise floor: the baseline's second run, summed in another order
    #[arg(long)]
    pub no_noise_floor: bool,
    /// Resamples of the paired bootstrap
    #[arg(long, value_name = "N", default_value_t = Self::default().bootstrap_replicates, value_parser = count(u32::MAX))]
    pub bootstrap_replicates: usize,
    /// Seed of the paired bootstrap and of the order of --until-decided
    #[arg(long, value_name = "SEED", default_value_t = Self::default().seed)]
    pub seed: u64,
    /// Stop as soon as every model is decided against its limits
    ///
    /// The passages are evaluated in a random order (--seed), and after 64, 96, 144, … of them every limit of every model is judged
    /// with confidence sequences, whose errors hold wherever one stops. A model is decided when one of its limits is beyond, or
    /// when all are within but those that may stay undecided (`allow-undecided`: of the built-in limits the accuracy's, which takes
    /// thousands of passages). The report says so, and its numbers are those of the passages seen. The checkpoint is read again
    /// after every look. Not for shards, nor for tasks of whole texts.
    #[arg(long)]
    pub until_decided: bool,
    /// Limits for --until-decided [default: the built-in ones of `gate`]
    #[arg(long, value_name = "FILE", requires = "until_decided")]
    pub gates: Option<PathBuf>,
}

impl Default for StatisticsOptions {
    fn default() -> Self {
        let PairedBootstrap { replicate_count, seed, .. } = PairedBootstrap::default();
        Self { no_noise_floor: false, bootstrap_replicates: replicate_count, seed, until_decided: false, gates: None }
    }
}

impl StatisticsOptions {
    /// The bootstrap that is asked for.
    pub fn bootstrap(&self) -> PairedBootstrap {
        let (replicate_count, seed) = (self.bootstrap_replicates, self.seed);
        PairedBootstrap { replicate_count, seed, ..PairedBootstrap::default() }
    }
}

/// What fold-calibrated needs where the ranks' residual streams differ.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Calibration (fold-calibrated)")]
pub struct CalibrationOptions {
    /// Text to calibrate with: plain, or a JSON object with `text` a line
    ///
    /// Default: the beginning of a novel that comes with kintsugi, as in `compare`.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Device of the calibration: auto, cpu, cuda, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,
}

/// A count from 1 to this.
fn count(max: u32) -> impl TypedValueParser<Value = usize> {
    RangedU64ValueParser::<u64>::new()
        .range(1..=u64::from(max))
        .map(|count| usize::try_from(count).unwrap_or(usize::MAX))
}
