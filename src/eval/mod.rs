//! Evaluation: tasks, documents and tokens on one side, the layer-major engine on the other. [`engine::evaluate`] reads
//! every stage of the checkpoint once, merges it once per distinct rule, pushes all passages of all variants through it
//! and drops it.

pub mod budget;
mod calibrated_merge;
mod calibration;
mod candidates;
pub mod chunk_plan;
pub mod data_error;
pub mod data_place;
mod device_run;
pub mod documents;
pub mod engine;
mod error;
mod outcome;
pub mod packing;
mod plan;
mod prefetch;
pub mod rolling;
pub mod samples;
pub mod self_check;
mod slice_run;
pub mod task;
pub mod tokenizer;

pub use calibrated_merge::CalibratedMerge;
pub use engine::{EngineOptions, Observer, Quiet, Variant, Weights, Work, evaluate, evaluate_part, plan_chunks};
pub use error::EvalError;
pub use outcome::{Divergence, Evaluation, SliceOutcome, Timings};
pub use plan::Plan;
