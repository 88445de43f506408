//! `kintsugi diff`: two models tensor by tensor.

use std::path::{Path, PathBuf};

use clap::Args;

use super::screen::Screen;
use crate::checkpoint::{Checkpoint, ModelSource, OpenOptions, open_model};
use crate::error::Result;
use crate::merge::diff_models;
use crate::report::{self, TerminalStyle};
use crate::run::ReadingOptions;

#[derive(Debug, Clone, Args)]
pub(super) struct DiffArgs {
    /// A model: a checkpoint of gpt-neox with any number of ranks, or a Hugging Face directory
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
    let (left, right) = (args.open(&args.a)?, args.open(&args.b)?);
    let diff = diff_models(&*left, &*right)?;
    if args.json {
        return screen.json(&diff);
    }
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_model_diff(&diff, args.all, style))
}

impl DiffArgs {
    /// How to read gpt-neox's files goes for whichever of the two is gpt-neox's.
    fn open(&self, path: &Path) -> Result<Box<dyn ModelSource>> {
        let neox = self.reading.open_options();
        let any_of_neox = Checkpoint::is_at(&self.a) || Checkpoint::is_at(&self.b);
        let options = if any_of_neox && !Checkpoint::is_at(path) { OpenOptions::default() } else { neox };
        Ok(open_model(path, &options)?)
    }
}
