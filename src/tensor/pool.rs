//! Memory that is reused. Tensors of a checkpoint come and go by the gigabyte, and every fresh page costs the kernel as
//! much as reading the bytes into it: clearing was a quarter of a merge's processor time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes below which memory comes from the allocator, which has its own ways with small blocks.
const SMALLEST: usize = 1 << 20;

/// Bytes that all blocks together may have at any time: a few tensors of a large model.
const ALWAYS: usize = 256 << 20;

/// Blocks of memory that tensors have given back and others may have. With those in use they take no more than were ever in use at
/// once.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Blocks>);

#[derive(Debug, Default)]
struct Blocks {
    /// The one that has waited longest comes first.
    free: Vec<Vec<u8>>,
    bytes_in_use: usize,
    most_in_use: usize,
}

impl Pool {
    /// So many bytes, of any value.
    pub fn take(&self, count: usize) -> Vec<u8> {
        match self.find(count) {
            Some(mut block) => {
                block.resize(count, 0);
                block
            }
            None => vec![0; count],
        }
    }

    /// Room for so many bytes.
    pub(super) fn take_empty(&self, count: usize) -> Vec<u8> {
        match self.find(count) {
            Some(mut block) => {
                block.clear();
                block
            }
            None => Vec::with_capacity(count),
        }
    }

    /// The smallest block that has room, but not twice as much; none where a new one is to be made.
    fn find(&self, count: usize) -> Option<Vec<u8>> {
        if count < SMALLEST {
            return None;
        }
        let mut blocks = self.lock();
        let fits = |block: &Vec<u8>| (count..count.saturating_mul(2)).contains(&block.capacity());
        let fitting = blocks.free.iter().enumerate().filter(|(_, block)| fits(block));
        let smallest = fitting.min_by_key(|(_, block)| block.capacity()).map(|(at, _)| at);
        let found = smallest.map(|at| blocks.free.remove(at));
        blocks.bytes_in_use = blocks.bytes_in_use.saturating_add(found.as_ref().map_or(count, Vec::capacity));
        blocks.most_in_use = blocks.most_in_use.max(blocks.bytes_in_use);
        blocks.drop_surplus();
        found
    }

    fn give_back(&self, block: Vec<u8>) {
        if block.capacity() < SMALLEST {
            return;
        }
        let mut blocks = self.lock();
        blocks.bytes_in_use = blocks.bytes_in_use.saturating_sub(block.capacity());
        blocks.free.push(block);
        blocks.drop_surplus();
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    fn drop_surplus(&mut self) {
        let most = self.most_in_use.max(ALWAYS);
        let mut bytes: usize = self.free.iter().map(Vec::capacity).fold(self.bytes_in_use, usize::saturating_add);
        while bytes > most && !self.free.is_empty() {
            bytes -= self.free.remove(0).capacity();
        }
    }
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
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { bytes, pool, id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
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
    }
}
