//! Drift of the replicated parameters of a whole model.

use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, CheckpointError, ReplicatedParams};
use crate::merge::{MergeError, ParamDrift};

/// Reads the replicated parameters of every stage, and nothing else.
///
/// # Errors
/// Files that cannot be read.
pub fn read_replicated(checkpoint: &Checkpoint) -> Result<Vec<ReplicatedParams>, CheckpointError> {
    checkpoint.stage_ids().into_par_iter().map(|id| checkpoint.read_replicated(id)).collect()
}

/// Drift of the replicated parameters that a model uses; none in a model of one rank.
#[cfg(feature = "libtorch")]
pub(super) fn drift_of_model(model: &dyn crate::checkpoint::ModelSource) -> crate::error::Result<Vec<ParamDrift>> {
    if model.tp_size() == 1 {
        return Ok(Vec::new());
    }
    let read = |id| Ok(ReplicatedParams { used: model.read_replicas(id)?, unused: Vec::new() });
    let stages = model.stage_ids().into_par_iter().map(read).collect::<Result<Vec<_>, CheckpointError>>()?;
    Ok(drift(&stages)?)
}

/// How far the replicas of each parameter differ.
///
/// # Errors
/// Replicas that differ in type or shape.
pub fn drift(stages: &[ReplicatedParams]) -> Result<Vec<ParamDrift>, MergeError> {
    let params: Vec<_> = stages
        .iter()
        .flat_map(|stage| {
            let used = stage.used.params.values().map(|param| (param, true));
            let unused = stage.unused.iter().map(|param| (param, false));
            used.chain(unused).map(|(param, used)| (stage.used.id, param, used))
        })
        .collect();
    params
        .into_par_iter()
        .map(|(stage, param, used)| {
            let name = || param.name.clone();
            ParamDrift::of(stage, param, used).map_err(|source| MergeError::Tensor { stage, name: name(), source })
        })
        .collect()
}
