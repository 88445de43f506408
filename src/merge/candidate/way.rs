//! The ways in which the tensors of a merge are made of the checkpoint's.

use crate::config::Residual;
use crate::merge::Rule;
use crate::merge::reduce::{reduce, rules_of};
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

    /// Every rule that a converter may have applied to these replicas, the model's own first.
    pub(super) fn of_replicas(
        kind: Kind,
        role: Role,
        residual: Residual,
        replicas: &[HostTensor],
    ) -> Result<Vec<Self>, TensorError> {
        let mut expected: Vec<Self> = Vec::new();
        for rule in rules_of(kind, residual, replicas.len()) {
            let tensor = reduce(replicas, rule.for_role(role), Arithmetic::Float64)?;
            let scale = match rule {
                Rule::Sum => Some(magnitudes(replicas, 1.0)?),
                // Half a step of the sum, divided with it.
                Rule::Mean => Some(magnitudes(replicas, 0.5)?),
                _ => None,
            };
            expected.push(Self { way: Way::Rule(rule), tensor, scale });
        }
        Ok(expected)
    }

    /// To be compared with a sum of these, each of which was rounded.
    pub(super) fn beside_sum(mut self, parts: &[HostTensor]) -> Result<Self, TensorError> {
        let of_parts = magnitudes(parts, 2.0)?;
        self.scale = Some(match self.scale {
            Some(scale) => scale.into_iter().zip(of_parts).map(|(own, of_parts)| own.max(of_parts)).collect(),
            None => of_parts,
        });
        Ok(self)
    }

    pub(super) fn follows(&self, found: &HostTensor) -> Result<Option<Follows>, TensorError> {
        let agreement = agreement(&self.tensor, found, self.scale.as_deref())?;
        Ok(agreement.map(|agreement| Follows { way: self.way, agreement }))
    }
}

/// Of every element the sum of the magnitudes, times a factor.
fn magnitudes(replicas: &[HostTensor], factor: f64) -> Result<Vec<f64>, TensorError> {
    let mut total = vec![0.0; replicas.first().map_or(0, HostTensor::element_count)];
    for replica in replicas {
        total.iter_mut().zip(replica.to_f64()?).for_each(|(total, value)| *total += factor * value.abs());
    }
    Ok(total)
}
