//! Pass or fail: checks a report against limits, and against an earlier report. A limit fails only if the loss exceeds it
//! and is significant, so that a real loss is caught and chance is not.
//! `limits.rs` reads limits, `judge.rs` decides, `render.rs` and `junit.rs` show.

mod error;
mod evidence;
mod judge;
mod junit;
mod limits;
mod render;
#[cfg(test)]
mod tests;

pub use error::GateError;
pub(crate) use evidence::Evidence;
pub(crate) use judge::judge;
pub(crate) use junit::to_junit;
pub use limits::{Gates, Limits, Percent, Points};
pub(crate) use render::render;
