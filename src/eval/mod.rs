//! Evaluation: tasks, passages and tokens on one side, the layer-major engine on the other. [`evaluate_chunks`] reads,
//! for every slice of the passages, each stage of the checkpoint once, merges it once per distinct rule, pushes the slice's
//! passages of all variants through it and drops it.

pub mod budget;
mod calibrated_merge;
mod calibration;
pub mod chunk_plan;
pub mod data_error;
pub mod data_place;
pub mod data_set;
mod device_memory;
mod device_run;
mod engine;
mod error;
mod outcome;
pub mod packing;
pub mod passages;
mod plan;
mod prefetch;
mod progress;
mod rolling;
pub mod samples;
pub mod self_check;
mod slice_run;
mod special_tokens;
pub mod task;
pub mod tokenizer;
mod variant;

pub use calibrated_merge::CalibratedMerge;
pub use engine::{EngineOptions, evaluate_chunks, plan_chunks};
pub use error::EvalError;
pub use outcome::{Divergence, SliceOutcome, Timings};
pub use passages::{PassageOptions, Passages, calibration_passages};
pub use plan::Plan;
pub use progress::{Observer, Quiet, Work};
pub use variant::{Models, Variant, Weights};
