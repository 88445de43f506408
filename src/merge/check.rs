//! Strategies against the replicated parameters of a model, before anything is computed.

use super::{MergeError, Strategy};
use crate::checkpoint::ModelSource;

/// Checks that the strategies differ in name and that each has a rule that fits for every replicated parameter.
///
/// # Errors
/// [`MergeError::SameName`], or as [`Strategy::check`].
pub fn check_strategies(model: &dyn ModelSource, strategies: &[Strategy]) -> Result<(), MergeError> {
    let parameters: Vec<_> = model
        .stage_ids()
        .into_iter()
        .flat_map(|id| model.stage_params(id).into_iter().map(move |(_, entry)| (id, entry)))
        .filter(|(_, entry)| entry.row.kind.is_replicated())
        .collect();
    for (at, strategy) in strategies.iter().enumerate() {
        if let Some(other) = strategies[..at].iter().find(|other| other.name == strategy.name) {
            let (name, first, second) = (strategy.name.clone(), other.origin.clone(), strategy.origin.clone());
            return Err(MergeError::SameName { name, first, second });
        }
        let named = parameters.iter().map(|(id, entry)| (*id, entry.name.as_str(), entry.row.kind));
        strategy.check(named, model.tp_size())?;
    }
    Ok(())
}
