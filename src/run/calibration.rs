//! The passages that `merge` calibrates with: those that `compare` uses, so that what is written is what was evaluated.

use std::path::Path;

use super::caller::Caller;
use super::inputs::{backends, open_tokenizer};
use super::open::streams_differ;
use super::request::{CalibrationOptions, ResourceOptions};
use crate::checkpoint::ModelSource;
use crate::error::{Error, Result};
use crate::eval::calibration_passages;
use crate::eval::packing::TokenizedPassage;
use crate::merge::Strategy;
use crate::model::Device;

/// A calibration that is ready to run.
pub struct Calibration {
    /// Where it runs.
    pub device: Device,
    /// They are never scored.
    pub passages: Vec<TokenizedPassage>,
}

impl CalibrationOptions {
    /// The calibration of a strategy; `None` if it needs none.
    ///
    /// # Errors
    /// The text, the tokenizer or the device cannot be used.
    pub fn prepare(
        &self,
        checkpoint: &dyn ModelSource,
        strategy: &Strategy,
        tokenizer: Option<&Path>,
        caller: &dyn Caller,
    ) -> Result<Option<Calibration>> {
        if !strategy.calibrate || !streams_differ(checkpoint)? {
            return Ok(None);
        }
        let tokenizer = open_tokenizer(checkpoint, tokenizer, caller)?;
        let (file, architecture) = (self.calibration.as_deref(), checkpoint.architecture());
        let passages = calibration_passages(file, &tokenizer, architecture, &[])?;
        let resources = ResourceOptions { device: self.device.clone(), ..ResourceOptions::default() };
        let backends = backends(checkpoint, &resources, None)?;
        let &backend = backends.first().ok_or_else(|| Error::usage("no device to calibrate on"))?;
        tracing::info!("calibrating with {} passages on {backend}", passages.len());
        Ok(Some(Calibration { device: backend.device, passages }))
    }
}
