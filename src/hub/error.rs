//! Errors of finding files by name, with hints.

use std::path::PathBuf;

use super::file::{CONFIG_FILE, HubFile};

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error("no {what} of the Hugging Face Hub can be named `{name}`")]
    InvalidName { what: &'static str, name: String },
    #[error("{path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: the file's checksum is {found}, expected {expected}", path = path.display())]
    Checksum { path: PathBuf, expected: String, found: String },
    #[error("{file} is not in the Hugging Face cache {cache}, and HF_HUB_OFFLINE is set", cache = cache.display())]
    Offline { file: HubFile, cache: PathBuf },
    #[error("{file} is not in the Hugging Face cache {cache}, and this build downloads nothing (feature hub)", cache = cache.display())]
    BuiltWithout { file: HubFile, cache: PathBuf },
    #[error("{endpoint} has no {file}")]
    NotThere { file: HubFile, endpoint: String },
    #[error("{endpoint} refuses {file}{}", if *with_token { " to the token given" } else { "" })]
    Refused { file: HubFile, endpoint: String, with_token: bool },
    #[error("{file} could not be downloaded from {endpoint}: {message}")]
    Download { file: HubFile, endpoint: String, message: String },
    #[error("{path}: no such file or directory, and {source}", path = path.display())]
    NeitherPathNorModel { path: PathBuf, source: Box<Self> },
    #[error("{repo} at {revision}: no weights that are read{}", others(found))]
    NoWeights { repo: String, revision: String, found: Vec<String> },
    #[error("{path}: not an index of weights: {message}", path = path.display())]
    Index { path: PathBuf, message: String },
    #[error("no tokenizer: looked for {}", places(looked))]
    NoTokenizer { looked: Vec<PathBuf>, kind: Option<String> },
}

fn places(looked: &[PathBuf]) -> String {
    looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn others(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(", found {}", found.join(", ")) }
}

impl HubError {
    /// Whether a whole model cannot be had: not one of its files alone.
    pub(super) fn is_of_model(&self) -> bool {
        match self {
            Self::Offline { file, .. }
            | Self::BuiltWithout { file, .. }
            | Self::NotThere { file, .. }
            | Self::Refused { file, .. }
            | Self::Download { file, .. } => file.file == CONFIG_FILE,
            _ => false,
        }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::InvalidName { .. } => {
                "names are NAME, OWNER/NAME or OWNER/NAME@REVISION; files are given by their path"
            }
            Self::Checksum { .. } => "delete this file if it is still there, and run this again",
            Self::Offline { .. } => "unset HF_HUB_OFFLINE, or give the file itself",
            Self::BuiltWithout { .. } => "fetch it with `hf download`, or give the file itself",
            Self::NotThere { .. } => "check the name; a file on this machine is given by its path",
            Self::Refused { with_token: false, .. } => {
                "the repository is private, gated or does not exist: set HF_TOKEN, or give the file itself"
            }
            Self::Refused { with_token: true, .. } => {
                "the repository is gated or does not exist, or the token (HF_TOKEN) may not read it"
            }
            Self::Download { .. } => {
                "without a connection, fetch the file elsewhere and give its path; HF_ENDPOINT names a mirror, \
                 HTTPS_PROXY a proxy"
            }
            Self::NoTokenizer { kind: Some(kind), .. } if kind != "HFTokenizer" => {
                let what = match kind.as_str() {
                    "GPT2BPETokenizer" => "the vocab.json that it was trained with, with its merges.txt beside it",
                    "HFGPT2Tokenizer" | "HFGPT2TokenizerFast" => {
                        "openai-community/gpt2, or the folder it was loaded from"
                    }
                    "SPMTokenizer" => "its SentencePiece model, converted to a tokenizer.json (transformers does it)",
                    "TiktokenTokenizer" => "its encoding, converted to a tokenizer.json (transformers does it)",
                    "CharLevelTokenizer" => "a tokenizer.json that numbers the bytes as it does",
                    _ => "a tokenizer.json with the same tokens",
                };
                return Some(format!("the model was trained with {kind}: give --tokenizer {what}"));
            }
            Self::NoTokenizer { .. } => {
                "give one with --tokenizer: a tokenizer.json, or a name on the Hugging Face Hub such as \
                 EleutherAI/gpt-neox-20b"
            }
            Self::NeitherPathNorModel { source, .. } => return source.hint(),
            Self::NoWeights { .. } => {
                "model.safetensors and pytorch_model.bin are read, and their indices with several files: give a revision \
                 (NAME@REVISION) that has them"
            }
            Self::Index { .. } => {
                "the repository is not as transformers writes it: try another revision (NAME@REVISION)"
            }
            Self::Read { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
