//! The ways in which the tensors of a merge are made of the checkpoint's.

use crate::config::Residual;
use crate::merge::Rule;
use crate::merge::reduce::reduce;
use crate::partition::{Kind, Role};
use crate::tensor::{Agreement, Arithmetic, HostTensor, TensorError, agreement};

/// How a tensor is made of what the ranks hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// The ranks' shards, joined.
    Shards,
    /// What folding the norm that it belongs to, or that it reads, makes of it.
    Folded,
    /// A rule applied to the replicas.
    Rule(Rule),
    /// Each rank keeps its own replica.
    Kept,
}

impl std::fmt::Display for Way {
    /// What a tensor is that follows it: `the mean of the ranks'`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shards => formatter.write_str("the joined shards, not folded"),
            Self::Folded => formatter.write_str("folded"),
            Self::Rule(Rule::Rank(tp_rank)) => write!(formatter, "rank {tp_rank}'s copy"),
            Self::Rule(rule) => write!(formatter, "the {rule} of the ranks'"),
            Self::Kept => formatter.write_str("each rank's own"),
        }
    }
}

/// A way that a tensor follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Follows {
    pub way: Way,
    pub agreement: Agreement,
}

/// What a way makes of a parameter.
#[derive(Debug, Clone)]
pub(super) struct Expectation {
    pub way: Way,
    pub tensor: HostTensor,
    /// Magnitudes that were summed.
    scale: Option<Vec<f64>>,
}

impl Expectation {
    pub(super) fn copied(way: Way, tensor: &HostTensor) -> Self {
        Self { way, tensor: tensor.clone(), scale: None }
    }

    /// Every rule that a converter may have applied to these replicas, each result once; the model's own first.
    pub(super) fn of_replicas(
        kind: Kind,
        role: Role,
        residual: Residual,
        replicas: &[HostTensor],
    ) -> Result<Vec<Self>, TensorError> {
        let mut expected: Vec<Self> = Vec::new();
        let mut scale = Vec::new();
        for rule in crate::merge::reduce::rules_of(kind, residual, replicas.len()) {
            let tensor = reduce(replicas, rule.for_role(role), Arithmetic::Float64)?;
            if expected.iter().any(|known| known.tensor.same_bits(&tensor)) {
                continue;
            }
            let computed = matches!(rule, Rule::Mean | Rule::Sum);
            if computed && scale.is_empty() {
                scale = magnitudes(replicas)?;
            }
            expected.push(Self { way: Way::Rule(rule), tensor, scale: computed.then(|| scale.clone()) });
        }
        Ok(expected)
    }

    pub(super) fn agreement(&self, found: &HostTensor) -> Result<Option<Agreement>, TensorError> {
        agreement(&self.tensor, found, self.scale.as_deref())
    }

    pub(super) fn follows(&self, found: &HostTensor) -> Result<Option<Follows>, TensorError> {
        Ok(self.agreement(found)?.map(|agreement| Follows { way: self.way, agreement }))
    }
}

/// Of every element the sum of the magnitudes.
fn magnitudes(replicas: &[HostTensor]) -> Result<Vec<f64>, TensorError> {
    let mut total = vec![0.0; replicas.first().map_or(0, HostTensor::element_count)];
    for replica in replicas {
        total.iter_mut().zip(replica.to_f64()?).for_each(|(total, value)| *total += value.abs());
    }
    Ok(total)
}
