//! `kintsugi eval`: the unmerged model alone, also where no exact merge of it exists.

use std::path::PathBuf;

use clap::Args;

use super::args::{EvaluationArgs, ModelArgs};
use super::compare;
use super::output::Screen;

/// Arguments of `eval`.
#[derive(Debug, Clone, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// Write report.html, report.md, report.json, samples and lm-eval files into this folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn run(args: EvalArgs, screen: &Screen) -> anyhow::Result<()> {
    compare::run_baseline(args.model, args.evaluation, args.output_dir, screen)
}
