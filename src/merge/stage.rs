//! Merging a stage. Big matrices come joined from the reader and are shared by all merges; each distinct
//! (parameter, rule, arithmetic) is computed once however many strategies ask for it.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Exactness, MergeError, Rule, Strategy, inexact_because};
use crate::config::Architecture;
use crate::partition::{Param, ParamValue, Role, StageTensors};
use crate::tensor::{self, Arithmetic, HostTensor, TensorError};

/// The rule and arithmetic for each replicated parameter; `None` where the rules that keep equal replicas all agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature(Vec<(Role, Option<(Rule, Arithmetic)>)>);

/// Merges one stage for any number of strategies.
#[derive(Debug)]
pub struct StageMerger<'a> {
    stage: &'a StageTensors,
    architecture: &'a Architecture,
    made: Vec<(Role, Rule, Arithmetic, HostTensor)>,
}

impl<'a> StageMerger<'a> {
    /// Nothing is computed yet.
    #[must_use]
    pub fn new(stage: &'a StageTensors, architecture: &'a Architecture) -> Self {
        Self { stage, architecture, made: Vec::new() }
    }

    /// What decides which tensors [`StageMerger::merge`] would make: strategies with equal signatures make the same ones.
    ///
    /// # Errors
    /// As [`StageMerger::merge`].
    pub fn signature(&self, strategy: &Strategy) -> Result<Signature, MergeError> {
        let mut rules = Vec::new();
        for (&role, param) in &self.stage.params {
            if let Some(rule) = self.rule(strategy, param)? {
                // Equal replicas stay what they are under most rules, so these rules need not be told apart.
                let indifferent = rule.keeps_equal_replicas() && param.value.ranks_agree();
                rules.push((role, (!indifferent).then(|| (rule, strategy.arithmetic.into()))));
            }
        }
        Ok(Signature(rules))
    }

    /// The rule that applies to a parameter; `None` for what is joined or recomputed.
    fn rule(&self, strategy: &Strategy, param: &Param) -> Result<Option<Rule>, MergeError> {
        if !param.kind.is_replicated() {
            return Ok(None);
        }
        let rule = strategy.rule(param.kind)?.resolve(param.kind, self.architecture.residual);
        match rule {
            Rule::Rank(tp_rank) if tp_rank >= self.stage.tp_size => {
                let (strategy, last) = (strategy.name.clone(), self.stage.tp_size - 1);
                Err(MergeError::NoSuchRank { strategy, tp_rank, last })
            }
            rule => Ok(Some(rule)),
        }
    }

    /// The stage with one rank that `strategy` makes of it. What makes it differ from the unmerged model is added to
    /// `exactness`.
    ///
    /// # Errors
    /// A kind without a rule, a rule that names a missing rank, or replicas that do not fit together.
    pub fn merge(&mut self, strategy: &Strategy, exactness: &mut Exactness) -> Result<StageTensors, MergeError> {
        let stage = self.stage;
        let arithmetic = strategy.arithmetic.into();
        let mut wanted = Vec::new();
        for (&role, param) in &stage.params {
            let (ParamValue::Replicas(replicas), Some(rule)) = (&param.value, self.rule(strategy, param)?) else {
                continue;
            };
            if let Some(loss) = inexact_because(self.architecture, param, replicas, rule) {
                exactness.add(stage.id, loss);
            }
            wanted.push((role, param, replicas, rule));
        }
        let missing: Vec<_> =
            wanted.iter().filter(|&&(role, _, _, rule)| self.find(role, rule, arithmetic).is_none()).collect();
        let made = missing
            .into_par_iter()
            .map(|&(role, param, replicas, rule)| {
                let merged = reduce(replicas, rule, arithmetic).map_err(|source| MergeError::Tensor {
                    stage: stage.id,
                    name: param.name.clone(),
                    source,
                })?;
                Ok((role, rule, arithmetic, merged))
            })
            .collect::<Result<Vec<_>, MergeError>>()?;
        self.made.extend(made);

        let mut params = BTreeMap::new();
        for (&role, param) in &stage.params {
            let rule = wanted.iter().find(|&&(wanted, ..)| wanted == role).map(|&(_, _, _, rule)| rule);
            let merged = rule.and_then(|rule| self.find(role, rule, arithmetic));
            let value = match (&param.value, merged) {
                (_, Some(merged)) => ParamValue::Replicas(vec![merged.clone()]),
                (ParamValue::Joined(joined), None) => ParamValue::Joined(joined.clone()),
                (ParamValue::Replicas(replicas), None) => {
                    ParamValue::Replicas(replicas.first().into_iter().cloned().collect())
                }
            };
            params.insert(role, Param { name: param.name.clone(), kind: param.kind, value });
        }
        Ok(StageTensors { id: stage.id, tp_size: 1, params })
    }

    fn find(&self, role: Role, rule: Rule, arithmetic: Arithmetic) -> Option<&HostTensor> {
        self.made
            .iter()
            .find(|&&(made, by, with, _)| made == role && by == rule && with == arithmetic)
            .map(|(_, _, _, tensor)| tensor)
    }
}

/// Applies a rule to replicas.
fn reduce(replicas: &[HostTensor], rule: Rule, arithmetic: Arithmetic) -> Result<HostTensor, TensorError> {
    let first = replicas.first().ok_or(TensorError::Empty)?;
    // The same tensor, not a copy of it: variants that agree so far are recognised and computed once.
    if rule.keeps_equal_replicas() && replicas.iter().all(|replica| replica.same_bits(first)) {
        return Ok(first.clone());
    }
    let all: Vec<_> = replicas.iter().collect();
    match rule {
        Rule::Rank(tp_rank) => replicas.get(tp_rank).cloned().ok_or(TensorError::Empty),
        Rule::Mean | Rule::Auto => tensor::mean(&all, arithmetic),
        Rule::Median => tensor::median(&all),
        Rule::GeometricMean => tensor::geometric_mean(&all),
        Rule::Sum => tensor::sum(&all, arithmetic),
        Rule::Scale(factor) => tensor::scale(&all, factor),
    }
}
