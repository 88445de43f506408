//! Memory that is reused. Tensors of a checkpoint come and go by the gigabyte, and every fresh page costs the kernel as
//! much as reading the bytes into it: clearing was a quarter of a merge's processor time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes below which memory comes from the allocator, which has its own ways with small blocks.
const SMALLEST: usize = 1 << 18;

/// Bytes that all blocks together may have at any time: a few tensors of a large model.
const ALWAYS: usize = 256 << 20;

/// Blocks of memory that were given back and others may have. With those in use they take no more than were ever in use at once,
/// or a little that is always allowed.
#[derive(Debug)]
pub struct Pool<T = u8>(Mutex<Blocks<T>>);

#[derive(Debug)]
struct Blocks<T> {
    /// The one that has waited longest comes first.
    free: Vec<Vec<T>>,
    bytes_in_use: usize,
    most_in_use: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Pool<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Blocks { free: Vec::new(), bytes_in_use: 0, most_in_use: 0 }))
    }

    /// Room for so many elements.
    pub(super) fn take_empty(&self, count: usize) -> Vec<T> {
        match self.find(count) {
            Some(mut block) => {
                block.clear();
                block
            }
            None => Vec::with_capacity(count),
        }
    }

    /// The smallest block that has room, but not twice as much; none where a new one is to be made.
    fn find(&self, count: usize) -> Option<Vec<T>> {
        if count.saturating_mul(size_of::<T>()) < SMALLEST {
            return None;
        }
        let mut blocks = self.lock();
        let fits = |block: &Vec<T>| (count..count.saturating_mul(2)).contains(&block.capacity());
        let fitting = blocks.free.iter().enumerate().filter(|(_, block)| fits(block));
        let smallest = fitting.min_by_key(|(_, block)| block.capacity()).map(|(at, _)| at);
        let found = smallest.map(|at| blocks.free.remove(at));
        let bytes = found.as_ref().map_or(count, Vec::capacity).saturating_mul(size_of::<T>());
        blocks.bytes_in_use = blocks.bytes_in_use.saturating_add(bytes);
        blocks.most_in_use = blocks.most_in_use.max(blocks.bytes_in_use);
        let surplus = blocks.take_surplus();
        drop(blocks);
        // Freed when others may have the lock.
        drop(surplus);
        found
    }

    pub fn give_back(&self, block: Vec<T>) {
        let bytes = bytes_of(&block);
        if bytes < SMALLEST {
            return;
        }
        let mut blocks = self.lock();
        blocks.bytes_in_use = blocks.bytes_in_use.saturating_sub(bytes);
        blocks.free.push(block);
        let surplus = blocks.take_surplus();
        drop(blocks);
        drop(surplus);
    }

    fn lock(&self) -> MutexGuard<'_, Blocks<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Default> Pool<T> {
    /// So many elements, of any value.
    pub fn take(&self, count: usize) -> Vec<T> {
        match self.find(count) {
            Some(mut block) => {
                block.resize(count, T::default());
                block
            }
            None => vec![T::default(); count],
        }
    }
}

impl<T> Blocks<T> {
    fn take_surplus(&mut self) -> Vec<Vec<T>> {
        let most = self.most_in_use.max(ALWAYS);
        let mut bytes: usize = self.free.iter().map(bytes_of).fold(self.bytes_in_use, usize::saturating_add);
        let fits = self.free.iter().position(|block| {
            let fits = bytes <= most;
            bytes -= if fits { 0 } else { bytes_of(block) };
            fits
        });
        self.free.drain(..fits.unwrap_or(self.free.len())).collect()
    }
}

fn bytes_of<T>(block: &Vec<T>) -> usize {
    block.capacity().saturating_mul(size_of::<T>())
}

/// Bytes of a tensor, which go back to their pool with the last clone of it.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) pool: Option<Arc<Pool>>,
    /// No other block's.
    pub(super) id: u64,
}

impl Block {
    pub(super) fn new(bytes: Vec<u8>, pool: Option<Arc<Pool>>) -> Self {
        Self { bytes, pool, id: next_id() }
    }

    /// The bytes, to be changed: they are another tensor's from now on.
    pub(super) fn change(&mut self) -> &mut [u8] {
        self.id = next_id();
        &mut self.bytes
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = ALWAYS / 4;

    fn give_back(pool: &Arc<Pool>, bytes: Vec<u8>) {
        drop(Block::new(bytes, Some(pool.clone())));
    }

    /// Free blocks, by their share of [`LARGE`].
    fn kept(pool: &Pool) -> Vec<usize> {
        pool.lock().free.iter().map(|block| block.capacity() / LARGE).collect()
    }

    #[test]
    fn blocks_come_back_for_tensors_of_about_their_size() {
        let pool = Arc::new(Pool::default());
        let (small, large) = (pool.take(4 * SMALLEST), pool.take(8 * SMALLEST));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        give_back(&pool, small);
        give_back(&pool, large);
        let again = pool.take(3 * SMALLEST);
        assert_eq!((again.as_ptr(), again.len()), (small_at, 3 * SMALLEST));
        let larger = pool.take(7 * SMALLEST);
        assert_eq!((larger.as_ptr(), larger.len()), (large_at, 7 * SMALLEST));
        assert_eq!(pool.take(2 * SMALLEST), vec![0; 2 * SMALLEST]);
        // What grows again within its block has any bytes, but has them.
        give_back(&pool, again);
        let regrown = pool.take(4 * SMALLEST);
        assert_eq!((regrown.as_ptr(), regrown.len()), (small_at, 4 * SMALLEST));
        give_back(&pool, regrown);
        let empty = pool.take_empty(4 * SMALLEST);
        assert_eq!((empty.as_ptr(), empty.len()), (small_at, 0));
        // Much too large.
        give_back(&pool, larger);
        let other = pool.take(4 * SMALLEST);
        assert_ne!(other.as_ptr(), large_at);
    }

    #[test]
    fn what_was_in_use_at_once_is_kept_and_no_more() {
        let pool = Arc::new(Pool::default());
        let blocks = [3, 4, 5].map(|size| pool.take(size * LARGE));
        for block in blocks {
            give_back(&pool, block);
        }
        assert_eq!(kept(&pool), [3, 4, 5]);
        // Nothing fits, and what has waited longest makes place.
        let one = pool.take(LARGE);
        assert_eq!(kept(&pool), [4, 5]);
        let twelve = pool.take(12 * LARGE);
        assert_eq!(kept(&pool), [0; 0]);
        give_back(&pool, one);
        assert_eq!(kept(&pool), [1]);
        give_back(&pool, twelve);
        assert_eq!(kept(&pool), [1, 12]);
    }

    #[test]
    fn blocks_of_elsewhere_are_kept_as_far_as_there_is_always_room() {
        let pool = Arc::new(Pool::default());
        for size in [1, 2, 3] {
            give_back(&pool, vec![0; size * LARGE]);
        }
        assert_eq!(kept(&pool), [3]);
        give_back(&pool, vec![0; 5 * LARGE]);
        assert_eq!(kept(&pool), [0; 0]);
    }

    #[test]
    fn small_tensors_do_not_take_large_blocks() {
        let pool = Arc::new(Pool::default());
        let large = pool.take(SMALLEST);
        let large_at = large.as_ptr();
        give_back(&pool, large);
        give_back(&pool, pool.take(8));
        assert_eq!(pool.take(8), [0; 8]);
        let again = pool.take(SMALLEST);
        assert_eq!(again.as_ptr(), large_at);
    }

    #[test]
    fn ids_are_not_used_again() {
        let ids: Vec<u64> = (0..3).map(|_| Block::new(vec![0; 8], None).id).collect();
        assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
        let mut block = Block::new(vec![0; 8], None);
        let id = block.id;
        block.change()[0] = 1;
        assert_ne!(block.id, id);
    }
}
