//! Merging: a strategy (data: one rule per kind of parameter) turns the stage of `m` ranks into a stage of one rank. The
//! evaluation calls [`StageMerger`] stage by stage, and so will whatever writes a merge.

mod calibrate;
mod drift;
mod elsewhere;
mod exactness;
mod factors;
mod fold;
mod fold_choice;
mod model_diff;
mod norms;
mod rule;
mod split_head;
mod stage;
mod strategy;
#[cfg(test)]
mod tests;

pub use calibrate::{CalibratedNorm, correct};
pub use drift::{Drift, ParamDrift};
pub use elsewhere::{Elsewhere, Joining, Treatment};
pub use exactness::{Exactness, Loss, Miscount, inexact_because};
pub use factors::{Factor, bias_scales, only, without};
pub use fold::FoldSummary;
pub use model_diff::{DiffSetting, DiffSide, DiffTensor, ModelDiff, ParameterDiff, ValueDiff, diff_models};
pub use rule::Rule;
pub use stage::{Signature, StageMerger};
pub use strategy::{Override, Strategy, StrategyArithmetic, full_name};

use crate::checkpoint::CheckpointError;
use crate::partition::{Kind, PartitionError, StageId};
use crate::tensor::TensorError;

/// What can go wrong with strategies and merging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The name is no built-in strategy and no file.
    #[error("unknown strategy `{name}`: neither built in nor a file")]
    UnknownStrategy {
        /// What was asked for.
        name: String,
        /// The built-in names.
        known: String,
    },
    /// A strategy file that cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A strategy file that is not a strategy.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file, or the built-in name.
        origin: String,
        /// What the YAML reader says, with line and column.
        message: String,
    },
    /// A strategy without a rule for a kind that the checkpoint has.
    #[error("strategy `{strategy}` has no rule for {kind} parameters")]
    NoRule {
        /// The strategy.
        strategy: String,
        /// The kind.
        kind: Kind,
    },
    /// Two strategies of one name, whose rows and files could not be told apart.
    #[error("two strategies are called `{name}` ({first} and {second})")]
    SameName {
        /// The name.
        name: String,
        /// Where the first comes from.
        first: String,
        /// Where the second comes from.
        second: String,
    },
    /// A rule that names a rank which does not exist.
    #[error("strategy `{strategy}` asks for rank {tp_rank}, but the checkpoint has ranks 0 to {last}")]
    NoSuchRank {
        /// The strategy.
        strategy: String,
        /// The rank it names.
        tp_rank: usize,
        /// The last rank there is.
        last: usize,
    },
    /// A norm whose gain is folded and whose bias is not, or the other way round.
    #[error("strategy `{strategy}`, {stage}: gain and bias of a norm are folded together or not at all")]
    HalfFolded {
        /// The strategy.
        strategy: String,
        /// The stage.
        stage: StageId,
    },
    /// No strategy can make the unmerged model.
    #[error("strategy `{strategy}`: no exact merge exists: {reason}")]
    NoExactMerge {
        /// The strategy.
        strategy: String,
        /// Why.
        reason: &'static str,
    },
    /// A model trained with `sequence_parallel` whose replicas differ.
    #[error(
        "strategy `{strategy}`, {stage}: no exact merge exists: with sequence_parallel each replica of `{parameter}` was \
         trained on its own stretch of the sequence, and they differ: which one acts depends on the position"
    )]
    PositionDependent {
        /// The strategy.
        strategy: String,
        /// The stage.
        stage: StageId,
        /// Its parameter.
        parameter: String,
    },
    /// What a line of a strategy file causes.
    #[error("{origin}: line {line}: {source}")]
    AtLine {
        /// The file.
        origin: String,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        source: Box<Self>,
    },
    /// A norm that cannot be folded.
    #[error("{stage}: folding failed: {source}")]
    Fold {
        /// The stage.
        stage: StageId,
        /// What does not fit.
        source: PartitionError,
    },
    /// Matrices that cannot be brought into one layout with another model's.
    #[error("{stage}: {source}")]
    Layout {
        /// The stage.
        stage: StageId,
        /// What does not fit.
        source: PartitionError,
    },
    /// A model that cannot be read.
    #[error(transparent)]
    Read(#[from] CheckpointError),
    /// Tensors that do not fit together.
    #[error("{stage}: `{name}`: {source}")]
    Tensor {
        /// The stage.
        stage: StageId,
        /// The parameter.
        name: String,
        /// What does not fit.
        source: TensorError,
    },
}

impl MergeError {
    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownStrategy { name, known } => {
                let meant = crate::config::did_you_mean(name, known.split(", "));
                Some(format!("{meant}built in are {known}; or give the path of a strategy file"))
            }
            Self::NoExactMerge { .. } | Self::PositionDependent { .. } => Some(
                "`kintsugi eval` evaluates the unmerged model; --allow-inexact merges all the same, and says what it loses"
                    .to_owned(),
            ),
            Self::NoRule { kind, .. } => Some(format!("add `{kind}: mean` (or another rule) under `rules:`")),
            Self::SameName { .. } => Some("leave one out, or give it a `name:` of its own".to_owned()),
            Self::AtLine { source, .. } => source.hint(),
            Self::Io(error) => crate::files::hint(error),
            Self::Read(error) => error.hint(),
            Self::NoSuchRank { .. } => Some("ranks are counted from 0".to_owned()),
            Self::HalfFolded { .. } => Some("give `norm-gain` and `norm-bias` the rule `fold`, or neither".to_owned()),
            Self::Syntax { .. } => Some("configs/strategies/ of the source holds the built-in strategies".to_owned()),
            _ => None,
        }
    }
}
