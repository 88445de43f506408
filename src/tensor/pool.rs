//! Memory that is reused. Tensors of a checkpoint come and go by the gigabyte, and every fresh page costs the kernel as
//! much as reading the bytes into it: clearing was a quarter of a merge's processor time.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes below which memory comes from the allocator, which has its own ways with small blocks.
const SMALLEST: usize = 1 << 20;

/// Bytes that are kept for later at most: a few tensors of a large model.
const KEPT: usize = 256 << 20;

/// Blocks of memory that tensors have given back and others may have.
#[derive(Debug)]
pub struct Pool {
    limit: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { limit: KEPT, free: Mutex::default() }
    }
}

impl Pool {
    /// Keeps so many bytes for later at most.
    pub fn keeping(limit: usize) -> Self {
        Self { limit: limit.max(KEPT), free: Mutex::default() }
    }

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

    /// The smallest block that has room.
    fn find(&self, count: usize) -> Option<Vec<u8>> {
        if count < SMALLEST {
            return None;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, block)| block.capacity() >= count);
        let smallest = fitting.min_by_key(|(_, block)| block.capacity()).map(|(at, _)| at);
        smallest.map(|at| free.swap_remove(at))
    }

    fn give_back(&self, block: Vec<u8>) {
        if block.capacity() < SMALLEST {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = free.iter().map(Vec::capacity).sum();
        if kept.saturating_add(block.capacity()) <= self.limit {
            free.push(block);
        }
    }
}

/// Bytes of a tensor, which go back to their pool with the last clone of it.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) pool: Option<Arc<Pool>>,
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

    #[test]
    fn blocks_come_back_within_the_limit() {
        let pool = Arc::new(Pool { limit: 10 * SMALLEST, free: Mutex::default() });
        let give_back = |bytes| drop(Block { bytes, pool: Some(pool.clone()) });
        let (small, large) = (pool.take(3 * SMALLEST), pool.take(7 * SMALLEST));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        give_back(small);
        give_back(large);
        // One more would be above the limit.
        give_back(vec![0; 3 * SMALLEST]);
        let again = pool.take(2 * SMALLEST);
        assert_eq!((again.as_ptr(), again.len()), (small_at, 2 * SMALLEST));
        let larger = pool.take(2 * SMALLEST + 1);
        assert_eq!((larger.as_ptr(), larger.len()), (large_at, 2 * SMALLEST + 1));
        assert_eq!(pool.take(2 * SMALLEST), vec![0; 2 * SMALLEST]);
        // What grows again within its block has any bytes, but has them.
        give_back(again);
        let regrown = pool.take(3 * SMALLEST);
        assert_eq!((regrown.as_ptr(), regrown.len()), (small_at, 3 * SMALLEST));
        give_back(regrown);
        let empty = pool.take_empty(3 * SMALLEST);
        assert_eq!((empty.as_ptr(), empty.len()), (small_at, 0));
    }

    #[test]
    fn a_larger_pool_keeps_what_the_usual_one_does_not() {
        for (pool, kept) in [(Pool::default(), false), (Pool::keeping(0), false), (Pool::keeping(2 * KEPT), true)] {
            let pool = Arc::new(pool);
            let large = pool.take(KEPT + 1);
            drop(Block { bytes: large, pool: Some(pool.clone()) });
            assert_eq!(pool.find(KEPT + 1).is_some(), kept);
        }
    }

    #[test]
    fn small_tensors_do_not_take_large_blocks() {
        let pool = Arc::new(Pool { limit: 10 * SMALLEST, free: Mutex::default() });
        let large = pool.take(SMALLEST);
        let large_at = large.as_ptr();
        drop(Block { bytes: large, pool: Some(pool.clone()) });
        drop(Block { bytes: pool.take(8), pool: Some(pool.clone()) });
        assert_eq!(pool.take(8), [0; 8]);
        let again = pool.take(SMALLEST);
        assert_eq!(again.as_ptr(), large_at);
    }
}
