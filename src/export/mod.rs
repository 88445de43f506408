//! Writing checkpoints: `.pt` files that `torch.load(weights_only=True)` accepts ([`TorchArchive`], whose contents are
//! described by a [`Value`]), and synthetic checkpoints of any size in gpt-neox's own format ([`synth`]). Every file
//! is written beside its final name and renamed when it is complete. Reading is `checkpoint`'s.

mod pickle;
pub mod synth;
mod torch_archive;

use std::path::{Path, PathBuf};

pub use pickle::{StoredTensor, Value};
pub use torch_archive::{TorchArchive, save, save_tensors};

use crate::config::{ConfigError, Unsupported};
use crate::partition::PartitionError;
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
            Self::Exists { .. } => "choose an empty directory, or remove this one first".to_owned(),
            Self::Partition { source: PartitionError::Indivisible { .. }, .. } => {
                "choose a number of ranks that divides heads, hidden size and MLP width".to_owned()
            }
            Self::Config(error) => return error.hint(),
            _ => return None,
        })
    }

    /// For `map_err`: an error of the operating system or of the zip writer, at `path`.
    fn at<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> Self + use<'_, E> {
        move |source| Self::Io { path: path.to_owned(), source: source.into() }
    }
}
