//! Errors of strategies and merging.

use crate::checkpoint::CheckpointError;
use crate::partition::{Kind, PartitionError, StageId};
use crate::tensor::TensorError;

/// An error of a strategy or a merge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum MergeError {
    #[error("unknown strategy `{name}`: neither built in nor a file")]
    UnknownStrategy { name: String, known: String },
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{origin}: {message}")]
    Syntax { origin: String, message: String },
    #[error("strategy `{strategy}` has no rule for {kind} parameters")]
    NoRule { strategy: String, kind: Kind },
    #[error("two strategies are called `{name}` ({first} and {second})")]
    SameName { name: String, first: String, second: String },
    #[error("strategy `{strategy}` asks for rank {tp_rank}, but the checkpoint has ranks 0 to {last}")]
    NoSuchRank { strategy: String, tp_rank: usize, last: usize },
    #[error("strategy `{strategy}`, {stage}: gain and bias of a norm are folded together or not at all")]
    HalfFolded { strategy: String, stage: StageId },
    #[error("strategy `{strategy}`: no exact merge exists: {reason}")]
    NoExactMerge { strategy: String, reason: &'static str },
    #[error(
        "strategy `{strategy}`, {stage}: no exact merge exists: with sequence_parallel each replica of `{parameter}` was \
         trained on its own stretch of the sequence, and they differ: which one acts depends on the position"
    )]
    PositionDependent { strategy: String, stage: StageId, parameter: String },
    #[error("{origin}: line {line}: {source}")]
    AtLine { origin: String, line: u64, source: Box<Self> },
    #[error("{stage}: folding failed: {source}")]
    Fold { stage: StageId, source: PartitionError },
    #[error("{stage}: {source}")]
    Layout { stage: StageId, source: PartitionError },
    #[error(transparent)]
    Read(#[from] CheckpointError),
    #[error("{stage}: `{name}`: {source}")]
    Tensor { stage: StageId, name: String, source: TensorError },
}

impl MergeError {
    /// The user's remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::UnknownStrategy { name, known } => {
                let meant = crate::config::did_you_mean(name, known.split(", "));
                return Some(format!("{meant}built in are {known}; or give the path of a strategy file"));
            }
            Self::NoRule { kind, .. } => {
                return Some(format!("add `{kind}: mean` (or another rule) under `rules:`"));
            }
            Self::AtLine { source, .. } => return source.hint(),
            Self::Io(error) => return crate::files::hint(error),
            Self::Read(error) => return error.hint(),
            Self::NoExactMerge { .. } | Self::PositionDependent { .. } => {
                "`kintsugi eval` evaluates the unmerged model; --allow-inexact merges anyway and reports the loss"
            }
            Self::SameName { .. } => "leave one out, or give it a `name:` of its own",
            Self::NoSuchRank { .. } => "ranks are counted from 0",
            Self::HalfFolded { .. } => "give `norm-gain` and `norm-bias` the rule `fold`, or neither",
            Self::Syntax { .. } => "configs/strategies/ of the source holds the built-in strategies",
            _ => return None,
        };
        Some(text.to_owned())
    }
}
