//! Whether a merge is the unmerged model, and if not, which parameters make it another one. Judged by the rule, the place
//! of the bias in the forward pass, and whether the replicas agree; no forward pass is needed.

use std::collections::BTreeMap;

use super::{FoldSummary, Rule};
use crate::config::{Architecture, Residual};
use crate::partition::{Kind, Param, StageId};
use crate::tensor::HostTensor;

/// Why merging one parameter by one rule changes the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// Name of the parameter inside its layer.
    pub name: String,
    /// What the rule does to it.
    pub reason: String,
}

/// The judgement over all stages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exactness {
    losses: BTreeMap<(String, String), Vec<StageId>>,
    folds: Vec<FoldSummary>,
}

impl Exactness {
    pub(super) fn add(&mut self, stage: StageId, loss: Loss) {
        let stages = self.losses.entry((loss.name, loss.reason)).or_default();
        // A second pass over the checkpoint finds the same.
        if !stages.contains(&stage) {
            stages.push(stage);
        }
    }

    pub(super) fn add_fold(&mut self, summary: FoldSummary) {
        self.folds.push(summary);
    }

    /// Whether nothing was found that changes the model.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.losses.is_empty()
    }

    /// One line a parameter: name, in how many stages, why.
    #[must_use]
    pub fn because(&self) -> Vec<String> {
        self.losses
            .iter()
            .map(|((name, reason), stages)| match stages.as_slice() {
                [StageId::Layer(number)] => format!("{name} (layer {number}): {reason}"),
                [StageId::Layer(_), ..] => format!("{name} ({} layers): {reason}", stages.len()),
                _ => format!("{name}: {reason}"),
            })
            .collect()
    }

    /// What folding changed in all, `None` if nothing was folded.
    #[must_use]
    pub fn folding(&self) -> Option<FoldSummary> {
        self.folds.iter().copied().reduce(|total, next| FoldSummary {
            max_weight_change: total.max_weight_change.max(next.max_weight_change),
            max_rank_one: total.max_rank_one.max(next.max_rank_one),
            unties_head: total.unties_head || next.unties_head,
        })
    }
}

/// Why `rule` does not keep what the ranks compute with their own replicas; `None` if it does.
#[must_use]
pub fn inexact_because(architecture: &Architecture, param: &Param, rule: Rule) -> Option<Loss> {
    let replicas = param.value.tensors();
    let count = replicas.len();
    if rule == Rule::Fold {
        return None;
    }
    let loss = |reason: String| Some(Loss { name: param.name.clone(), reason });
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
        return loss(format!(
            "every rank adds its own before the all-reduce, so the sum counts: `{rule}` keeps {multiple}/{count} of it"
        ));
    }
    if (multiple - 1.0).abs() > f64::EPSILON {
        if all_zero(replicas) {
            return None;
        }
        let place = match param.kind {
            Kind::RowParallelBias => "each rank adds it once, after the all-reduce",
            _ => "the model uses it once",
        };
        return loss(format!("{place}: `{rule}` makes it {multiple} times what it is"));
    }
    if param.value.ranks_agree() {
        return None;
    }
    loss(match param.kind {
        Kind::RowParallelBias | Kind::LearnedPositions => {
            format!("replicas differ, so every rank has a residual stream of its own: `{rule}` keeps one")
        }
        _ => format!("replicas differ between ranks: `{rule}` keeps one value"),
    })
}

fn all_zero(replicas: &[HostTensor]) -> bool {
    replicas.iter().all(|replica| replica.to_f64().is_ok_and(|values| values.iter().all(|&value| value == 0.0)))
}
