//! Opening what is compared: the checkpoint, the strategies, the candidates.

use super::caller::Caller;
use super::candidates::{self, Candidate};
use super::models::ModelSet;
use super::request::Request;
use super::resolve::model_path;
use crate::checkpoint::{CheckpointError, ModelSource, open_model};
use crate::error::Result;
use crate::merge::{StageMerger, Strategy, check_strategies};

/// A checkpoint with the strategies that merge it and the candidates beside them.
pub(super) struct Opened {
    pub checkpoint: Box<dyn ModelSource>,
    pub strategies: Vec<Strategy>,
    candidates: Vec<Candidate>,
    /// Whether a strategy calibrates and the model needs it.
    pub calibrates: bool,
}

/// Opens everything that a comparison is asked for; no strategy named: all built-in ones.
pub(super) fn comparison(request: &Request, caller: &dyn Caller) -> Result<Opened> {
    with_candidates(request, request.strategies.resolve()?, caller)
}

/// Opens the checkpoint and the candidates, without any strategy.
pub(super) fn candidates_alone(request: &Request, caller: &dyn Caller) -> Result<Opened> {
    with_candidates(request, Vec::new(), caller)
}

fn with_candidates(request: &Request, strategies: Vec<Strategy>, caller: &dyn Caller) -> Result<Opened> {
    let opened = checkpoint(request, strategies, caller)?;
    let candidates = candidates::open(&request.candidates, &request.reading, &opened.strategies, caller)?;
    Ok(Opened { candidates, ..opened })
}

/// Opens the checkpoint; every strategy must be able to merge it.
pub(super) fn checkpoint(request: &Request, strategies: Vec<Strategy>, caller: &dyn Caller) -> Result<Opened> {
    let path = model_path(&request.checkpoint, &mut *caller.download())?;
    let checkpoint = open_model(&path, &request.reading.open_options())?;
    checkpoint.check_evaluation()?;
    check_strategies(&*checkpoint, &strategies)?;
    let calibrates = strategies.iter().any(|strategy| strategy.calibrate) && streams_differ(&*checkpoint)?;
    Ok(Opened { checkpoint, strategies, candidates: Vec::new(), calibrates })
}

impl Opened {
    pub(super) fn models<'a>(&'a self, request: &'a Request) -> ModelSet<'a> {
        let mut models = ModelSet::new(&*self.checkpoint, &request.checkpoint);
        for strategy in &self.strategies {
            models.add_merge(strategy.clone());
        }
        for candidate in &self.candidates {
            models.add_candidate(candidate);
        }
        if !request.statistics.no_noise_floor {
            models.add_noise_floor();
        }
        models
    }
}

/// Whether the ranks really have different residual streams, which their replicas decide.
pub(super) fn streams_differ(checkpoint: &dyn ModelSource) -> Result<bool, CheckpointError> {
    let architecture = checkpoint.architecture();
    if !architecture.streams_can_differ() {
        return Ok(false);
    }
    for id in checkpoint.stage_ids() {
        let replicated = checkpoint.read_replicated(id)?;
        if StageMerger::new(&replicated.used, architecture).forks_streams() {
            return Ok(true);
        }
    }
    Ok(false)
}
