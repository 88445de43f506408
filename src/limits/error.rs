//! Errors of limits.

use crate::stats::StatsError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{origin}: {message}")]
    Syntax { origin: String, message: String },
    #[error("nothing to judge: there is no limit for any of the models")]
    NoLimit,
    #[error("{what}: no sample has what its limit is for")]
    NotMeasured { what: &'static str },
    #[error("`{name}`: {source}")]
    Stats { name: String, source: StatsError },
}

impl LimitsError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Io(error) => crate::files::hint(error),
            Self::Syntax { .. } => Some("evals/gates.yml of the source shows every key".to_owned()),
            Self::NotMeasured { .. } => Some(
                "kintsugi's own reports have KL divergences and top tokens, samples of lm-evaluation-harness have not"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
