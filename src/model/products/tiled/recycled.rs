//! Memory for tiles that is used again: every layer's matrices are as large as the last one's, and memory fresh from the
//! operating system has to be cleared page by page first.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use super::registers::Tile;

/// Memory that is not in use. It was, whatever its size.
static FREE: Mutex<Vec<Vec<Tile>>> = Mutex::new(Vec::new());

/// Buffers that are kept: a stage's matrices and every thread's activations, about.
const KEPT: usize = 32;

/// Tiles that go back when they are dropped.
#[derive(Debug)]
pub(super) struct Recycled {
    tiles: Vec<Tile>,
    count: usize,
}

/// So many tiles, with anything in them.
pub(super) fn take(count: usize) -> Recycled {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // The smallest that is large enough, but not one that is much too large.
    let fits = |tiles: &Vec<Tile>| (count..=2 * count).contains(&tiles.len());
    let found = free.iter().enumerate().filter(|(_, tiles)| fits(tiles)).min_by_key(|(_, tiles)| tiles.len());
    let tiles = found.map(|(at, _)| at).map(|at| free.remove(at));
    drop(free);
    Recycled { tiles: tiles.unwrap_or_else(|| vec![Tile::ZERO; count]), count }
}

impl Drop for Recycled {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= KEPT {
            // The one that has waited longest is the least likely to be asked for.
            free.remove(0);
        }
        free.push(std::mem::take(&mut self.tiles));
    }
}

impl Deref for Recycled {
    type Target = [Tile];

    fn deref(&self) -> &[Tile] {
        &self.tiles[..self.count]
    }
}

impl DerefMut for Recycled {
    fn deref_mut(&mut self) -> &mut [Tile] {
        &mut self.tiles[..self.count]
    }
}
