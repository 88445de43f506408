//! A limit on the bytes in memory at once: readers wait for room, the writer gives it back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes that may be in flight.
pub(super) struct Budget {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    taken: u64,
    closed: bool,
}

/// Room that has been taken; given back when dropped.
pub(super) struct Permit<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits for room. What is larger than the whole budget gets all of it, alone. `None` once the budget is closed.
    pub(super) fn take(&self, bytes: u64) -> Option<Permit<'_>> {
        let bytes = bytes.min(self.limit);
        let mut state = self.lock();
        while !state.closed && state.taken + bytes > self.limit {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        state.taken += bytes;
        Some(Permit { budget: self, bytes })
    }

    /// Ends all waiting, after a failure in another thread.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.budget.lock().taken -= self.bytes;
        self.budget.changed.notify_all();
    }
}
