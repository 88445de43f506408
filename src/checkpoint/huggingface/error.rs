//! Errors of Hugging Face directories, with hints.

use std::path::PathBuf;

use crate::config::{ConfigError, Unsupported};
use crate::files;
use crate::tensor::{DType, TensorError};

const KNOWN_CLASSES: &str =
    "GPTNeoXForCausalLM, LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum HuggingFaceError {
    #[error("{path}: {message}", path = path.display())]
    Config { path: PathBuf, message: String },
    #[error("{path}: expected one of {KNOWN_CLASSES}, found {found}", path = path.display())]
    Class { path: PathBuf, found: String },
    #[error(transparent)]
    Value(#[from] ConfigError),
    #[error("{path}: this model is refused: {source}", path = path.display())]
    Unsupported { path: PathBuf, source: Unsupported },
    #[error("{folder}: no model.safetensors, pytorch_model.bin, or index of several of them", folder = folder.display())]
    NoWeights { folder: PathBuf },
    #[error("{path}: {message}", path = path.display())]
    Index { path: PathBuf, message: String },
    #[error("{path}: places `{name}` in `{file}`, which is not a file of this folder", path = path.display())]
    IndexPlace { path: PathBuf, name: String, file: String },
    #[error("{path}: holds tensor `{name}`, which the index places in another file or does not contain", path = path.display())]
    NotIndexed { path: PathBuf, name: String },
    #[error("{path}: cannot be read as a safetensors file: {message}", path = path.display())]
    Damaged { path: PathBuf, message: String },
    #[error("{path}: missing tensor `{name}` of shape {expected:?}", path = path.display())]
    Missing { path: PathBuf, name: String, expected: Vec<usize> },
    #[error("{path}: unexpected tensor `{name}` of shape {found:?}", path = path.display())]
    Unexpected { path: PathBuf, name: String, found: Vec<usize> },
    #[error("{path}: tensor `{name}`: expected shape {expected:?}, found {found:?}", path = path.display())]
    Shape { path: PathBuf, name: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{path}: tensor `{name}`: expected floating point, found {found}", path = path.display())]
    NotFloat { path: PathBuf, name: String, found: String },
    #[error("{path}: tensor `{name}`: expected {expected} as its siblings, found {found}", path = path.display())]
    Siblings { path: PathBuf, name: String, expected: DType, found: DType },
    #[error("{path}: tensor `{name}`: NaN or infinity at element {index}", path = path.display())]
    NonFinite { path: PathBuf, name: String, index: usize },
    #[error("{path}: tensor `{name}`: the table in the files {found}, that of config.json has base {base}", path = path.display())]
    PositionTable { path: PathBuf, name: String, found: String, base: f64 },
    #[error("{path}: tensor `{name}`: {source}", path = path.display())]
    Tensor { path: PathBuf, name: String, source: TensorError },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl HuggingFaceError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Config { .. } => {
                "a Hugging Face directory holds the config.json that transformers' save_pretrained wrote"
            }
            Self::Class { .. } => "models of classes with other tensors or another function are not read",
            Self::NoWeights { .. } | Self::IndexPlace { .. } => {
                "copy the whole directory, weights and index, from where it was written"
            }
            Self::Index { .. } => "an index holds `weight_map`: tensor name to file name",
            Self::NotIndexed { .. } => {
                "files of several exports seem to be mixed: write or copy the whole directory again"
            }
            Self::Damaged { .. } => "the file may be truncated: compare its size or checksum with the original",
            Self::Missing { .. } | Self::Unexpected { .. } | Self::Shape { .. } => {
                "nothing is skipped, since any tensor may matter: do config.json and weights belong together?"
            }
            Self::NotFloat { .. } => "quantised weights are another model: give the unquantised one",
            Self::PositionTable { .. } => {
                "older versions of transformers compute with the table in the files, newer ones with that of config.json: \
                 set rope_theta to the base that the model was trained with, or remove the table"
            }
            Self::NonFinite { .. } => "the conversion overflowed, training diverged or the file is damaged",
            Self::Value(error) => return error.hint(),
            Self::Unsupported { source, .. } => &source.needed,
            Self::Io(error) => return files::hint(error),
            Self::Siblings { .. } | Self::Tensor { .. } => return None,
        };
        Some(text.to_owned())
    }
}

pub(super) fn refuse(setting: impl Into<String>, reason: &str) -> Unsupported {
    Unsupported::new(setting, reason, "evaluate it with transformers and lm-evaluation-harness")
}

/// A key by which another class, or another program, computes something else.
pub(super) fn refuse_unread(class: &str, key: &str, value: &str, off: &str) -> Unsupported {
    Unsupported::new(
        format!("{key}: {value}"),
        &format!("{class} is evaluated without it, and with it the model would be another{off}"),
        "remove the key from config.json if the model was trained without it",
    )
}
