//! When a run began, how long its parts take, and how much memory the process has had.

use std::cell::Cell;
use std::time::Instant;

#[derive(Debug, Clone)]
pub(super) struct Clock {
    pub started: jiff::Timestamp,
    lap: Cell<Instant>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: jiff::Timestamp::now(), lap: Cell::new(Instant::now()) }
    }

    /// Seconds since this was last called, at first since the run began.
    pub(super) fn lap(&self) -> f64 {
        self.lap.replace(Instant::now()).elapsed().as_secs_f64()
    }
}

/// The largest resident set of this process so far, where the system reports it.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}
