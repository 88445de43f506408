//! `kintsugi explain`: which group of parameters costs what, and why.

use std::path::PathBuf;

use clap::Args;

use super::run_file::RunFileArgs;
use super::screen::Screen;
use crate::error::Result;
use crate::report::{self, TerminalStyle};
use crate::run::{self, OutputOptions, ReadingOptions, Request, ResourceOptions, StrategyOptions, TaskOptions};

#[derive(Debug, Clone, Args)]
pub(super) struct ExplainArgs {
    /// Save directory (its `latest` is followed) or `global_stepN` directory
    checkpoint: PathBuf,
    #[command(flatten)]
    task: TaskOptions,
    #[command(flatten)]
    strategies: StrategyOptions,
    #[command(flatten)]
    output: OutputOptions,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    resources: ResourceOptions,
    #[command(flatten)]
    reading: ReadingOptions,
    #[command(flatten)]
    run_file: RunFileArgs,
}

pub(super) fn run(args: ExplainArgs, screen: &Screen) -> Result<()> {
    let ExplainArgs { checkpoint, task, strategies, mut output, json, resources, reading, run_file } = args;
    let caller = screen.caller(&mut output)?;
    run_file.announce();
    let request = Request { checkpoint, task, strategies, output, resources, reading, ..Request::default() };
    let (explanation, output) = run::explain(&request, &caller)?;
    if let Some(output) = output {
        tracing::info!("explanation in {} (open report.html)", output.path().display());
    }
    if json {
        return screen.json(&explanation);
    }
    let style = TerminalStyle { width: Screen::width(), styled: false };
    screen.data(&report::render_explanation(&explanation, style))
}
