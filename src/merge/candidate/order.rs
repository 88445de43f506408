//! An order of rows.

use std::ops::Range;

/// A wrong order.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// Completes a sentence about the parameter: `has queries and keys exchanged`.
    pub words: String,
    /// By row of the wrong tensor, the row of the right one that stands there.
    pub source: Vec<usize>,
}

impl Order {
    pub(super) fn new(words: impl Into<String>, source: impl IntoIterator<Item = usize>) -> Self {
        Self { words: words.into(), source: source.into_iter().collect() }
    }

    /// Blocks of rows, one behind another.
    pub(super) fn of_blocks(words: impl Into<String>, blocks: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self::new(words, blocks.into_iter().flatten())
    }

    pub(super) fn is_right(&self) -> bool {
        self.source.iter().enumerate().all(|(at, &from)| at == from)
    }
}
