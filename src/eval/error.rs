//! Errors of an evaluation.

use super::data_error::DataError;
use crate::checkpoint::CheckpointError;
use crate::merge::MergeError;
use crate::model::ModelError;
use crate::partition::StageId;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{stage}: {source}")]
    Model { stage: StageId, source: ModelError },
    #[error(transparent)]
    Device(ModelError),
    #[error("the reader thread ended before {stage} was read")]
    ReaderGone { stage: StageId },
    #[error("candidate `{name}`: expected {what} {expected} as in the checkpoint, found {found}")]
    Candidate { name: String, what: &'static str, expected: usize, found: usize },
    #[error("candidate `{name}` takes at most {found} tokens, the longest passage has {expected}")]
    CandidateLength { name: String, expected: usize, found: usize },
    #[error("candidate `{name}` has a vocabulary of {vocabulary} tokens, the passages hold token {id}")]
    CandidateVocabulary { name: String, vocabulary: usize, id: i64 },
    #[error("passage {passage}: `{variant}` produced {value}")]
    NotFinite { passage: usize, variant: String, value: f64 },
    #[error("a memory budget of {budget} bytes does not hold {needed} bytes of residual streams for one passage")]
    Budget { budget: u64, needed: u64 },
}

impl EvalError {
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Checkpoint(error) => error.hint(),
            Self::Merge(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Model { source, .. } | Self::Device(source) => source.hint(),
            Self::NotFinite { .. } => Some("float16 overflows where bf16 and f32 do not: try --dtype f32".to_owned()),
            Self::Budget { .. } => Some("give a larger --memory-budget".to_owned()),
            Self::Candidate { .. } => {
                Some("is it a merge of this checkpoint? `kintsugi eval` evaluates any model alone".to_owned())
            }
            Self::CandidateLength { found, .. } => {
                Some(format!("--max-length {found} cuts longer passages on the left, for every model alike"))
            }
            Self::CandidateVocabulary { .. } => Some(
                "rows that the tokenizer uses were cut off: trim the vocabulary to the tokenizer's size".to_owned(),
            ),
            Self::ReaderGone { .. } => None,
        }
    }
}
