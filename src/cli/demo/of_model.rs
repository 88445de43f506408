//! `kintsugi demo --model`: the main job on a model from the Hugging Face Hub, split among ranks whose replicas drift apart.

use std::num::NonZeroUsize;
use std::path::Path;

use fs_err as fs;
use tempfile::TempDir;

use super::super::forward_args::ModelOptions;
use super::super::screen::Screen;
use super::super::show::show_finished;
use crate::error::{Error, Result};
use crate::export::Drift;
use crate::run::{self, OutputOptions, Request, ResourceOptions, TaskOptions, TestCheckpoint};

pub(super) fn run(
    model: &Path,
    options: &ModelOptions,
    output: OutputOptions,
    resources: ResourceOptions,
    screen: &Screen,
) -> Result<()> {
    // Not with the system's temporary files: some models are large.
    let output_dir = output.output_dir.clone().unwrap_or_default();
    let (_temporary, directory) = if options.keep_checkpoint {
        (None, output_dir.join("checkpoint"))
    } else {
        let folder = temporary(&output_dir)?;
        let directory = folder.path().join(model.file_name().unwrap_or("model".as_ref()));
        (Some(folder), directory)
    };
    let (drift, tokenizer) = (options.drift, options.tokenizer.as_deref());
    let checkpoint = TestCheckpoint {
        model,
        tp_size: options.tensor_parallel,
        drift: Drift { replicas: drift, biases: drift, seed: 0 },
        dtype: None,
        tokenizer,
        directory: &directory,
    };
    checkpoint.write(screen.command_line(), &mut screen.download_bar())?;
    let (data, limit) = (options.data.clone(), options.limit.map(NonZeroUsize::get));
    let mut request = Request {
        checkpoint: directory,
        task: TaskOptions { data, limit, ..TaskOptions::default() },
        output,
        resources,
        ..Request::default()
    };
    let caller = screen.caller(&mut request.output)?;
    show_finished(&run::compare(&request, &caller)?, screen)
}

/// A folder in the output folder that is removed in the end.
fn temporary(output_dir: &Path) -> Result<TempDir> {
    fs::create_dir_all(output_dir)?;
    tempfile::Builder::new().prefix("checkpoint-").tempdir_in(output_dir).map_err(|error| {
        Error::from(error).context(format!("could not make a temporary folder in {}", output_dir.display()))
    })
}
