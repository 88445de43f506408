//! `kintsugi compare`: the main job.

use clap::Args;

use super::dry_run;
use super::run_file::RunFileArgs;
use super::screen::Screen;
use super::show::show_finished;
use crate::error::Result;
use crate::run::{self, Request};

#[derive(Debug, Clone, Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    request: Request,
    #[command(flatten)]
    run_file: RunFileArgs,
    /// Check everything and print what would be read, computed and written, but compute nothing
    ///
    /// Checks names, shapes, passages, tokenizer, device, memory and disk.
    #[arg(long, help_heading = "Output")]
    dry_run: bool,
}

pub(super) fn run(mut args: CompareArgs, screen: &Screen) -> Result<()> {
    let caller = screen.caller(&mut args.request.output)?;
    args.run_file.announce();
    if args.dry_run {
        return dry_run::show(&run::forecast(&args.request, &caller)?, screen);
    }
    show_finished(&run::compare(&args.request, &caller)?, screen)
}
