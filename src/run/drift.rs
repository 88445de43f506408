//! Drift of the replicated parameters of a whole model.

use rayon::prelude::*;

use crate::checkpoint::{CheckpointError, ModelSource, ReplicatedParams};
use crate::merge::{MergeError, ParamDrift};

/// Reads the replicated parameters of every stage, and nothing else.
///
/// # Errors
/// Files that cannot be read.
pub fn read_replicated(model: &dyn ModelSource) -> Result<Vec<ReplicatedParams>, CheckpointError> {
    model.stage_ids().into_par_iter().map(|id| model.read_replicated(id)).collect()
}

/// Drift of the replicated parameters that a model uses; none in a model of one rank.
#[cfg(feature = "libtorch")]
pub(super) fn drift_of_model(model: &dyn ModelSource) -> crate::error::Result<Vec<ParamDrift>> {
    if model.tp_size() == 1 {
        return Ok(Vec::new());
    }
    let used = |stage: ReplicatedParams| ReplicatedParams { unused: Vec::new(), ..stage };
    let stages: Vec<_> = read_replicated(model)?.into_iter().map(used).collect();
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
