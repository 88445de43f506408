//! Errors of the forward pass.

use tch::TchError;

use crate::partition::{PartitionError, Role, StageId};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No source of its own: its text, which the message begins with, ends in a C++ stack trace.
    #[error("libtorch: {}", first_line(.0))]
    Torch(TchError),
    #[error("{stage}: no {role:?}")]
    MissingParameter { stage: StageId, role: Role },
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error("device {device}: {reason}")]
    Device { device: String, reason: String },
}

impl From<TchError> for ModelError {
    fn from(error: TchError) -> Self {
        Self::Torch(error)
    }
}

impl ModelError {
    /// Whether a smaller chunk might do.
    pub fn is_out_of_memory(&self) -> bool {
        /// What libtorch's allocator and the CUDA runtime, cuBLAS, and the driver call it.
        const NAMES: [&str; 3] = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA_ERROR_OUT_OF_MEMORY"];
        let Self::Torch(error) = self else { return false };
        let message = error.to_string();
        NAMES.iter().any(|name| message.contains(name))
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

#[cfg(test)]
mod tests {
    use std::error::Error;

    use tch::TchError;

    use super::ModelError;

    fn torch(message: &str) -> ModelError {
        TchError::Torch(message.to_owned()).into()
    }

    #[test]
    fn only_the_first_line_of_libtorchs_text_is_shown() {
        let error = torch("CUDA error: invalid argument\nException raised from f at g.cpp:1\nframe #0: h");
        assert_eq!(error.to_string(), "libtorch: Internal torch error: CUDA error: invalid argument");
        assert!(error.source().is_none());
    }

    #[test]
    fn every_library_s_name_for_too_little_memory_is_known() {
        let full = [
            "CUDA out of memory. Tried to allocate 2.00 MiB.",
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ];
        assert!(full.iter().all(|message| torch(message).is_out_of_memory()));
        assert!(!torch("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`").is_out_of_memory());
    }
}
