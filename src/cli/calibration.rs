//! The passages that `merge` calibrates with: those that `compare` would take, so that what is written is what was
//! evaluated.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;

use super::evaluation::streams_differ;
use super::names;
use super::output::Screen;
use crate::checkpoint::Checkpoint;
use crate::eval::PassageOptions;
use crate::eval::packing::TokenizedPassage;
use crate::eval::task::Task;
use crate::eval::tokenizer::Tokenizer;
use crate::merge::Strategy;
use crate::model::{Backend, Compute, DeviceChoice};

/// What fold-calibrated needs where the ranks' residual streams differ.
#[derive(Debug, Clone, Args)]
pub(super) struct CalibrationArgs {
    /// For fold-calibrated: passages to calibrate with, in a file of their own.
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    calibration: Option<PathBuf>,
    /// For fold-calibrated: the passages that `compare` evaluates; the fifth is taken that it sets aside.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// How the passages are read: a built-in task, or a task file.
    #[arg(long, value_name = "NAME|FILE", default_value = "lambada_openai")]
    task: String,
    /// What the calibration runs on: auto, cpu, cuda, or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// A calibration that is to run.
pub(super) struct Calibration {
    pub backend: Backend,
    pub passages: Vec<TokenizedPassage>,
}

impl CalibrationArgs {
    /// The calibration of a strategy; `None` where it needs none.
    pub(super) fn prepare(
        &self,
        checkpoint: &Checkpoint,
        strategy: &Strategy,
        tokenizer: Option<&Path>,
        screen: &Screen,
    ) -> anyhow::Result<Option<Calibration>> {
        if !strategy.calibrate || !streams_differ(checkpoint)? {
            return Ok(None);
        }
        let task = Task::resolve(&self.task)?;
        let tokenizer = Tokenizer::from_file(&names::tokenizer(tokenizer, checkpoint, screen)?)?;
        let architecture = checkpoint.architecture();
        tokenizer.check_vocabulary(architecture.padded_vocab_size)?;
        let options = PassageOptions {
            task: &task,
            tokenizer: &tokenizer,
            limit: None,
            max_length: architecture.longest_input(),
        };
        let passages = match (&self.calibration, &self.data) {
            (Some(path), _) => options.calibration_of_file(path)?,
            (None, Some(path)) => options.calibration_set_aside(path)?,
            (None, None) => bail!(
                "{} calibrates, since the ranks' residual streams differ: give passages with --calibration FILE, or with \
                 --data FILE those that compare takes",
                strategy.name
            ),
        };
        let devices = self.device.resolve()?;
        let Some(&device) = devices.first() else { bail!("no device to calibrate on") };
        let backend = Backend { device, kind: Compute::Auto.resolve(checkpoint.dtype(), device) };
        tracing::info!("calibrating with {} passages on {backend}", passages.len());
        Ok(Some(Calibration { backend, passages }))
    }
}
