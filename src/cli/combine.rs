//! `kintsugi combine`: the report of a run whose run shards several processes have computed.

use std::path::PathBuf;

use clap::Args;

use super::screen::Screen;
use super::show::show_finished;
use crate::error::Result;
use crate::run;

#[derive(Debug, Clone, Args)]
pub(super) struct CombineArgs {
    /// Folders of the shards' journals (OUT/shards/I-of-N), or the folder that holds these
    ///
    /// Every passage must be in exactly one of the journals.
    #[arg(required = true, value_name = "DIR")]
    journals: Vec<PathBuf>,
    /// Write the report into this folder
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
}

pub(super) fn run(args: &CombineArgs, screen: &Screen) -> Result<()> {
    show_finished(&run::combine(&args.journals, &args.output_dir)?, screen)
}
