//! Within, beyond or undecided: checks a report against limits and against an earlier report, or samples of
//! lm-evaluation-harness against each other. What a verdict claims is proven; what is not proven is no pass.
//! `limits.rs` reads limits (`amounts.rs` their units), `evidence.rs` and `harness.rs` pair models, `judge.rs` decides, `plan.rs`
//! says what a number of passages can show; `render.rs`, `junit.rs` and `json.rs` show (`shown.rs` a number).

mod amounts;
mod comparison;
mod error;
mod evidence;
mod harness;
mod harness_samples;
mod json;
mod judge;
mod junit;
mod limits;
mod plan;
mod render;
mod shown;
#[cfg(test)]
mod tests;

pub use amounts::{Nats, Percent, Points};
pub(crate) use comparison::Comparisons;
pub use error::GateError;
pub(crate) use evidence::Evidence;
pub(crate) use harness::compare_samples;
pub(crate) use json::to_json;
pub use judge::Outcome;
pub(crate) use judge::judge;
pub(crate) use junit::to_junit;
pub use limits::{Gates, Limit, Limits, Policy};
pub(crate) use plan::{Assumed, plan, plan_assumed, render_plan};
pub(crate) use render::render;
