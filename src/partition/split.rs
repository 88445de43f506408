//! Joining shards and its exact inverse.

use std::ops::Range;

use super::error::PartitionError;
use super::kinds::Partition;
use crate::tensor::{HostTensor, Piece, concatenate};

/// The ranges of the joined tensor that a rank holds, in the order in which they lie in its shard.
pub fn rank_ranges(partition: &Partition, tp_size: usize, tp_rank: usize) -> Result<Vec<Range<usize>>, PartitionError> {
    let blocks = &partition.blocks;
    if tp_size == 0 || tp_rank >= tp_size || blocks.iter().any(|block| !block.is_multiple_of(tp_size)) {
        let extent = blocks.iter().sum();
        return Err(PartitionError::Indivisible { extent, tp_size, blocks: blocks.clone() });
    }
    let mut start = 0;
    let ranges = blocks.iter().map(|&block| {
        let part = block / tp_size;
        let range = start + tp_rank * part..start + (tp_rank + 1) * part;
        start += block;
        range
    });
    Ok(ranges.collect())
}

/// Joins one shard per rank, in rank order. Copies bytes; no arithmetic.
pub fn join(partition: &Partition, shards: &[HostTensor]) -> Result<HostTensor, PartitionError> {
    let tp_size = shards.len();
    let extent: usize = partition.blocks.iter().sum();
    for shard in shards {
        if shard.shape().get(partition.dim).and_then(|part| part.checked_mul(tp_size)) != Some(extent) {
            let blocks = partition.blocks.clone();
            return Err(PartitionError::Indivisible { extent, tp_size, blocks });
        }
    }
    let mut pieces = Vec::with_capacity(partition.blocks.len() * tp_size);
    let mut start = 0;
    for &block in &partition.blocks {
        if tp_size == 0 || !block.is_multiple_of(tp_size) {
            return Err(PartitionError::Indivisible { extent, tp_size, blocks: partition.blocks.clone() });
        }
        let part = block / tp_size;
        pieces.extend(shards.iter().map(|tensor| Piece { tensor, range: start..start + part }));
        start += part;
    }
    Ok(concatenate(partition.dim, &pieces)?)
}

/// The inverse of [`join`]: one shard per rank.
pub fn split(partition: &Partition, joined: &HostTensor, tp_size: usize) -> Result<Vec<HostTensor>, PartitionError> {
    let found = joined.shape().get(partition.dim).copied();
    if found != Some(partition.blocks.iter().sum()) {
        let (extent, blocks) = (found.unwrap_or(0), partition.blocks.clone());
        return Err(PartitionError::Indivisible { extent, tp_size, blocks });
    }
    (0..tp_size)
        .map(|tp_rank| {
            let ranges = rank_ranges(partition, tp_size, tp_rank)?;
            let pieces: Vec<_> = ranges.into_iter().map(|range| Piece { tensor: joined, range }).collect();
            Ok(concatenate(partition.dim, &pieces)?)
        })
        .collect()
}
