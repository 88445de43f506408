//! Errors of sample files.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{path}: line {line} is not a sample or passage: {source}", path = path.display())]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("{path}: line {line} is longer than {limit_bytes} bytes", path = path.display())]
    LineTooLong { path: PathBuf, line: usize, limit_bytes: u64 },
    #[error("{path}: could not be written: {source}", path = path.display())]
    Write { path: PathBuf, source: std::io::Error },
}
