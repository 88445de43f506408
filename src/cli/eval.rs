//! `kintsugi eval`: one model alone.

use std::path::PathBuf;

use clap::Args;

use super::run_file::RunFileArgs;
use super::screen::Screen;
use super::show::show_finished;
use crate::error::Result;
use crate::run::{self, OutputOptions, ReadingOptions, Request, ResourceOptions, TaskOptions};

#[derive(Debug, Clone, Args)]
pub(super) struct EvalArgs {
    /// A checkpoint (save directory or `global_stepN` directory), a Hugging Face directory, or a name on the Hub (EleutherAI/pythia-160m)
    ///
    /// Names are OWNER/NAME or OWNER/NAME@REVISION. Of a save directory its `latest` is followed. Hugging Face: GPT-NeoX, Llama,
    /// Mistral, Qwen2, Qwen3, GPT-2.
    model: PathBuf,
    #[command(flatten)]
    task: TaskOptions,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    resources: ResourceOptions,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    run_file: RunFileArgs,
}

pub(super) fn run(args: EvalArgs, screen: &Screen) -> Result<()> {
    let EvalArgs { model, task, mut output, resources, reading, run_file } = args;
    let caller = screen.caller(&mut output)?;
    run_file.announce();
    let request = Request { checkpoint: model, task, output, resources, reading, ..Request::default() };
    show_finished(&run::evaluate(&request, &caller)?, screen)
}
