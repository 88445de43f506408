//! Memory for tiles that is used again: every layer's matrices are as large as the last one's, and memory fresh from the
//! operating system has to be cleared page by page first.

use std::ops::{Deref, DerefMut};

use super::registers::Tile;
use crate::tensor::Pool;

static POOL: Pool<Tile> = Pool::new();

/// Tiles that go back when they are dropped.
#[derive(Debug)]
pub(super) struct Recycled(Vec<Tile>);

/// So many tiles, with anything in them.
pub(super) fn take(count: usize) -> Recycled {
    Recycled(POOL.take(count))
}

impl Drop for Recycled {
    fn drop(&mut self) {
        POOL.give_back(std::mem::take(&mut self.0));
    }
}

impl Deref for Recycled {
    type Target = [Tile];

    fn deref(&self) -> &[Tile] {
        &self.0
    }
}

impl DerefMut for Recycled {
    fn deref_mut(&mut self) -> &mut [Tile] {
        &mut self.0
    }
}
