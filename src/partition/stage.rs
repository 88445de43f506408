//! A stage of a model in host memory: read, merged, run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kinds::{Kind, Role};
use crate::tensor::HostTensor;

/// Which stage of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StageId {
    /// Word embedding and positions.
    Embedding,
    /// Transformer layer, 0-based.
    Layer(usize),
    /// Final norm and output head.
    Output,
}

impl std::fmt::Display for StageId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedding => formatter.write_str("embedding"),
            Self::Layer(number) => write!(formatter, "layer {number}"),
            Self::Output => formatter.write_str("output"),
        }
    }
}

/// A parameter of a stage, for all ranks at once.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name in the file it came from.
    pub name: String,
    pub kind: Kind,
    pub value: ParamValue,
}

#[derive(Debug, Clone)]
pub enum ParamValue {
    /// A partitioned parameter, joined; each rank's shard is a range of it (see [`super::rank_ranges`]).
    Joined(HostTensor),
    /// A replicated parameter: one replica a rank, in rank order.
    Replicas(Vec<HostTensor>),
}

impl ParamValue {
    /// Whether all ranks hold the same bits. True of joined tensors.
    pub fn ranks_agree(&self) -> bool {
        match self {
            Self::Joined(_) => true,
            Self::Replicas(replicas) => replicas.windows(2).all(|pair| pair[0].same_bits(&pair[1])),
        }
    }

    pub fn tensors(&self) -> &[HostTensor] {
        match self {
            Self::Joined(tensor) => std::slice::from_ref(tensor),
            Self::Replicas(replicas) => replicas,
        }
    }
}

/// All used parameters of one stage. A merged model is one with `tp_size` 1.
#[derive(Debug, Clone)]
pub struct StageTensors {
    pub id: StageId,
    pub tp_size: usize,
    pub params: BTreeMap<Role, Param>,
}

impl StageTensors {
    /// Whether both hold the same parameters of the same ranks, bit for bit.
    pub fn same_bits(&self, other: &Self) -> bool {
        let same = |(left, right): (&Param, &Param)| {
            let (left, right) = (left.value.tensors(), right.value.tensors());
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.same_bits(right))
        };
        self.tp_size == other.tp_size
            && self.params.keys().eq(other.params.keys())
            && self.params.values().zip(other.params.values()).all(same)
    }

    pub fn get(&self, role: Role) -> Option<&Param> {
        self.params.get(&role)
    }

    /// The replicas of a role; empty if the stage has none or it is partitioned.
    pub fn replicas(&self, role: Role) -> &[HostTensor] {
        match self.get(role).map(|param| &param.value) {
            Some(ParamValue::Replicas(replicas)) => replicas,
            _ => &[],
        }
    }

    /// Whether all ranks hold the same bits of a role (true where the stage has none).
    pub fn ranks_agree(&self, role: Role) -> bool {
        self.get(role).is_none_or(|param| param.value.ranks_agree())
    }
}
