//! Errors of the forward pass.

use tch::TchError;

use crate::partition::{PartitionError, Role, StageId};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] TchError),
    #[error("{stage}: no {role:?}")]
    MissingParameter { stage: StageId, role: Role },
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("device {device}: {reason}")]
    Device { device: String, reason: String },
}

impl ModelError {
    /// Whether a smaller chunk might do.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Torch(error) if error.to_string().contains("out of memory"))
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Device { reason, .. } if reason.contains("cannot be loaded") => Some(
                "this may be libtorch for CPUs: `make setup LIBTORCH_KIND=cuda` gets the other; --device cpu always works"
                    .to_owned(),
            ),
            Self::Device { .. } => Some("`kintsugi doctor` lists the devices; --device cpu always works".to_owned()),
            Self::Torch(_) if self.is_out_of_memory() => {
                Some("give a smaller --memory-budget or --chunk-tokens".to_owned())
            }
            _ => None,
        }
    }
}

/// The message without the C++ stack trace that libtorch appends.
fn first_line(error: &TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
