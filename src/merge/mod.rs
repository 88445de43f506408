//! Merging: a strategy (data: one rule per kind of parameter) turns the stage of `m` ranks into a stage of one rank. The
//! evaluation and the exporter call [`StageMerger`] stage by stage, so what is evaluated is what is written.

mod calibrate;
mod candidate;
mod check;
mod drift;
mod error;
mod exactness;
mod factor;
mod factor_analysis;
mod fold;
mod layout;
mod model_diff;
mod norms;
mod reduce;
mod rule;
mod stage;
mod strategy;
#[cfg(test)]
mod tests;

pub use calibrate::{CalibratedNorm, NormOutputMeans, correct};
pub use candidate::{CandidateAnalysis, CandidateException, Conclusion, Reference, effective_differences};
pub use check::check_strategies;
pub use drift::{Drift, ParamDrift};
pub use error::MergeError;
pub use exactness::{Exactness, Loss, Miscount, inexact_because};
pub use factor::Factor;
pub use factor_analysis::{bias_scales, only, without};
pub use fold::FoldSummary;
pub use layout::ModelStage;
pub use model_diff::{DiffSetting, DiffSide, DiffTensor, ModelDiff, ParameterDiff, ValueDiff, diff_models};
pub use rule::Rule;
pub use stage::{MergedTensors, Signature, StageMerger};
pub use strategy::{Override, Strategy, full_name};
