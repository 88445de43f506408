//! The checkpoint of the commands that take nothing else for a model.

use std::path::PathBuf;

use clap::Args;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::run::ReadingOptions;

/// Which checkpoint.
#[derive(Debug, Clone, Args)]
pub(super) struct CheckpointArgs {
    /// Save directory (its `latest` is followed) or `global_stepN` directory
    pub checkpoint: PathBuf,
    /// How it is read.
    #[command(flatten)]
    pub reading: ReadingOptions,
}

impl CheckpointArgs {
    pub(super) fn open(&self) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open_with(&self.checkpoint, &self.reading.open_options())
    }
}
