//! Threads. On a CPU whole chunks are divided among threads, and libtorch computes alone in each: no thread waits for
//! another inside a chunk, what lies between the matrix products is as parallel as they are, and a chunk's activations
//! stay in one core's cache. On a GPU the device is parallel enough, and chunks follow each other on its stream.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::Device;

use super::{Backend, ModelError};

/// Threads asked for; 0 before [`set_threads`].
static ASKED: AtomicUsize = AtomicUsize::new(0);

static POOL: Mutex<Option<(usize, Arc<ThreadPool>)>> = Mutex::new(None);

pub fn set_threads(threads: usize) {
    ASKED.store(threads.max(1), Ordering::Relaxed);
    // For work outside the pool, on the calling thread.
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// `work` on every item; the results are in the items' order. On a CPU items are divided among as many threads as were asked
/// for, else the calling thread takes one after the other.
pub fn each<T: Send, R: Send>(
    backend: Backend,
    items: Vec<T>,
    work: impl Fn(T) -> Result<R, ModelError> + Sync,
) -> Result<Vec<R>, ModelError> {
    if backend.device != Device::Cpu {
        return items.into_iter().map(work).collect();
    }
    let pool = pool()?;
    pool.install(|| {
        items
            .into_par_iter()
            .with_max_len(1)
            .map(|item| {
                // Whether gradients are kept is each thread's own affair.
                let _no_grad = tch::no_grad_guard();
                work(item)
            })
            .collect()
    })
}

/// How many threads [`each`] divides items among on a CPU.
pub(super) fn thread_count() -> Result<usize, ModelError> {
    Ok(pool()?.current_num_threads())
}

fn pool() -> Result<Arc<ThreadPool>, ModelError> {
    let threads = match ASKED.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        asked => asked,
    };
    let mut current = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((size, pool)) = &*current
        && *size == threads
    {
        return Ok(Arc::clone(pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|at| format!("compute-{at}"))
        .start_handler(|_| tch::set_num_threads(1))
        .build()
        .map_err(|error| ModelError::Device { device: "cpu".to_owned(), reason: error.to_string() })?;
    let pool = Arc::new(pool);
    *current = Some((threads, Arc::clone(&pool)));
    Ok(pool)
}
