//! Whether merging by a strategy keeps the model, from rules and replicas alone.

use crate::checkpoint::{ModelSource, ReplicatedParams};
use crate::merge::{Exactness, MergeError, StageMerger, Strategy};
use crate::report::{Exact, Judgement};

/// Judges strategies by the replicated parameters of all stages.
///
/// # Errors
/// A strategy without a rule that fits, or replicas that cannot be compared.
pub fn judge_strategies(
    model: &dyn ModelSource,
    stages: &[ReplicatedParams],
    strategies: &[Strategy],
) -> Result<Vec<Judgement>, MergeError> {
    let replicated = stages.iter().flat_map(|stage| {
        let params = stage.used.params.values().filter(|param| param.kind.is_replicated());
        params.map(|param| (stage.used.id, param.name.as_str(), param.kind))
    });
    let mut judgements = Vec::with_capacity(strategies.len());
    for strategy in strategies {
        strategy.check(replicated.clone(), model.tp_size())?;
        let mut exactness = Exactness::default();
        let mut folded_norms = 0;
        for stage in stages {
            folded_norms += StageMerger::new(&stage.used, model.architecture()).judge(strategy, &mut exactness)?;
        }
        judgements.push(Judgement {
            name: strategy.name.clone(),
            description: strategy.description.clone(),
            exact: Exact { exact: exactness.is_exact(), because: exactness.because() },
            miscounts: exactness.miscounts(),
            folded_norms,
        });
    }
    Ok(judgements)
}
