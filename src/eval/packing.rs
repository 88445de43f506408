//! Packing: passages sorted by length and concatenated without padding, cut into chunks for the dense products and into
//! groups of equal length for attention. Plain indices; no libtorch.

use std::cmp::Ordering;
use std::ops::Range;

use super::data_error::DataError;
use crate::config::Architecture;
use crate::model::to_i64;

/// The token ids of one passage as the model takes them; made by [`TokenizedPassage::new`], which checks that no target is
/// longer than its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedPassage {
    /// The caller's number for it; samples are put back in order by it.
    pub index: usize,
    /// The model's input: context and target without the last token, cut from the left to the longest input.
    pub input_ids: Vec<i64>,
    /// The target's tokens: what the last `target_ids.len()` positions of the input are to predict.
    pub target_ids: Vec<i64>,
}

/// Passages laid out one after the other, longest first.
///
/// A packed row is a token's place in the concatenation; residual streams are `[packed rows, hidden]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub passages: Vec<TokenizedPassage>,
    /// `[passages + 1]`: the packed row at which each passage starts, then the number of rows.
    starts: Vec<usize>,
    /// `[packed rows]`
    pub input_ids: Vec<i64>,
    /// Each token's 0-based position in its passage, `[packed rows]`.
    pub positions: Vec<i64>,
}

/// Consecutive passages that go through the dense products together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The packed rows of its tokens.
    pub rows: Range<usize>,
    /// As a range of [`Packed::passages`].
    pub passages: Range<usize>,
    /// Its passages by length; together they cover the chunk's tokens in order.
    pub groups: Vec<Group>,
    /// Every target token of its passages, by passage and then by ordinal; rows ascend.
    pub targets: Vec<Target>,
}

/// Consecutive passages of one length, for attention over `[passage_count, length]` without a mask tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Its first token, counted from the start of its chunk.
    pub start: usize,
    pub passage_count: usize,
    /// Input tokens of each.
    pub length: usize,
}

/// One position whose logits are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The input token that predicts it, counted from the start of its chunk; packed row `chunk.rows.start + row`.
    pub row: usize,
    pub id: i64,
    /// [`TokenizedPassage::index`] of its passage.
    pub passage: usize,
    /// 0-based place in the passage's target.
    pub ordinal: usize,
}

/// How many tokens lm-evaluation-harness cuts from the left of a passage: all but the last `max_length + 1` of context
/// and target (`models/huggingface.py`, `_loglikelihood_tokens`); the last token of these is no input.
pub fn truncated_count(context_count: usize, target_count: usize, max_length: usize) -> usize {
    (context_count + target_count).saturating_sub(max_length + 1)
}

impl TokenizedPassage {
    /// The passage of a context and a target, cut from the left to at most `max_length` input tokens. Where the target alone
    /// has more, or context or target have none, lm-evaluation-harness stops at assertions.
    pub fn new(index: usize, context: &[u32], target: &[u32], max_length: usize) -> Result<Self, DataError> {
        for (part, ids) in [("context", context), ("target", target)] {
            if ids.is_empty() {
                return Err(DataError::NoTokens { part, text: String::new() });
            }
        }
        if target.len() > max_length {
            return Err(DataError::TargetTooLong { target_count: target.len(), max_length });
        }
        let truncated = truncated_count(context.len(), target.len(), max_length);
        let kept = context.iter().chain(&target[..target.len() - 1]).skip(truncated);
        let input_ids = kept.map(|&id| i64::from(id)).collect();
        Ok(Self { index, input_ids, target_ids: target.iter().map(|&id| i64::from(id)).collect() })
    }

    /// The passage with a trained prompt of this many rows before it. A row's id is its number after the vocabulary's.
    pub fn after_prompt(mut self, prompt_length: usize, vocabulary: usize) -> Self {
        if prompt_length > 0 {
            let first = to_i64(vocabulary);
            let prompt = (0_i64..).take(prompt_length).map(|row| first.saturating_add(row));
            self.input_ids = prompt.chain(self.input_ids).collect();
        }
        self
    }

    pub fn length(&self) -> usize {
        self.input_ids.len()
    }

    /// Longest first, so that running out of memory happens at once; then by tokens and index, so that the order does
    /// not depend on the order given.
    fn packing_order(&self, other: &Self) -> Ordering {
        let by_length = other.length().cmp(&self.length());
        by_length.then_with(|| {
            (&self.input_ids, &self.target_ids, self.index).cmp(&(&other.input_ids, &other.target_ids, other.index))
        })
    }
}

/// The passages with the model's trained prompt, if it has one, before each.
pub(super) fn after_prompt(architecture: &Architecture, passages: &[TokenizedPassage]) -> Vec<TokenizedPassage> {
    let (length, vocabulary) = (architecture.soft_prompt_length, architecture.padded_vocab_size);
    passages.iter().map(|passage| passage.clone().after_prompt(length, vocabulary)).collect()
}

impl Packed {
    pub fn new(passages: Vec<TokenizedPassage>) -> Self {
        Self::in_blocks(vec![passages])
    }

    /// Blocks of passages one after the other, each longest first.
    pub(super) fn in_blocks(blocks: Vec<Vec<TokenizedPassage>>) -> Self {
        let passages = blocks.into_iter().flat_map(|mut block| {
            block.sort_by(TokenizedPassage::packing_order);
            block
        });
        let passages: Vec<_> = passages.collect();
        let mut starts = vec![0];
        let (mut input_ids, mut positions) = (Vec::new(), Vec::new());
        for passage in &passages {
            input_ids.extend_from_slice(&passage.input_ids);
            positions.extend((0_i64..).take(passage.length()));
            starts.push(input_ids.len());
        }
        Self { passages, starts, input_ids, positions }
    }

    /// Consecutive passages of at most `chunk_tokens` tokens together; a passage longer than that is a chunk by itself.
    pub fn chunks(&self, chunk_tokens: usize) -> Vec<Chunk> {
        self.cut(0..self.passages.len(), chunk_tokens)
    }

    pub(super) fn cut(&self, places: Range<usize>, chunk_tokens: usize) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let mut first = places.start;
        while first < places.end {
            let limit = self.starts[first].saturating_add(chunk_tokens);
            // Of the ends after the first passage's, those within the limit: they ascend.
            let more = self.starts[first + 2..=places.end].partition_point(|&end| end <= limit);
            let end = first + 1 + more;
            chunks.push(self.chunk(first..end));
            first = end;
        }
        chunks
    }

    pub(super) fn chunk(&self, places: Range<usize>) -> Chunk {
        let rows = self.starts[places.start]..self.starts[places.end];
        let mut groups: Vec<Group> = Vec::new();
        let mut targets = Vec::new();
        for (passage, &start) in self.passages[places.clone()].iter().zip(&self.starts[places.clone()]) {
            let start = start - rows.start;
            match groups.last_mut() {
                Some(group) if group.length == passage.length() => group.passage_count += 1,
                _ => groups.push(Group { start, passage_count: 1, length: passage.length() }),
            }
            let first_row = start + passage.length() - passage.target_ids.len();
            targets.extend(passage.target_ids.iter().enumerate().map(|(ordinal, &id)| Target {
                row: first_row + ordinal,
                id,
                passage: passage.index,
                ordinal,
            }));
        }
        Chunk { rows, passages: places, groups, targets }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passage(index: usize, context: &[u32], target: &[u32]) -> TokenizedPassage {
        TokenizedPassage::new(index, context, target, 2048).unwrap()
    }

    #[test]
    fn truncation_is_that_of_the_harness() {
        // (ctx+cont)[-(max_length+1):][:-1] in Python
        let inputs =
            |max_length| TokenizedPassage::new(0, &[1, 2, 3, 4], &[5, 6], max_length).map(|passage| passage.input_ids);
        assert_eq!(inputs(9).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(inputs(5).unwrap(), [1, 2, 3, 4, 5]);
        assert_eq!(inputs(4).unwrap(), [2, 3, 4, 5]);
        assert_eq!(inputs(2).unwrap(), [4, 5]);
        assert!(matches!(inputs(1), Err(DataError::TargetTooLong { target_count: 2, max_length: 1 })));
        assert_eq!([9, 5, 4, 2].map(|max_length| truncated_count(4, 2, max_length)), [0, 0, 1, 3]);
        assert!(matches!(TokenizedPassage::new(0, &[], &[5], 9), Err(DataError::NoTokens { part: "context", .. })));
        assert!(matches!(TokenizedPassage::new(0, &[1], &[], 9), Err(DataError::NoTokens { part: "target", .. })));
    }

    #[test]
    fn a_small_packing_worked_by_hand() {
        let packed = Packed::new(vec![
            passage(0, &[7], &[8]),
            passage(1, &[3, 1], &[9, 9]),
            passage(2, &[2, 5], &[6, 4]),
            passage(3, &[7], &[8]),
        ]);
        assert_eq!(packed.passages.iter().map(|passage| passage.index).collect::<Vec<_>>(), [2, 1, 0, 3]);
        assert_eq!(packed.input_ids, [2, 5, 6, 3, 1, 9, 7, 7]);
        assert_eq!(packed.positions, [0, 1, 2, 0, 1, 2, 0, 0]);

        let chunks = packed.chunks(5);
        assert_eq!(chunks.iter().map(|chunk| chunk.rows.clone()).collect::<Vec<_>>(), [0..3, 3..8]);
        let second = &chunks[1];
        assert_eq!(second.passages, 1..4);
        assert_eq!(
            second.groups,
            [Group { start: 0, passage_count: 1, length: 3 }, Group { start: 3, passage_count: 2, length: 1 }]
        );
        let target = |row, id, passage, ordinal| Target { row, id, passage, ordinal };
        assert_eq!(second.targets, [target(1, 9, 1, 0), target(2, 9, 1, 1), target(3, 8, 0, 0), target(4, 8, 3, 0)]);
    }

    #[test]
    fn nothing_packs_into_nothing() {
        let packed = Packed::new(Vec::new());
        assert_eq!((packed.chunks(8).len(), packed.input_ids.len()), (0, 0));
    }

    fn any_passages() -> impl Strategy<Value = Vec<TokenizedPassage>> {
        let ids = |longest| prop::collection::vec(0_u32..3, 1..longest);
        let pairs = prop::collection::vec((ids(12), ids(4)), 0..40);
        pairs.prop_map(|pairs| {
            pairs.iter().enumerate().map(|(i, (context, target))| passage(i, context, target)).collect()
        })
    }

    fn check(packed: &Packed, chunk_tokens: usize) -> Result<(), TestCaseError> {
        let passages = &packed.passages;
        prop_assert!(passages.is_sorted_by(|a, b| a.packing_order(b).is_lt()));
        prop_assert_eq!(packed.input_ids.len(), packed.positions.len());
        let (mut next_row, mut next_passage) = (0, 0);
        for chunk in packed.chunks(chunk_tokens) {
            // Chunks follow each other without gaps, hold what fits and at least one passage.
            prop_assert_eq!((chunk.rows.start, chunk.passages.start), (next_row, next_passage));
            (next_row, next_passage) = (chunk.rows.end, chunk.passages.end);
            prop_assert!(!chunk.passages.is_empty());
            prop_assert!(chunk.rows.len() <= chunk_tokens || chunk.passages.len() == 1);
            let after = passages.get(chunk.passages.end).map_or(usize::MAX, TokenizedPassage::length);
            prop_assert!(chunk.rows.len().saturating_add(after) > chunk_tokens);

            // Groups cover the chunk in order, each of another length, and hold the passages' own tokens.
            let (mut place, mut start, mut shorter_than) = (chunk.passages.start, 0, usize::MAX);
            for group in &chunk.groups {
                prop_assert_eq!(group.start, start);
                prop_assert!(group.length < shorter_than && group.passage_count > 0);
                shorter_than = group.length;
                for passage in &passages[place..place + group.passage_count] {
                    let rows = chunk.rows.start + start..chunk.rows.start + start + group.length;
                    prop_assert_eq!(&packed.input_ids[rows.clone()], &passage.input_ids[..]);
                    prop_assert!(packed.positions[rows].iter().copied().eq((0_i64..).take(group.length)));
                    start += group.length;
                }
                place += group.passage_count;
            }
            prop_assert_eq!((place, start), (chunk.passages.end, chunk.rows.len()));

            // Targets are those of the passages, and the token after each target's row is the target before last.
            prop_assert!(chunk.targets.is_sorted_by_key(|target| target.row));
            let mut targets = chunk.targets.iter();
            for passage in &passages[chunk.passages.clone()] {
                for (ordinal, &id) in passage.target_ids.iter().enumerate() {
                    let target = *targets.next().unwrap();
                    prop_assert_eq!((target.passage, target.ordinal, target.id), (passage.index, ordinal, id));
                    let row = chunk.rows.start + target.row;
                    if ordinal + 1 < passage.target_ids.len() {
                        prop_assert_eq!(packed.input_ids[row + 1], id);
                    } else {
                        prop_assert_eq!(packed.positions.get(row + 1).copied().unwrap_or(0), 0);
                    }
                }
            }
            prop_assert!(targets.next().is_none());
        }
        prop_assert_eq!((next_row, next_passage), (packed.input_ids.len(), passages.len()));
        Ok(())
    }

    proptest! {
        #[test]
        fn chunks_hold_every_passage_once(passages in any_passages(), chunk_tokens in 0_usize..60) {
            check(&Packed::new(passages), chunk_tokens)?;
        }

        #[test]
        fn the_order_given_does_not_matter(passages in any_passages()) {
            let reversed = Packed::new(passages.iter().rev().cloned().collect());
            prop_assert_eq!(Packed::new(passages), reversed);
        }
    }
}
