//! Arguments of what needs a forward pass. Every build understands them; one without libtorch hands the command over to the
//! executable that has it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::run_file::RunFileArgs;
use crate::options::DeviceChoice;
use crate::run::{OutputOptions, ReadingOptions, Request, ResourceOptions, StrategyOptions, TaskOptions};

#[derive(Debug, Clone, Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    pub request: Request,
    #[command(flatten)]
    pub run_file: RunFileArgs,
    /// Check everything and print what would be read, computed and written, but compute nothing
    ///
    /// Checks names, shapes, passages, tokenizer, device, memory and disk.
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(super) struct EvalArgs {
    /// A checkpoint (save directory or `global_stepN` directory), a Hugging Face directory, or a name on the Hub (EleutherAI/pythia-160m)
    ///
    /// Names are OWNER/NAME or OWNER/NAME@REVISION. Of a save directory its `latest` is followed. Hugging Face: GPT-NeoX, Llama,
    /// Mistral, Qwen2, Qwen3, GPT-2.
    pub model: PathBuf,
    #[command(flatten)]
    pub task: TaskOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    #[command(flatten)]
    pub resources: ResourceOptions,
    #[command(flatten)]
    pub reading: ReadingOptions,
    #[command(flatten)]
    pub run_file: RunFileArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct ExplainArgs {
    /// Save directory (its `latest` is followed) or `global_stepN` directory
    pub checkpoint: PathBuf,
    #[command(flatten)]
    pub task: TaskOptions,
    #[command(flatten)]
    pub strategies: StrategyOptions,
    #[command(flatten)]
    pub output: OutputOptions,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub resources: ResourceOptions,
    #[command(flatten)]
    pub reading: ReadingOptions,
    #[command(flatten)]
    pub run_file: RunFileArgs,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// Write the report into this folder
    #[arg(long, value_name = "DIR", default_value = "kintsugi-out/demo")]
    pub output_dir: PathBuf,
    /// auto, cpu, cuda, or cuda:N[,N…]
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    #[command(flatten)]
    pub of_model: ModelOptions,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Another model")]
pub(super) struct ModelOptions {
    /// Take this model: a name on the Hugging Face Hub (EleutherAI/pythia-160m), or a Hugging Face directory
    ///
    /// It is split among ranks in gpt-neox's files, and each rank's copies of norms and row-parallel biases are changed a
    /// little, as training leaves them. The files need the model's size on the disk of --output-dir, and are removed in
    /// the end.
    #[arg(long, value_name = "NAME|DIR")]
    pub model: Option<PathBuf>,
    /// Number of ranks
    #[arg(long, value_name = "N", default_value_t = 2, requires = "model")]
    pub tensor_parallel: usize,
    /// Drift of the ranks' copies, relative to each value
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01, requires = "model")]
    pub drift: f64,
    /// Passages [default: LAMBADA, from the Hugging Face cache or Hub]
    #[arg(long, value_name = "FILE", requires = "model")]
    pub data: Option<PathBuf>,
    /// Only the first N passages, for a quick trial; the report is marked as partial
    #[arg(long, value_name = "N", requires = "model")]
    pub limit: Option<NonZeroUsize>,
    /// A tokenizer.json, or a name on the Hugging Face Hub [default: the model's]
    #[arg(long, value_name = "FILE|NAME", requires = "model")]
    pub tokenizer: Option<PathBuf>,
    /// Keep the ranks' files, in the folder `checkpoint` of --output-dir
    #[arg(long, requires = "model")]
    pub keep_checkpoint: bool,
}

/// How a measurement is repeated.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Measurement")]
pub(super) struct MeasurementOptions {
    /// Built-in task, or a task file [default: the certificate's]
    #[arg(long, value_name = "NAME|FILE", requires = "checkpoint")]
    pub task: Option<String>,
    /// Passages [default: as for `compare`]
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    pub data: Option<PathBuf>,
    /// A tokenizer.json, or a name on the Hugging Face Hub [default: as for `compare`]
    #[arg(long, value_name = "FILE|NAME", requires = "checkpoint")]
    pub tokenizer: Option<PathBuf>,
    /// Longest input in tokens, where `compare` was given one
    #[arg(long, value_name = "TOKENS", requires = "checkpoint")]
    pub max_length: Option<usize>,
    #[command(flatten)]
    pub resources: ResourceOptions,
}
