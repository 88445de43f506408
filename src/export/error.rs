//! What can go wrong while a checkpoint is written, and what to do about it.

use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;
use crate::config::{ConfigError, Unsupported};
use crate::files;
use crate::merge::MergeError;
use crate::partition::{PartitionError, StageId};
use crate::tensor::{DType, TensorError};

/// What can go wrong while a checkpoint is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ExportError {
    /// The operating system's word.
    #[error("{path}: cannot be written: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// There is a checkpoint at the destination already.
    #[error("{path}: exists already", path = path.display())]
    Exists { path: PathBuf },
    /// Something at the destination that this program did not write.
    #[error("{path}: holds something that `kintsugi merge` did not write", path = path.display())]
    NotOurs { path: PathBuf },
    /// Another process writes the same destination.
    #[error("{path}: another process is writing it", path = path.display())]
    Busy { path: PathBuf },
    /// An input that cannot be read.
    #[error(transparent)]
    Read { source: std::io::Error },
    /// A weight that the output's type cannot hold.
    #[error("{stage}: `{name}`: element {index} is beyond the range of {dtype}")]
    Overflow { stage: StageId, name: String, index: usize, dtype: DType },
    /// A model that the output format has no words for.
    #[error("{format} cannot express this model: {reason}")]
    Inexpressible { format: &'static str, reason: String, instead: String },
    /// A vocabulary that cannot be trimmed to this size.
    #[error("the vocabulary cannot be cut to {asked} tokens: the model has {rows}")]
    Vocabulary { asked: usize, rows: usize },
    /// A tokenizer file that cannot be understood.
    #[error("{path}: {reason}", path = path.display())]
    Tokenizer { path: PathBuf, reason: String },
    /// The calibration could not supply a stage.
    #[error("{stage}: calibration failed: {source}")]
    Calibration { stage: StageId, source: Box<dyn std::error::Error + Send + Sync> },
    /// A tensor of another size than was announced.
    #[error("{path}: tensor {tensor}: expected {expected} bytes, found {found}", path = path.display())]
    TensorBytes { path: PathBuf, tensor: usize, expected: u64, found: u64 },
    /// A thread of the pipeline ended without a word.
    #[error("a thread of the merge ended before its work was done")]
    ThreadLost,
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A strategy that cannot be applied.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A dictionary with a key twice, one of whose values would be lost.
    #[error("{path}: key `{key}` is given twice in one dictionary", path = path.display())]
    DuplicateKey { path: PathBuf, key: String },
    /// A string longer than a pickle can hold.
    #[error("{path}: a string of {bytes} bytes does not fit into a pickle", path = path.display())]
    StringTooLong { path: PathBuf, bytes: usize },
    /// Storages that are not numbered 0, 1, 2, … or that are described in two ways.
    #[error("{path}: storage {storage}: {reason}", path = path.display())]
    Storage { path: PathBuf, storage: usize, reason: &'static str },
    /// A tensor of another form than was announced.
    #[error(
        "{path}: storage {storage}: expected {expected_count} elements of {expected_dtype}, \
         found {found_count} of {found_dtype}",
        path = path.display()
    )]
    Form {
        path: PathBuf,
        storage: usize,
        expected_dtype: DType,
        expected_count: usize,
        found_dtype: DType,
        found_count: usize,
    },
    /// More or fewer tensors than were announced.
    #[error("{path}: expected {expected} storages, found {found}", path = path.display())]
    StorageCount { path: PathBuf, expected: usize, found: usize },
    /// Whoever supplies the tensors could not.
    #[error("{path}: storage {storage}: {source}", path = path.display())]
    Supply { path: PathBuf, storage: usize, source: Box<dyn std::error::Error + Send + Sync> },
    /// A setting that gpt-neox could not have trained with.
    #[error("{setting}: expected {expected}, found {found}")]
    Setting { setting: &'static str, expected: &'static str, found: String },
    /// Settings that do not make a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model that this program could not read back.
    #[error("this model is refused: {0}")]
    Unsupported(#[from] Unsupported),
    /// A tensor that cannot be made.
    #[error("tensor `{name}`: {source}")]
    Tensor { name: String, source: TensorError },
    /// A tensor that does not divide among the ranks.
    #[error("tensor `{name}`: {source}")]
    Partition { name: String, source: PartitionError },
}

impl ExportError {
    /// What the user can do about it, where we know.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space or choose another disk; nothing half-written was left behind".to_owned()
            }
            Self::Exists { path } if path.join(super::RECIPE_FILE).is_file() => {
                "--overwrite replaces it once the new one is complete".to_owned()
            }
            Self::Exists { .. } => "choose a directory that is empty or not there yet".to_owned(),
            Self::NotOurs { .. } => {
                "--overwrite replaces only earlier merges; remove this yourself if it may go".to_owned()
            }
            Self::Busy { .. } => "wait for it, or choose another directory".to_owned(),
            Self::Overflow { .. } => "--dtype f32 holds every value".to_owned(),
            Self::Inexpressible { instead, .. } => instead.clone(),
            Self::Vocabulary { .. } => "--trim-vocab=N gives the number of tokens to keep".to_owned(),
            Self::Checkpoint(error) => return error.hint(),
            Self::Merge(error) => return error.hint(),
            Self::Partition { source: PartitionError::Indivisible { .. }, .. } => {
                "choose a number of ranks that divides heads, hidden size and MLP width".to_owned()
            }
            Self::Config(error) => return error.hint(),
            Self::Read { source } | Self::Io { source, .. } => return files::hint(source),
            _ => return None,
        })
    }

    /// For `map_err`: an error of the operating system or of the zip writer, at `path`.
    pub(super) fn at<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> Self + use<'_, E> {
        move |source| Self::Io { path: path.to_owned(), source: source.into() }
    }
}
