//! The passages that `merge` calibrates with: those that `compare` would use, so that what is written is what was evaluated.

use std::path::{Path, PathBuf};

use clap::Args;

use super::caller::Caller;
use super::inputs::{backends, open_tokenizer};
use super::open::streams_differ;
use super::request::ResourceOptions;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::eval::PassageOptions;
use crate::eval::packing::TokenizedPassage;
use crate::eval::task::Task;
use crate::merge::Strategy;
use crate::model::{Backend, DeviceChoice};

/// What fold-calibrated needs where the ranks' residual streams differ.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Calibration (fold-calibrated)")]
pub struct CalibrationOptions {
    /// Passages to calibrate with, in a file of their own
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub calibration: Option<PathBuf>,
    /// The passages that `compare` evaluates; the fifth that it sets aside is used
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// How the passages are read: a built-in task, or a task file
    #[arg(long, value_name = "NAME|FILE", default_value = "lambada_openai")]
    pub task: String,
    /// Device of the calibration: auto, cpu, cuda, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value_t)]
    pub device: DeviceChoice,
}

/// A calibration that is ready to run.
pub struct Calibration {
    /// Device and type.
    pub backend: Backend,
    /// They are not scored.
    pub passages: Vec<TokenizedPassage>,
}

impl CalibrationOptions {
    /// The calibration of a strategy; `None` if it needs none.
    ///
    /// # Errors
    /// No passages are given, or they, the tokenizer or the device cannot be used.
    pub fn prepare(
        &self,
        checkpoint: &Checkpoint,
        strategy: &Strategy,
        tokenizer: Option<&Path>,
        caller: &dyn Caller,
    ) -> Result<Option<Calibration>> {
        if !strategy.calibrate || !streams_differ(checkpoint)? {
            return Ok(None);
        }
        let task = Task::resolve(&self.task)?;
        let tokenizer = open_tokenizer(checkpoint, tokenizer, caller)?;
        let max_length = checkpoint.architecture().longest_input();
        let how = PassageOptions { task: &task, tokenizer: &tokenizer, limit: None, max_length };
        let passages = match (&self.calibration, &self.data) {
            (Some(path), _) => how.calibration_of_file(path)?,
            (None, Some(path)) => how.calibration_set_aside(path)?,
            (None, None) => {
                return Err(Error::usage(format!(
                    "{} calibrates, since the ranks' residual streams differ: give passages with --calibration FILE, or with \
                     --data FILE those that compare takes",
                    strategy.name
                )));
            }
        };
        let resources = ResourceOptions { device: self.device.clone(), ..ResourceOptions::default() };
        let backends = backends(checkpoint, &resources, None)?;
        let &backend = backends.first().ok_or_else(|| Error::usage("no device to calibrate on"))?;
        tracing::info!("calibrating with {} passages on {backend}", passages.len());
        Ok(Some(Calibration { backend, passages }))
    }
}
