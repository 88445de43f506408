//! The plan of a run: all its passages in packed order, cut into chunks once. Everything that divides work (slices, run
//! shards, devices, threads) divides it into whole chunks, so that every number is computed in the same sums everywhere.
//! Where a run may stop early, the passages are cut into blocks first, and no slice has chunks of two blocks.

use std::collections::BTreeSet;
use std::ops::Range;

use super::packing::{Chunk, Packed, TokenizedPassage};

/// Passages that the noise floor is measured on, at most.
const NOISE_PASSAGES: usize = 512;

/// All passages of a run and where they are cut; chunks are numbered 0, 1, 2, …, in every block from the longest passages to the
/// shortest.
#[derive(Debug, Clone)]
pub struct ChunkPlan {
    pub(super) packed: Packed,
    chunk_tokens: usize,
    /// Of every chunk: its passages, as a range of [`Packed::passages`], and its tokens.
    chunks: Vec<(Range<usize>, usize)>,
    /// The chunks that are computed again in other sums.
    noise: BTreeSet<usize>,
    /// Of every block: its chunks.
    blocks: Vec<Range<usize>>,
}

/// The chunks of a plan that a process computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    pub chunks: Vec<usize>,
    pub done: BTreeSet<usize>,
}

/// Some chunks of a plan, laid out one after the other for one device.
#[derive(Debug, Clone)]
pub(super) struct DeviceChunks {
    pub packed: Packed,
    pub chunks: Vec<Chunk>,
    pub numbers: Vec<usize>,
    /// Of each, whether it is computed again in other sums.
    pub noise: Vec<bool>,
    /// The longest passage of the plan, in tokens: what is made for so many positions is the same on every device.
    pub longest: usize,
    chunk_tokens: usize,
}

impl ChunkPlan {
    /// Cuts passages into chunks of at most so many tokens; a longer passage is a chunk by itself.
    pub fn new(passages: Vec<TokenizedPassage>, chunk_tokens: usize) -> Self {
        Self::in_blocks(vec![passages], chunk_tokens)
    }

    /// The same of blocks of passages, one after the other.
    pub fn in_blocks(blocks: Vec<Vec<TokenizedPassage>>, chunk_tokens: usize) -> Self {
        let sizes: Vec<usize> = blocks.iter().map(Vec::len).collect();
        let packed = Packed::in_blocks(blocks);
        let (mut chunks, mut blocks, mut place) = (Vec::new(), Vec::new(), 0);
        for size in sizes {
            let of_block = packed.cut(place..place + size, chunk_tokens);
            let first = chunks.len();
            chunks.extend(of_block.into_iter().map(|chunk| (chunk.passages, chunk.rows.len())));
            blocks.push(first..chunks.len());
            place += size;
        }
        let noise = noise_chunks(&chunks);
        Self { packed, chunk_tokens, chunks, noise, blocks }
    }

    /// Tokens that are computed again for the noise floor.
    pub(super) fn noise_tokens(&self, chunks: &[usize]) -> usize {
        chunks.iter().filter(|chunk| self.noise.contains(chunk)).map(|&chunk| self.chunks[chunk].1).sum()
    }

    pub fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    pub fn longest(&self) -> usize {
        self.packed.passages.iter().map(TokenizedPassage::length).max().unwrap_or(0)
    }

    /// Of every block: its chunks.
    pub fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    pub fn tokens(&self, chunks: &[usize]) -> usize {
        chunks.iter().map(|&chunk| self.chunks[chunk].1).sum()
    }

    pub fn passages(&self, chunk: usize) -> &[TokenizedPassage] {
        &self.packed.passages[self.chunks[chunk].0.clone()]
    }

    pub fn whole(&self) -> Assignment {
        Assignment { chunks: (0..self.chunk_count()).collect(), done: BTreeSet::new() }
    }

    /// The chunks of one of `count` processes, counted from 1: every `count`-th chunk, so that each has long passages and
    /// short ones. Where there are fewer chunks than processes, the last ones get none.
    pub fn shard(&self, index: usize, count: usize) -> Assignment {
        let chunks = (index.saturating_sub(1)..self.chunk_count()).step_by(count.max(1)).collect();
        Assignment { chunks, done: BTreeSet::new() }
    }

    /// Divides chunks into slices that are computed one after the other, each of one block and of at most `max_tokens` tokens or
    /// one chunk.
    pub fn slices(&self, chunks: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
        let mut slices: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0;
        for &chunk in chunks {
            tokens += self.tokens(&[chunk]);
            match slices.last_mut() {
                Some(slice) if tokens <= max_tokens && !self.begins_block(chunk) => slice.push(chunk),
                _ => {
                    slices.push(vec![chunk]);
                    tokens = self.tokens(&[chunk]);
                }
            }
        }
        slices
    }

    fn begins_block(&self, chunk: usize) -> bool {
        self.blocks.iter().any(|block| block.start == chunk)
    }

    /// Lays out chunks of one block, given in ascending order.
    pub(super) fn lay_out(&self, numbers: &[usize]) -> DeviceChunks {
        let passages = numbers.iter().flat_map(|&chunk| self.passages(chunk).iter().cloned()).collect();
        // In packed order already, and so they stay.
        let packed = Packed::new(passages);
        let mut first = 0;
        let chunks = numbers.iter().map(|&number| {
            let start = first;
            first += self.chunks[number].0.len();
            packed.chunk(start..first)
        });
        DeviceChunks {
            chunks: chunks.collect(),
            packed,
            numbers: numbers.to_vec(),
            noise: numbers.iter().map(|number| self.noise.contains(number)).collect(),
            longest: self.longest(),
            chunk_tokens: self.chunk_tokens,
        }
    }

    /// All chunks of a plan of one block.
    pub(super) fn everything(&self) -> DeviceChunks {
        self.lay_out(&self.whole().chunks)
    }
}

impl DeviceChunks {
    /// The passages of the noise floor in smaller chunks, each chunk cut on its own: to compute the same in other sums. `all`:
    /// with the other chunks as they are.
    pub(super) fn rechunked(&self, all: bool) -> Vec<Chunk> {
        let finer = |chunk: &Chunk| {
            // A chunk of few tokens may fit the smaller size too: half of it is another chunking all the same.
            let tokens = (self.chunk_tokens / 3 + 1).min(chunk.rows.len().div_ceil(2));
            self.packed.cut(chunk.passages.clone(), tokens)
        };
        let chunks = self.chunks.iter().zip(&self.noise);
        let parts = chunks.map(|(chunk, &noise)| match (noise, all) {
            (true, _) => finer(chunk),
            (false, true) => vec![chunk.clone()],
            (false, false) => Vec::new(),
        });
        parts.flatten().collect()
    }

    /// The passages that the noise floor has scores of, by [`TokenizedPassage::index`].
    pub(super) fn noise_passages(&self) -> BTreeSet<usize> {
        let chunks = self.chunks.iter().zip(&self.noise).filter(|(_, noise)| **noise);
        chunks
            .flat_map(|(chunk, _)| &self.packed.passages[chunk.passages.clone()])
            .map(|passage| passage.index)
            .collect()
    }
}

/// Every so many chunks, so that long passages and short ones are among them, the first in any case.
fn noise_chunks(chunks: &[(Range<usize>, usize)]) -> BTreeSet<usize> {
    let count = |step: usize| chunks.iter().step_by(step).map(|(passages, _)| passages.len()).sum::<usize>();
    let step = (1..chunks.len()).find(|&step| count(step) <= NOISE_PASSAGES).unwrap_or(chunks.len().max(1));
    (0..chunks.len()).step_by(step).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_plan() -> impl Strategy<Value = ChunkPlan> {
        let ids = |longest| prop::collection::vec(0_u32..3, 1..longest);
        (prop::collection::vec((ids(12), ids(4)), 0..40), 0_usize..40).prop_map(|(pairs, chunk_tokens)| {
            let passage = |(index, (context, target)): (usize, &(Vec<u32>, Vec<u32>))| {
                TokenizedPassage::new(index, context, target, 2048).unwrap()
            };
            ChunkPlan::new(pairs.iter().enumerate().map(passage).collect(), chunk_tokens)
        })
    }

    /// A chunk's passages, and which of its rows predict what: all that is computed from.
    fn contents(
        laid_out: &DeviceChunks,
    ) -> Vec<(Vec<TokenizedPassage>, Vec<super::super::packing::Group>, Vec<usize>)> {
        let of_chunk = |chunk: &Chunk| {
            let passages = laid_out.packed.passages[chunk.passages.clone()].to_vec();
            (passages, chunk.groups.clone(), chunk.targets.iter().map(|target| target.row).collect())
        };
        laid_out.chunks.iter().map(of_chunk).collect()
    }

    proptest! {
        #[test]
        fn any_division_computes_the_same_chunks(plan in any_plan(), shards in 1_usize..9, max_tokens in 0_usize..200) {
            let whole = plan.everything();
            prop_assert_eq!(&whole.packed, &plan.packed);
            prop_assert_eq!(whole.chunks.clone(), plan.packed.chunks(plan.chunk_tokens));
            let expected = contents(&whole);
            let mut seen = BTreeSet::new();
            for index in 1..=shards {
                let assignment = plan.shard(index, shards);
                for slice in plan.slices(&assignment.chunks, max_tokens) {
                    prop_assert!(plan.tokens(&slice) <= max_tokens || slice.len() == 1);
                    let laid_out = plan.lay_out(&slice);
                    for (number, found) in laid_out.numbers.iter().zip(contents(&laid_out)) {
                        prop_assert!(seen.insert(*number));
                        prop_assert_eq!(&found, &expected[*number]);
                    }
                }
            }
            prop_assert!(seen.into_iter().eq(plan.whole().chunks));
        }

        #[test]
        fn blocks_hold_every_passage_once_and_are_computed_one_after_the_other(
            plan in any_plan(), sizes in prop::collection::vec(0_usize..9, 0..6), max_tokens in 0_usize..200,
        ) {
            let mut left = plan.packed.passages.clone();
            let mut blocks: Vec<_> = sizes.iter().map(|&size| left.drain(..size.min(left.len())).collect()).collect();
            blocks.push(left);
            let indices = |passages: &[TokenizedPassage]| passages.iter().map(|passage| passage.index).collect::<BTreeSet<_>>();
            let expected: Vec<_> = blocks.iter().map(|block: &Vec<TokenizedPassage>| indices(block)).collect();
            let cut = ChunkPlan::in_blocks(blocks.clone(), plan.chunk_tokens);
            prop_assert_eq!(cut.longest(), plan.longest());
            let found = cut.blocks().iter().map(|chunks| chunks.clone().flat_map(|chunk| cut.passages(chunk).to_vec()).collect());
            let found: Vec<Vec<_>> = found.collect();
            prop_assert_eq!(found.iter().map(|block| indices(block)).collect::<Vec<_>>(), expected);
            prop_assert_eq!(found.concat().len(), plan.packed.passages.len());
            // What comes first does not depend on what follows.
            let half = blocks.len().div_ceil(2);
            let first = ChunkPlan::in_blocks(blocks[..half].to_vec(), plan.chunk_tokens);
            for chunk in first.whole().chunks {
                prop_assert_eq!(first.passages(chunk), cut.passages(chunk));
            }
            let slices = cut.slices(&cut.whole().chunks, max_tokens);
            prop_assert!(slices.concat().into_iter().eq(cut.whole().chunks));
            for slice in slices {
                prop_assert!(cut.blocks().iter().any(|block| slice.iter().all(|chunk| block.contains(chunk))));
                let laid_out = cut.lay_out(&slice);
                let passages: Vec<_> = slice.iter().flat_map(|&chunk| cut.passages(chunk).to_vec()).collect();
                prop_assert_eq!(laid_out.packed.passages, passages);
            }
        }

        #[test]
        fn chunks_are_cut_otherwise_within_themselves(plan in any_plan()) {
            let laid_out = plan.everything();
            let finer = laid_out.rechunked(true);
            prop_assert_eq!(laid_out.rechunked(false).len(), finer.len(), "so few passages are all measured");
            let ends: BTreeSet<_> = finer.iter().map(|chunk| chunk.passages.end).collect();
            prop_assert!(laid_out.chunks.iter().all(|chunk| ends.contains(&chunk.passages.end)));
            prop_assert_eq!(finer.iter().map(|chunk| chunk.rows.len()).sum::<usize>(), laid_out.packed.input_ids.len());
            let several = |chunk: &Chunk| chunk.passages.len() > 1;
            prop_assert!(!laid_out.chunks.iter().any(several) || finer.len() > laid_out.chunks.len());
        }
    }
}
