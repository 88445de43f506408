//! `kintsugi diff`: two models tensor by tensor.

use std::path::{Path, PathBuf};

use clap::Args;

use super::screen::Screen;
use crate::checkpoint::{Checkpoint, MegatronCheckpoint, OpenOptions, open_model};
use crate::error::Result;
use crate::merge::diff_models;
use crate::report::{self, TerminalStyle};
use crate::run::{ReadingOptions, model_path};

#[derive(Debug, Clone, Args)]
pub(super) struct DiffArgs {
    /// A model: a checkpoint of gpt-neox with any number of ranks, a Hugging Face directory, or a name on the Hub
    a: PathBuf,
    /// The model to compare it with
    ///
    /// Parameters are paired by their function, whatever they are called; copies on several ranks are compared with one copy
    /// by the rule (`rank K`, mean or sum) that comes closest.
    b: PathBuf,
    /// List identical parameters too
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingOptions,
}

pub(super) fn run(args: &DiffArgs, screen: &Screen) -> Result<()> {
    let place = |given: &Path| model_path(given, &mut screen.download_bar());
    let (a, b) = (place(&args.a)?, place(&args.b)?);
    // How to read a format's files goes for whichever of the two is of it.
    let open = |path: &Path| {
        let mut options = args.reading.open_options();
        let of_other = |is_at: fn(&Path) -> bool| (is_at(&a) || is_at(&b)) && !is_at(path);
        if of_other(Checkpoint::is_at) {
            options = OpenOptions { megatron_args: options.megatron_args, ..OpenOptions::default() };
        }
        if of_other(MegatronCheckpoint::is_at) {
            options.megatron_args.clear();
        }
        open_model(path, &options)
    };
    let (left, right) = (open(&a)?, open(&b)?);
    let diff = diff_models(&*left, &*right)?;
    if args.json {
        return screen.json(&diff);
    }
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_model_diff(&diff, args.all, style))
}
