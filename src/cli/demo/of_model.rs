//! `kintsugi demo --model`: the main job on a model from the Hugging Face Hub, split among ranks whose replicas drift apart.

use std::path::{Path, PathBuf};

use clap::Args;
use fs_err as fs;
use indicatif::BinaryBytes;
use tempfile::TempDir;

use super::super::screen::Screen;
use super::super::show::show_finished;
use crate::checkpoint::{ModelSource, OpenOptions, open_model};
use crate::error::{Error, Result};
use crate::files::free_bytes;
use crate::run::{self, OutputOptions, Request, ResourceOptions, TaskOptions, model_path};

/// The checkpoint's name in the output folder.
const CHECKPOINT: &str = "checkpoint";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Another model")]
pub(super) struct ModelOptions {
    /// Take this model: a name on the Hugging Face Hub (EleutherAI/pythia-160m), or a Hugging Face directory
    ///
    /// It is split among ranks as gpt-neox would have trained it, and each rank's copies of norms and row-parallel biases are
    /// changed a little, so that what a merge loses is lost by a model that knows something. The files need the model's size
    /// on the disk of --output-dir, and are removed in the end.
    #[arg(long, value_name = "NAME|DIR")]
    model: Option<PathBuf>,
    /// Number of ranks
    #[arg(long, value_name = "N", default_value_t = 2, requires = "model")]
    tensor_parallel: usize,
    /// Drift of the ranks' copies, relative to each value
    #[arg(long, value_name = "FRACTION", default_value_t = 0.01, requires = "model")]
    drift: f64,
    /// Passages [default: LAMBADA, from the Hugging Face cache or Hub]
    #[arg(long, value_name = "FILE", requires = "model")]
    data: Option<PathBuf>,
    /// Only the first N passages
    #[arg(long, value_name = "N", requires = "model")]
    limit: Option<usize>,
    /// Keep the ranks' files, in the folder `checkpoint` of --output-dir
    #[arg(long, requires = "model")]
    keep_checkpoint: bool,
}

/// The ranks' files.
enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    /// In the output folder, which may be on another disk than the system's temporary files: some models are large.
    fn new(options: &ModelOptions, output_dir: &Path) -> Result<Self> {
        fs::create_dir_all(output_dir)?;
        if options.keep_checkpoint {
            return Ok(Self::Kept(output_dir.join(CHECKPOINT)));
        }
        let folder = tempfile::Builder::new().prefix("checkpoint-").tempdir_in(output_dir);
        folder.map(Self::Temporary).map_err(|error| {
            Error::from(error).context(format!("could not make a temporary folder in {}", output_dir.display()))
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}
