//! The inputs of folding: the norm's replicas and the layers that read it.

use crate::config::Architecture;
use crate::merge::norms::{NormUnit, ReaderRoles};
use crate::partition::{ParamValue, PartitionError, PartitionTable, Role, StageTensors, rank_ranges};
use crate::tensor::HostTensor;

/// The replicas of a norm in float64: one gain and (for LayerNorm) one bias per rank.
#[derive(Debug)]
pub(super) struct Replicas {
    pub gains: Vec<Vec<f64>>,
    pub biases: Option<Vec<Vec<f64>>>,
}

impl Replicas {
    /// `width` elements each; the one gain of a scalenorm is repeated.
    pub(super) fn read(stage: &StageTensors, unit: NormUnit, width: usize) -> Result<Self, PartitionError> {
        let widened = |values: Vec<f64>| if values.len() == 1 { vec![values[0]; width] } else { values };
        let read = |role| {
            let replicas = stage.replicas(role).iter().map(|replica| Ok(widened(replica.to_f64()?)));
            replicas.collect::<Result<Vec<_>, PartitionError>>()
        };
        let biases = read(unit.bias)?;
        Ok(Self { gains: read(unit.gain)?, biases: (!biases.is_empty()).then_some(biases) })
    }
}

/// A layer that reads the norm: its joined weight, the rank of each row, and its bias.
pub(super) struct Reader<'a> {
    pub role: Role,
    pub weight: &'a HostTensor,
    pub ranks: Vec<usize>,
    pub bias: Option<(Role, &'a HostTensor)>,
}

impl<'a> Reader<'a> {
    /// `None` where the model has no such layer.
    pub(super) fn find(
        stage: &'a StageTensors,
        architecture: &Architecture,
        roles: ReaderRoles,
    ) -> Result<Option<Self>, PartitionError> {
        let Some(weight) = joined(stage, roles.weight) else { return Ok(None) };
        let bias = roles.bias.and_then(|role| Some((role, joined(stage, role)?)));
        let ranks = rank_of_rows(architecture, roles.weight, stage.tp_size)?;
        Ok(ranks.map(|ranks| Self { role: roles.weight, weight, ranks, bias }))
    }
}

/// The joined tensor of a partitioned parameter, if the stage has it.
pub(in crate::merge) fn joined(stage: &StageTensors, role: Role) -> Option<&HostTensor> {
    match stage.get(role).map(|param| &param.value) {
        Some(ParamValue::Joined(tensor)) => Some(tensor),
        _ => None,
    }
}

/// The rank that each row of a joined column-parallel weight belongs to; `None` if the weight is not partitioned.
pub(in crate::merge) fn rank_of_rows(
    architecture: &Architecture,
    weight: Role,
    tp_size: usize,
) -> Result<Option<Vec<usize>>, PartitionError> {
    let Some(partition) = PartitionTable::new(architecture).partition(weight) else { return Ok(None) };
    let mut ranks = vec![0; partition.blocks.iter().sum()];
    for tp_rank in 0..tp_size {
        rank_ranges(&partition, tp_size, tp_rank)?.into_iter().for_each(|range| ranks[range].fill(tp_rank));
    }
    Ok(Some(ranks))
}
