//! `kintsugi eval`: one model alone: an unmerged checkpoint (also where no exact merge of it exists), a merged one, or a
//! Hugging Face directory.

use std::path::PathBuf;

use clap::Args;

use super::args::{EvaluationArgs, ReadingArgs};
use super::compare;
use super::output::Screen;

/// Arguments of `eval`.
#[derive(Debug, Clone, Args)]
pub(super) struct EvalArgs {
    /// Save directory of a checkpoint (its `latest` is followed), `global_stepN` directory, or Hugging Face directory
    /// (GPTNeoXForCausalLM or LlamaForCausalLM).
    model: PathBuf,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// Write report.html, report.md, report.json, samples and lm-eval files into this folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn run(args: EvalArgs, screen: &Screen) -> anyhow::Result<()> {
    compare::run_alone((args.model, &args.reading), args.evaluation, args.output_dir, screen)
}
