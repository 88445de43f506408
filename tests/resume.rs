//! Nothing that was computed is lost: runs that are killed, interrupted, that run out of disk or lose their reader go on
//! where they stopped and come to the report that they would have come to.
#![cfg(all(feature = "libtorch", unix))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;
#[path = "common/runs.rs"]
mod runs;
