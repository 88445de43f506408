//! Drift of the replicated parameters, for every command that shows it.

use rayon::prelude::*;

#[cfg(feature = "libtorch")]
use crate::checkpoint::ModelSource;
use crate::checkpoint::{Checkpoint, ReplicatedParams};
use crate::merge::{MergeError, ParamDrift};
use crate::partition::StageId;

/// Reads the replicated parameters of every stage, and nothing else.
pub(super) fn read_replicated(checkpoint: &Checkpoint) -> anyhow::Result<Vec<ReplicatedParams>> {
    let read = |id: StageId| Ok(checkpoint.read_replicated(id)?);
    checkpoint.stage_ids().into_par_iter().map(read).collect()
}

/// Drift of the replicated parameters that a model uses; none in a model of one piece.
#[cfg(feature = "libtorch")]
pub(super) fn of_model(model: &dyn ModelSource) -> anyhow::Result<Vec<ParamDrift>> {
    if model.tp_size() == 1 {
        return Ok(Vec::new());
    }
    let read = |id: StageId| Ok(ReplicatedParams { used: model.read_replicas(id)?, unused: Vec::new() });
    let stages = model.stage_ids().into_par_iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(drift(&stages)?)
}

/// How far the replicas of each of them differ.
pub(super) fn drift(stages: &[ReplicatedParams]) -> Result<Vec<ParamDrift>, MergeError> {
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
