//! Whether a merge is the unmerged model, and if not, which parameters make it another one. Judged by the rule, the place
//! of the bias in the forward pass, and whether the replicas agree; no forward pass is needed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FoldSummary, Rule};
use crate::config::{Architecture, Residual};
use crate::partition::{Kind, Param, Role, StageId};
use crate::tensor::HostTensor;

/// Why merging one parameter by one rule changes the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Name of the parameter inside its layer.
    pub name: String,
    /// The rule's effect on it.
    pub reason: String,
    /// How many times the model's parameter the rule makes, were the replicas equal; 1 where only drift is lost.
    pub factor: f64,
}

/// Where a loss was found, and its factor.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    stages: Vec<StageId>,
    factor: f64,
}

/// Parameters that a strategy makes another multiple of than the model has: a wrong rule, which loses more than any drift.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Miscount {
    /// How many times the model's parameter the merged one is, but for drift.
    pub factor: f64,
    /// Names of the parameters inside their layers.
    pub parameters: Vec<String>,
}

impl std::fmt::Display for Miscount {
    /// `attention.dense.bias and mlp.linear2.bias 0.5 times what the model has`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let factor = (self.factor * 1000.0).round() / 1000.0;
        write!(formatter, "{} {factor} times what the model has", self.parameters.join(" and "))
    }
}

/// The losses of all stages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exactness {
    losses: BTreeMap<(String, String), Found>,
    folds: Vec<FoldSummary>,
}

impl Exactness {
    pub(super) fn add(&mut self, stage: StageId, loss: Loss) {
        let none = Found { stages: Vec::new(), factor: loss.factor };
        let found = self.losses.entry((loss.name, loss.reason)).or_insert(none);
        // A second pass over the checkpoint finds the same.
        if !found.stages.contains(&stage) {
            found.stages.push(stage);
        }
    }

    /// Adds that a parameter is another one than the model's.
    pub fn add_change(&mut self, stage: StageId, name: &str, reason: &str) {
        self.add(stage, Loss { name: name.to_owned(), reason: reason.to_owned(), factor: 1.0 });
    }

    /// Adds the changes that folding or calibration made to weights.
    pub fn add_fold(&mut self, summary: FoldSummary) {
        self.folds.push(summary);
    }

    /// Whether nothing was found that changes the model.
    pub fn is_exact(&self) -> bool {
        self.losses.is_empty()
    }

    /// Why merging this parameter changes the model; `None` if it does not.
    pub fn reason(&self, stage: StageId, name: &str) -> Option<&str> {
        let found = self.losses.iter().find(|((of, _), found)| of == name && found.stages.contains(&stage));
        found.map(|((_, reason), _)| reason.as_str())
    }

    /// One line a parameter: name, in how many stages, why.
    pub fn because(&self) -> Vec<String> {
        self.losses
            .iter()
            .map(|((name, reason), found)| match found.stages.as_slice() {
                [StageId::Layer(number)] => format!("{name} (layer {number}): {reason}"),
                stages @ [StageId::Layer(_), ..] => format!("{name} ({} layers): {reason}", stages.len()),
                _ => format!("{name}: {reason}"),
            })
            .collect()
    }

    /// The parameters that the merge makes another multiple of than the model has, by factor.
    pub fn miscounts(&self) -> Vec<Miscount> {
        let mut miscounts: Vec<Miscount> = Vec::new();
        for ((name, _), Found { factor, stages }) in &self.losses {
            let name = match stages[..] {
                [StageId::Layer(number)] => format!("{name} (layer {number})"),
                _ => name.clone(),
            };
            match miscounts.iter_mut().find(|known| known.factor.total_cmp(factor).is_eq()) {
                _ if (factor - 1.0).abs() < f64::EPSILON => {}
                Some(known) if known.parameters.contains(&name) => {}
                Some(known) => known.parameters.push(name),
                None => miscounts.push(Miscount { factor: *factor, parameters: vec![name] }),
            }
        }
        miscounts
    }

    /// The largest changes by folding; `None` if nothing was folded.
    pub fn folding(&self) -> Option<FoldSummary> {
        self.folds.iter().copied().reduce(|total, next| FoldSummary {
            max_weight_change: total.max_weight_change.max(next.max_weight_change),
            max_rank_one: total.max_rank_one.max(next.max_rank_one),
            unties_head: total.unties_head || next.unties_head,
        })
    }
}

/// Why `rule` does not keep what the ranks compute with their own replicas; `None` if it does.
pub fn inexact_because(architecture: &Architecture, role: Role, param: &Param, rule: Rule) -> Option<Loss> {
    let replicas = param.value.tensors();
    let count = replicas.len();
    if rule == Rule::Fold {
        return None;
    }
    let loss = |reason: String, factor| Some(Loss { name: param.name.clone(), reason, factor });
    // How many times the mean the rule keeps; a single replica counts as one.
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let ranks = count as f64;
    let multiple = match rule {
        Rule::Sum => ranks,
        Rule::Scale(factor) => factor,
        _ => 1.0,
    };
    if param.kind == Kind::RowParallelBias && architecture.residual == Residual::Parallel {
        if (multiple - ranks).abs() < f64::EPSILON || all_zero(replicas) {
            return None;
        }
        let reason = format!(
            "every rank adds its own before the all-reduce, so the sum counts: `{rule}` keeps {multiple}/{count} of it"
        );
        return loss(reason, multiple / ranks);
    }
    if (multiple - 1.0).abs() > f64::EPSILON {
        if all_zero(replicas) {
            return None;
        }
        let place = match param.kind {
            Kind::RowParallelBias => "each rank adds it once, after the all-reduce",
            _ => "the model uses it once",
        };
        return loss(format!("{place}: `{rule}` makes it {multiple} times what it is"), multiple);
    }
    if param.value.ranks_agree() {
        return None;
    }
    let reason = match param.kind {
        _ if role.is_per_head_norm() => format!(
            "replicas differ, and the normalisation stands between the matrix and the gain, so that nothing can be folded: \
             `{rule}` keeps one value"
        ),
        Kind::RowParallelBias | Kind::LearnedPositions => {
            format!("replicas differ, so every rank has a residual stream of its own: `{rule}` keeps one")
        }
        _ => format!("replicas differ between ranks: `{rule}` keeps one value"),
    };
    loss(reason, 1.0)
}

fn all_zero(replicas: &[HostTensor]) -> bool {
    replicas.iter().all(|replica| replica.to_f64().is_ok_and(|values| values.iter().all(|&value| value == 0.0)))
}
