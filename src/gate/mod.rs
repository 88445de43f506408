//! Within, beyond or undecided: checks a report against limits and against an earlier report, or samples of
//! lm-evaluation-harness against each other. What a verdict claims is proven; what is not proven is no pass.
//! `evidence.rs` and `harness.rs` pair models for [`crate::limits`], which decides; `plan.rs` says what a number of passages can
//! show; `render.rs`, `junit.rs` and `json.rs` show.

mod error;
mod evidence;
mod harness;
mod harness_samples;
mod json;
mod junit;
mod plan;
mod render;

pub use error::GateError;
pub(crate) use evidence::Evidence;
pub(crate) use harness::compare_samples;
pub(crate) use json::to_json;
pub(crate) use junit::to_junit;
pub(crate) use plan::{Assumed, plan, plan_assumed, render_plan};
pub(crate) use render::render;
