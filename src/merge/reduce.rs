//! One tensor out of replicas.

use super::Rule;
use crate::config::Residual;
use crate::partition::Kind;
use crate::tensor::{self, Arithmetic, HostTensor, TensorError};

pub(super) fn reduce(replicas: &[HostTensor], rule: Rule, arithmetic: Arithmetic) -> Result<HostTensor, TensorError> {
    let first = replicas.first().ok_or(TensorError::Empty)?;
    // The same tensor, not a copy of it: variants that agree so far are recognised and computed once.
    if rule.keeps_equal_replicas() && replicas.iter().all(|replica| replica.same_bits(first)) {
        return Ok(first.clone());
    }
    let all: Vec<_> = replicas.iter().collect();
    match rule {
        Rule::Rank(tp_rank) => replicas.get(tp_rank).cloned().ok_or(TensorError::Empty),
        // A folded norm is replaced afterwards, as a whole.
        Rule::Fold => Ok(first.clone()),
        Rule::Mean | Rule::Auto => tensor::mean(&all, arithmetic),
        Rule::Median => tensor::median(&all),
        Rule::GeometricMean => tensor::geometric_mean(&all),
        Rule::Sum => tensor::sum(&all, arithmetic),
        Rule::Scale(factor) => tensor::scale(&all, factor),
    }
}

/// The rules that a converter may have applied to the replicas of `tp_size` ranks; the correct one first.
pub(super) fn rules_of(kind: Kind, residual: Residual, tp_size: usize) -> Vec<Rule> {
    let mut rules = vec![Rule::Auto.resolve(kind, residual)];
    let ranks = (0..tp_size).map(Rule::Rank);
    for rule in [Rule::Mean, Rule::Sum].into_iter().chain(ranks) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}
