//! Merging a stage. Big matrices come joined from the reader and are shared by all merges; each distinct
//! (parameter, rule, arithmetic) and each folded norm is computed once however many strategies ask for it.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::fold::{Folded, fold};
use super::norms::{NormUnit, feeds_a_norm, is_lost};
use super::reduce::reduce;
use super::{Exactness, Loss, MergeError, Rule, Strategy, inexact_because};
use crate::config::Architecture;
use crate::partition::{Kind, Param, ParamValue, Role, StageId, StageTensors};
use crate::tensor::{Arithmetic, HostTensor};

/// The rule and arithmetic for each replicated parameter; `None` where the rules that keep equal replicas all agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature(Vec<(Role, Option<(Rule, Arithmetic)>)>);

/// Merges one stage for any number of strategies.
#[derive(Debug)]
pub struct StageMerger<'a> {
    stage: &'a StageTensors,
    architecture: &'a Architecture,
    units: Vec<NormUnit>,
    merged: MergedTensors,
}

/// The tensors of a stage that merges have of their own.
#[derive(Debug, Default)]
pub struct MergedTensors {
    reduced: Vec<(Role, Rule, Arithmetic, HostTensor)>,
    folded: Vec<(Role, Folded)>,
}

impl MergedTensors {
    pub fn iter(&self) -> impl Iterator<Item = &HostTensor> {
        let folded = self.folded.iter().flat_map(|(_, folded)| folded.params.iter().map(|(_, tensor)| tensor));
        self.reduced.iter().map(|(.., tensor)| tensor).chain(folded)
    }
}

const POSITION_DEPENDENT: &str = "replicas differ, and with sequence_parallel each was trained on its own stretch of the \
                                  sequence: which one acts depends on the position, and one rank has one";

/// The work of a strategy on a stage.
struct Plan<'a> {
    rules: Vec<(Role, &'a Param, Rule)>,
    folding: Vec<NormUnit>,
}

impl<'a> StageMerger<'a> {
    pub fn new(stage: &'a StageTensors, architecture: &'a Architecture) -> Self {
        Self::with(stage, architecture, MergedTensors::default())
    }

    /// Starts with what [`StageMerger::ahead`] made of this stage.
    pub fn with(stage: &'a StageTensors, architecture: &'a Architecture, merged: MergedTensors) -> Self {
        Self { stage, architecture, units: NormUnit::of_stage(architecture, stage.id), merged }
    }

    /// Makes what the strategies will ask for. What cannot be made is left out: asked for, it fails again.
    pub fn ahead<'s>(
        stage: &StageTensors,
        architecture: &Architecture,
        strategies: impl Iterator<Item = &'s Strategy>,
    ) -> MergedTensors {
        let mut merger = StageMerger::new(stage, architecture);
        for strategy in strategies {
            let _ = merger.merge(strategy, &mut Exactness::default());
        }
        merger.merged
    }

    /// Strategies with equal signatures make the same tensors of this stage.
    ///
    /// # Errors
    /// As [`StageMerger::merge`].
    pub fn signature(&self, strategy: &Strategy) -> Result<Signature, MergeError> {
        self.check_exists(strategy)?;
        let rules = self.rules(strategy)?.into_iter().map(|(role, param, rule)| {
            // Equal replicas stay what they are under most rules, so these rules need not be told apart.
            let indifferent = rule.keeps_equal_replicas() && param.value.ranks_agree();
            (role, (!indifferent).then_some((rule, strategy.arithmetic)))
        });
        Ok(Signature(rules.collect()))
    }

    /// Adds to `exactness` the differences that [`StageMerger::merge`] would find, without merging. Only replicated
    /// parameters are read, so the stage may lack the others. Returns the number of norms that would be folded.
    ///
    /// # Errors
    /// As [`StageMerger::merge`].
    pub fn judge(&self, strategy: &Strategy, exactness: &mut Exactness) -> Result<usize, MergeError> {
        Ok(self.plan(strategy, exactness)?.folding.len())
    }

    /// The roles whose tensors `strategy` changes together, a group for every norm that it folds: the norm and its readers.
    /// All other parameters can be merged one by one. Only replicated parameters are read.
    ///
    /// # Errors
    /// As [`StageMerger::merge`].
    pub fn folded_together(&self, strategy: &Strategy) -> Result<Vec<BTreeSet<Role>>, MergeError> {
        let folding = self.units_to_fold(strategy, &self.rules(strategy)?)?;
        Ok(folding.into_iter().map(NormUnit::roles).collect())
    }

    /// The merged stage, with one rank. Its differences from the unmerged model are added to `exactness`.
    ///
    /// # Errors
    /// A kind without a rule, a rule that names a missing rank, or replicas that do not fit together.
    pub fn merge(&mut self, strategy: &Strategy, exactness: &mut Exactness) -> Result<StageTensors, MergeError> {
        self.check_exists(strategy)?;
        let stage = self.stage;
        let arithmetic = strategy.arithmetic;
        let Plan { rules, folding } = self.plan(strategy, exactness)?;
        self.fold_missing(&folding)?;
        self.reduce_missing(&rules, arithmetic)?;

        let mut params: BTreeMap<Role, Param> = BTreeMap::new();
        for (&role, param) in &stage.params {
            let rule = rules.iter().find(|&&(of, ..)| of == role).map(|&(_, _, rule)| rule);
            let reduced = rule.and_then(|rule| self.find(role, rule, arithmetic));
            let value = match (&param.value, reduced) {
                (_, Some(reduced)) => ParamValue::Replicas(vec![reduced.clone()]),
                (ParamValue::Joined(joined), None) => ParamValue::Joined(joined.clone()),
                (ParamValue::Replicas(replicas), None) => {
                    ParamValue::Replicas(replicas.first().into_iter().cloned().collect())
                }
            };
            params.insert(role, Param { name: param.name.clone(), kind: param.kind, value });
        }
        for unit in folding {
            let Some((_, folded)) = self.merged.folded.iter().find(|(gain, _)| *gain == unit.gain) else { continue };
            exactness.add_fold(folded.summary);
            for (role, tensor) in &folded.params {
                if let Some(param) = params.get_mut(role) {
                    param.value = match param.value {
                        ParamValue::Joined(_) => ParamValue::Joined(tensor.clone()),
                        ParamValue::Replicas(_) => ParamValue::Replicas(vec![tensor.clone()]),
                    };
                }
            }
        }
        Ok(StageTensors { id: stage.id, tp_size: 1, params })
    }

    /// The one place where exactness is judged.
    fn plan(&self, strategy: &Strategy, exactness: &mut Exactness) -> Result<Plan<'a>, MergeError> {
        let rules = self.rules(strategy)?;
        for &(role, param, rule) in rules.iter().filter(|&&(role, ..)| !is_lost(self.architecture, role)) {
            let loss =
                inexact_because(self.architecture, role, param, rule).or_else(|| self.inexact_fold(role, param, rule));
            if let Some(loss) = loss {
                exactness.add(self.stage.id, loss);
            }
        }
        if let (StageId::Layer(_), true, Some(reason)) =
            (self.stage.id, self.stage.tp_size > 1, self.architecture.never_exact())
        {
            exactness.add_change(self.stage.id, "attention.qk_layernorm", reason);
        }
        if let Some(name) = self.position_dependent() {
            let (name, reason) = (name.to_owned(), POSITION_DEPENDENT.to_owned());
            exactness.add(self.stage.id, Loss { name, reason, factor: 1.0 });
        }
        let folding = self.units_to_fold(strategy, &rules)?;
        Ok(Plan { rules, folding })
    }

    /// Fails where no exact merge exists, unless `allow_inexact` is set.
    fn check_exists(&self, strategy: &Strategy) -> Result<(), MergeError> {
        strategy.check_exists(self.architecture, self.stage.tp_size)?;
        match self.position_dependent() {
            Some(parameter) if !strategy.allow_inexact => Err(MergeError::PositionDependent {
                strategy: strategy.name.clone(),
                stage: self.stage.id,
                parameter: parameter.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// A parameter of which, in training with `sequence_parallel`, each rank's replica acted on a stretch of the sequence
    /// of its own, and whose replicas differ. A bias before the all-reduce acts everywhere.
    fn position_dependent(&self) -> Option<&'a str> {
        if !self.architecture.sequence_parallel {
            return None;
        }
        let acts_on_a_stretch = |role: Role, kind: Kind| match kind {
            // Queries and keys are made of the whole sequence.
            Kind::NormGain | Kind::NormBias => !role.is_per_head_norm(),
            Kind::RowParallelBias => self.architecture.biases_after_reduction(),
            _ => false,
        };
        let stage = self.stage;
        let mut params = stage.params.iter();
        let acts =
            |(role, param): &(&Role, &Param)| acts_on_a_stretch(**role, param.kind) && !param.value.ranks_agree();
        params.find(acts).map(|(_, param)| param.name.as_str())
    }

    /// Why folding this norm changes the model; `None` if it does not.
    fn inexact_fold(&self, role: Role, param: &Param, rule: Rule) -> Option<Loss> {
        let lossy = rule == Rule::Fold && !param.value.ranks_agree() && feeds_a_norm(self.architecture, role);
        let reason = "replicas differ and the MLP's norm reads this norm's output, which no linear layer can undo";
        lossy.then(|| Loss { name: param.name.clone(), reason: reason.to_owned(), factor: 1.0 })
    }

    fn rules(&self, strategy: &Strategy) -> Result<Vec<(Role, &'a Param, Rule)>, MergeError> {
        let mut rules = Vec::new();
        for (&role, param) in &self.stage.params {
            if !param.kind.is_replicated() {
                continue;
            }
            let rule = strategy.rule(self.stage.id, &param.name, param.kind)?;
            let rule = rule.for_role(role).resolve(param.kind, self.architecture.residual);
            if let Rule::Rank(tp_rank) = rule
                && tp_rank >= self.stage.tp_size
            {
                let (strategy, last) = (strategy.name.clone(), self.stage.tp_size.saturating_sub(1));
                return Err(MergeError::NoSuchRank { strategy, tp_rank, last });
            }
            rules.push((role, param, rule));
        }
        Ok(rules)
    }

    /// The norms that the strategy folds and whose replicas differ.
    fn units_to_fold(&self, strategy: &Strategy, rules: &[(Role, &Param, Rule)]) -> Result<Vec<NormUnit>, MergeError> {
        let mut folding = Vec::new();
        for &unit in &self.units {
            let of_unit = || rules.iter().filter(|&&(role, ..)| unit.has(role));
            let folds = of_unit().filter(|&&(_, _, rule)| rule == Rule::Fold).count();
            if folds == 0 || of_unit().all(|(_, param, _)| param.value.ranks_agree()) {
                continue;
            }
            if folds != of_unit().count() {
                return Err(MergeError::HalfFolded { strategy: strategy.name.clone(), stage: self.stage.id });
            }
            folding.push(unit);
        }
        Ok(folding)
    }

    fn fold_missing(&mut self, units: &[NormUnit]) -> Result<(), MergeError> {
        for &unit in units {
            if self.merged.folded.iter().all(|(gain, _)| *gain != unit.gain) {
                let folded = fold(self.stage, self.architecture, unit)
                    .map_err(|source| MergeError::Fold { stage: self.stage.id, source })?;
                self.merged.folded.push((unit.gain, folded));
            }
        }
        Ok(())
    }

    fn reduce_missing(&mut self, rules: &[(Role, &Param, Rule)], arithmetic: Arithmetic) -> Result<(), MergeError> {
        let missing: Vec<_> =
            rules.iter().filter(|&&(role, _, rule)| self.find(role, rule, arithmetic).is_none()).collect();
        let made =
            missing
                .into_par_iter()
                .map(|&(role, param, rule)| {
                    let merged = reduce(param.value.tensors(), rule, arithmetic).map_err(|source| {
                        MergeError::Tensor { stage: self.stage.id, name: param.name.clone(), source }
                    })?;
                    Ok((role, rule, arithmetic, merged))
                })
                .collect::<Result<Vec<_>, MergeError>>()?;
        self.merged.reduced.extend(made);
        Ok(())
    }

    fn find(&self, role: Role, rule: Rule, arithmetic: Arithmetic) -> Option<&HostTensor> {
        let reduced = &self.merged.reduced;
        reduced
            .iter()
            .find(|&&(made, by, with, _)| made == role && by == rule && with == arithmetic)
            .map(|(_, _, _, tensor)| tensor)
    }

    /// Whether this stage makes the ranks' residual streams differ: each adds a replica of its own after the all-reduce.
    pub fn forks_streams(&self) -> bool {
        let own: &[Role] = if self.architecture.biases_after_reduction() {
            &[Role::PositionEmbedding, Role::SoftPrompt, Role::AttentionOutputBias, Role::MlpOutputBias]
        } else {
            &[Role::PositionEmbedding, Role::SoftPrompt]
        };
        own.iter().any(|&role| !self.stage.ranks_agree(role))
    }
}
