//! Whether a merge is the unmerged model, and if not, which parameters make it another one. Judged by the rule, the place
//! of the bias in the forward pass, and whether the replicas agree; no forward pass is needed.

use std::collections::BTreeMap;

use super::Rule;
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exactness {
    losses: BTreeMap<(String, String), Vec<StageId>>,
}

impl Exactness {
    pub(super) fn add(&mut self, stage: StageId, loss: Loss) {
        self.losses.entry((loss.name, loss.reason)).or_default().push(stage);
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
}

/// Why `rule` does not keep what the ranks compute with their own replicas; `None` if it does.
#[must_use]
pub fn inexact_because(
    architecture: &Architecture,
    param: &Param,
    replicas: &[HostTensor],
    rule: Rule,
) -> Option<Loss> {
    let loss = |reason: String| Some(Loss { name: param.name.clone(), reason });
    let count = replicas.len();
    if count < 2 {
        return None;
    }
    let agree = param.value.ranks_agree();
    // How many times the mean the rule keeps; a replica counts as one.
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let ranks = count as f64;
    let multiple = match rule {
        Rule::Sum => ranks,
        Rule::Scale(factor) => factor,
        _ => 1.0,
    };
    if param.kind == Kind::RowParallelBias && architecture.residual == Residual::Parallel {
        if rule == Rule::Sum || (multiple - ranks).abs() < f64::EPSILON || all_zero(replicas) {
            return None;
        }
        return loss(format!("added by every rank before the all-reduce: the sum counts, `{rule}` keeps {multiple}/{count} of it"));
    }
    if (multiple - 1.0).abs() > f64::EPSILON && !all_zero(replicas) {
        let place = if param.kind == Kind::RowParallelBias { "added once, after the all-reduce" } else { "used once" };
        return loss(format!("{place}: `{rule}` makes it {multiple} times too large"));
    }
    if agree {
        return None;
    }
    loss(format!("replicas differ between ranks, `{rule}` keeps one value"))
}

fn all_zero(replicas: &[HostTensor]) -> bool {
    replicas.iter().all(|replica| replica.to_f64().is_ok_and(|values| values.iter().all(|&value| value == 0.0)))
}
