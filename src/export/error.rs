//! Errors of writing a checkpoint.

use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;
use crate::config::{ConfigError, Unsupported};
use crate::files;
use crate::merge::MergeError;
use crate::partition::{PartitionError, StageId};
use crate::tensor::{DType, TensorError};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ExportError {
    #[error("{path}: cannot be written: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: not the recipe of a merge: {source}", path = path.display())]
    NotARecipe { path: PathBuf, source: serde_json::Error },
    #[error("{path}: exists already", path = path.display())]
    Exists { path: PathBuf, replaceable: bool },
    #[error("{path}: contains files that `kintsugi merge` did not write", path = path.display())]
    NotOurs { path: PathBuf },
    #[error("{path}: another process is writing it", path = path.display())]
    Busy { path: PathBuf },
    #[error(transparent)]
    Read { source: std::io::Error },
    #[error("{stage}: `{name}`: element {index} is beyond the range of {dtype}")]
    Overflow { stage: StageId, name: String, index: usize, dtype: DType },
    #[error("{format} cannot express this model: {reason}")]
    Inexpressible { format: &'static str, reason: String, instead: String },
    #[error("the vocabulary cannot be cut to {asked} tokens: the model has {rows}")]
    Vocabulary { asked: usize, rows: usize },
    #[error("the vocabulary cannot be padded to a multiple of {multiple}")]
    Padding { multiple: usize },
    #[error("{path}: its tokens need {tokens} rows of the vocabulary, and {rows} would be written", path = path.display())]
    Tokens { path: PathBuf, tokens: usize, rows: usize, enough: bool },
    #[error("cannot be written for {tp_size} ranks: {source}")]
    Ranks { tp_size: usize, possible: Vec<usize>, rows: Option<usize>, source: Box<Self> },
    #[error("what would be written is another model: expected {expected}, found {found}")]
    OtherModel { expected: String, found: String },
    #[error("{path}: what was written is not what was meant: {reason}", path = path.display())]
    Reopened { path: PathBuf, reason: String },
    #[error("{path}: {reason}", path = path.display())]
    Tokenizer { path: PathBuf, reason: String },
    #[error("{stage}: calibration failed: {source}")]
    Calibration { stage: StageId, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path}: tensor {tensor}: expected {expected} bytes, found {found}", path = path.display())]
    TensorBytes { path: PathBuf, tensor: usize, expected: u64, found: u64 },
    #[error("a thread of the merge ended before its work was done")]
    ThreadLost,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error("{path}: key `{key}` is given twice in one dictionary", path = path.display())]
    DuplicateKey { path: PathBuf, key: String },
    #[error("{path}: a string of {bytes} bytes does not fit into a pickle", path = path.display())]
    StringTooLong { path: PathBuf, bytes: usize },
    #[error("{path}: storage {storage}: {reason}", path = path.display())]
    Storage { path: PathBuf, storage: usize, reason: &'static str },
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
    #[error("{path}: expected {expected} storages, found {found}", path = path.display())]
    StorageCount { path: PathBuf, expected: usize, found: usize },
    #[error("{path}: storage {storage}: {source}", path = path.display())]
    Supply { path: PathBuf, storage: usize, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{setting}: expected {expected}, found {found}")]
    Setting { setting: &'static str, expected: &'static str, found: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("this model is refused: {0}")]
    Unsupported(#[from] Unsupported),
    #[error("tensor `{name}`: {source}")]
    Tensor { name: String, source: TensorError },
    #[error("tensor `{name}`: {source}")]
    Partition { name: String, source: PartitionError },
}

impl ExportError {
    /// The user's remedy, where one is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space or choose another disk; nothing half-written was left behind"
            }
            Self::Exists { replaceable: true, .. } => "--overwrite replaces it once the new one is complete",
            Self::Exists { .. } => "choose a directory that is empty or not there yet",
            Self::NotOurs { .. } => "--overwrite replaces only earlier merges; remove this yourself if it may go",
            Self::Busy { .. } => "wait for it, or choose another directory",
            Self::Overflow { .. } => "--dtype f32 holds every value",
            Self::Inexpressible { instead, .. } => instead,
            Self::Vocabulary { .. } => "--trim-vocab=N gives the number of tokens to keep",
            Self::Tokens { enough: true, .. } => "--trim-vocab without a number keeps a row for every token",
            Self::Tokens { .. } => "is it the tokenizer that the model was trained with? --tokenizer names another",
            Self::Ranks { tp_size, possible, rows, .. } => return Some(ranks_hint(*tp_size, possible, *rows)),
            Self::OtherModel { .. } | Self::Reopened { .. } => "nothing was written; please report it",
            Self::Partition { source: PartitionError::Indivisible { .. }, .. } => {
                "choose a number of ranks that divides heads, hidden size and MLP width"
            }
            Self::Checkpoint(error) => return error.hint(),
            Self::Merge(error) => return error.hint(),
            Self::Config(error) => return error.hint(),
            Self::Read { source } | Self::Io { source, .. } => return files::hint(source),
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// For `map_err`: an error of the operating system or of the zip writer, at `path`.
    pub(super) fn at<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> Self + use<'_, E> {
        move |source| Self::Io { path: path.to_owned(), source: source.into() }
    }
}

/// What `--tensor-parallel` could be instead.
fn ranks_hint(tp_size: usize, possible: &[usize], rows: Option<usize>) -> String {
    let numbers: Vec<_> = possible.iter().map(usize::to_string).collect();
    let ranks = format!("--tensor-parallel takes {} with this model", numbers.join(", "));
    match rows {
        Some(rows) => format!("--trim-vocab={rows} keeps rows that {tp_size} ranks divide; {ranks}"),
        None => ranks,
    }
}
