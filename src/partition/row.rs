//! A row of the partition table.

use super::error::PartitionError;
use super::kinds::{Kind, Partition, Presence, Role, StageKind};
use crate::config::Architecture;

#[derive(Debug)]
pub struct Row {
    pub role: Role,
    /// Its names inside a layer file, one per era.
    pub names: &'static [&'static str],
    pub stage: StageKind,
    pub kind: Kind,
    pub presence: fn(&Architecture) -> Presence,
    /// Shape of the joined tensor (of one replica, where it is replicated).
    pub shape: fn(&Architecture) -> Vec<usize>,
    /// Blocks along the partition dimension where there is more than one.
    pub blocks: Option<fn(&Architecture) -> Vec<usize>>,
}

impl Row {
    /// How shards make the joined tensor; `None` for replicas and buffers.
    pub fn partition(&self, architecture: &Architecture) -> Option<Partition> {
        let dim = self.kind.partition_dim()?;
        let blocks = match self.blocks {
            Some(blocks) => blocks(architecture),
            None => vec![(self.shape)(architecture)[dim]],
        };
        Some(Partition { dim, blocks })
    }

    pub fn rank_shape(&self, architecture: &Architecture, tp_size: usize) -> Result<Vec<usize>, PartitionError> {
        let mut shape = (self.shape)(architecture);
        if let Some(partition) = self.partition(architecture) {
            let extent = shape[partition.dim];
            if tp_size == 0 || partition.blocks.iter().any(|block| !block.is_multiple_of(tp_size)) {
                return Err(PartitionError::Indivisible { extent, tp_size, blocks: partition.blocks });
            }
            shape[partition.dim] = extent / tp_size;
        }
        Ok(shape)
    }
}
