//! A tensor in several host tensors, and parts of it as bytes to write. Shards that the output has one behind another
//! are never joined: their bytes go to the file as they are.

use std::ops::Range;

use crate::partition::{Partition, PartitionError, rank_ranges};
use crate::tensor::{DType, HostTensor, Piece, TensorError, concatenate};

/// Runs of at least so many bytes are written in place: passing one on costs less than copying it.
const SHORTEST_RUN: usize = 512;

/// A run of bytes of a host tensor.
#[derive(Debug, Clone)]
pub(super) struct ByteSpan {
    tensor: HostTensor,
    range: Range<usize>,
}

impl ByteSpan {
    pub(super) fn whole(tensor: HostTensor) -> Self {
        let range = 0..tensor.bytes().len();
        Self { tensor, range }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.tensor.bytes()[self.range.clone()]
    }
}

/// One tensor, cut along one dimension into parts of host tensors.
#[derive(Debug, Clone)]
pub(super) struct ShardedTensor {
    dim: usize,
    shape: Vec<usize>,
    dtype: DType,
    /// In the order of the joined tensor, without gaps.
    slices: Vec<Slice>,
}

/// A part of the joined tensor: its place there, and its elements.
#[derive(Debug, Clone)]
struct Slice {
    start: usize,
    tensor: HostTensor,
    range: Range<usize>,
}

impl ShardedTensor {
    pub(super) fn whole(tensor: HostTensor) -> Self {
        Self::whole_along(tensor, 0)
    }

    /// The tensor that these shards make, one a rank, in rank order.
    ///
    /// # Errors
    /// Shards that do not have the partition's shape, or that differ in type.
    pub(super) fn of_shards(partition: &Partition, shards: &[HostTensor]) -> Result<Self, PartitionError> {
        let tp_size = shards.len();
        let first = shards.first().ok_or(TensorError::Empty)?;
        let (mut shape, dtype) = (first.shape().to_vec(), first.dtype());
        let extent: usize = partition.blocks.iter().sum();
        let mut slices = Vec::new();
        for (tp_rank, tensor) in shards.iter().enumerate() {
            first.check_same_form(tensor)?;
            let mut at = 0;
            for range in rank_ranges(partition, tp_size, tp_rank)? {
                let (start, length) = (range.start, range.len());
                slices.push(Slice { start, tensor: tensor.clone(), range: at..at + length });
                at += length;
            }
            if shape.get(partition.dim) != Some(&at) {
                let blocks = partition.blocks.clone();
                return Err(PartitionError::Indivisible { extent, tp_size, blocks });
            }
        }
        shape[partition.dim] = extent;
        slices.sort_by_key(|slice| slice.start);
        Ok(Self { dim: partition.dim, shape, dtype, slices })
    }

    /// Of the joined tensor.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(super) fn all(&self) -> Result<Vec<ByteSpan>, TensorError> {
        let extent = self.shape.get(self.dim).copied().unwrap_or(1);
        self.ranges(self.dim, std::slice::from_ref(&(0..extent)))
    }

    /// These ranges along `dim`, one behind another. Copies only what would be very many short runs of bytes.
    pub(super) fn ranges(&self, dim: usize, ranges: &[Range<usize>]) -> Result<Vec<ByteSpan>, TensorError> {
        if dim != self.dim {
            return Self::whole_along(self.joined()?, dim).ranges(dim, ranges);
        }
        let parts: Vec<_> = ranges.iter().flat_map(|range| self.parts(range)).collect();
        let outer: usize = self.shape.iter().take(dim).product();
        let element_bytes = self.shape.iter().skip(dim + 1).product::<usize>() * self.dtype.size();
        if outer > 1 && parts.iter().any(|(_, range)| range.len() * element_bytes < SHORTEST_RUN) {
            let pieces: Vec<_> = parts.into_iter().map(|(tensor, range)| Piece { tensor, range }).collect();
            return Ok(vec![ByteSpan::whole(concatenate(dim, &pieces)?)]);
        }
        let mut spans: Vec<ByteSpan> = Vec::new();
        for row in 0..outer {
            for (tensor, range) in &parts {
                let before = row * tensor.shape().get(dim).copied().unwrap_or(1);
                let range = (before + range.start) * element_bytes..(before + range.end) * element_bytes;
                match spans.last_mut() {
                    Some(last) if last.tensor.storage_id() == tensor.storage_id() && last.range.end == range.start => {
                        last.range.end = range.end;
                    }
                    _ => spans.push(ByteSpan { tensor: (*tensor).clone(), range }),
                }
            }
        }
        Ok(spans)
    }

    /// The same tensor with so many rows: without those beyond, or with rows of zeros behind it.
    pub(super) fn with_rows(&self, rows: usize) -> Result<Self, TensorError> {
        let mut resized = if self.dim == 0 { self.clone() } else { Self::whole_along(self.joined()?, 0) };
        let there = resized.shape.first().copied().unwrap_or(0);
        if rows > there {
            let missing = rows - there;
            let shape: Vec<_> = std::iter::once(missing).chain(self.shape.iter().skip(1).copied()).collect();
            let bytes = vec![0; shape.iter().product::<usize>() * self.dtype.size()];
            let tensor = HostTensor::new(self.dtype, shape, bytes)?;
            resized.slices.push(Slice { start: there, tensor, range: 0..missing });
        }
        resized.slices.retain(|slice| slice.start < rows);
        for slice in &mut resized.slices {
            slice.range.end = slice.range.end.min(slice.range.start + rows - slice.start);
        }
        if let Some(extent) = resized.shape.first_mut() {
            *extent = rows;
        }
        Ok(resized)
    }

    fn whole_along(tensor: HostTensor, dim: usize) -> Self {
        let (shape, dtype) = (tensor.shape().to_vec(), tensor.dtype());
        let range = 0..shape.get(dim).copied().unwrap_or(1);
        Self { dim, shape, dtype, slices: vec![Slice { start: 0, tensor, range }] }
    }

    pub(super) fn joined(&self) -> Result<HostTensor, TensorError> {
        let pieces = self.slices.iter().map(|slice| Piece { tensor: &slice.tensor, range: slice.range.clone() });
        concatenate(self.dim, &pieces.collect::<Vec<_>>())
    }

    /// The parts that make up a range along the own dimension.
    fn parts(&self, wanted: &Range<usize>) -> impl Iterator<Item = (&HostTensor, Range<usize>)> {
        let wanted = wanted.clone();
        self.slices.iter().filter_map(move |slice| {
            let start = wanted.start.max(slice.start);
            let end = wanted.end.min(slice.start + slice.range.len());
            let at = slice.range.start;
            (start < end).then(|| (&slice.tensor, at + start - slice.start..at + end - slice.start))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{join, split};

    fn numbered(shape: &[usize]) -> HostTensor {
        let count = shape.iter().product::<usize>();
        HostTensor::new(DType::U8, shape.to_vec(), (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect())
            .unwrap()
    }

    fn bytes(spans: &[ByteSpan]) -> Vec<u8> {
        spans.iter().flat_map(|span| span.bytes().to_vec()).collect()
    }

    #[test]
    fn from_any_number_of_ranks_to_any_other() {
        let along_rows = Partition { dim: 0, blocks: vec![12, 24, 12] };
        let along_columns = Partition { dim: 1, blocks: vec![24, 24] };
        for partition in [along_rows, along_columns] {
            let joined = numbered(&[48, 48]);
            for from in [1, 2, 3, 4] {
                let sharded = ShardedTensor::of_shards(&partition, &split(&partition, &joined, from).unwrap()).unwrap();
                assert_eq!((sharded.shape(), sharded.dtype()), (&[48, 48][..], DType::U8));
                assert_eq!(bytes(&sharded.all().unwrap()), joined.bytes());
                for to in [1, 2, 3, 4, 6, 12] {
                    for (tp_rank, expected) in split(&partition, &joined, to).unwrap().iter().enumerate() {
                        let ranges = rank_ranges(&partition, to, tp_rank).unwrap();
                        let spans = sharded.ranges(partition.dim, &ranges).unwrap();
                        assert_eq!(bytes(&spans), expected.bytes(), "{from} to {to}, rank {tp_rank}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_are_cut_off_and_bytes_are_not_copied() {
        let joined = numbered(&[8, 6]);
        for dim in [0, 1] {
            let partition = Partition { dim, blocks: vec![[8, 6][dim]] };
            let shards = split(&partition, &joined, 2).unwrap();
            let sharded = ShardedTensor::of_shards(&partition, &shards).unwrap();
            let kept = sharded.with_rows(5).unwrap();
            assert_eq!((kept.shape(), bytes(&kept.all().unwrap())), (&[5, 6][..], joined.bytes()[..30].to_vec()));
            assert_eq!(bytes(&sharded.ranges(0, &[6..8, 1..2]).unwrap())[..12], joined.bytes()[36..48]);
            if dim == 0 {
                let spans = sharded.all().unwrap();
                assert!(spans.iter().zip(&shards).all(|(span, shard)| span.tensor.storage_id() == shard.storage_id()));
            } else {
                assert!(join(&partition, &shards).unwrap().same_bits(&joined));
            }
        }
    }

    #[test]
    fn shards_must_fit() {
        let partition = Partition { dim: 0, blocks: vec![8] };
        assert!(ShardedTensor::of_shards(&partition, &[numbered(&[4, 2]), numbered(&[3, 2])]).is_err());
        assert!(ShardedTensor::of_shards(&partition, &[numbered(&[3, 2]), numbered(&[3, 2])]).is_err());
        assert!(ShardedTensor::of_shards(&partition, &[]).is_err());
    }
}
