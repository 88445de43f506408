//! Files and whole models of the Hugging Face Hub by name: from its cache on this machine, else by download. The environment
//! is the one that `huggingface_hub` reads (`HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`), and so is
//! the cache, so that files which Python has fetched are not fetched again. Also: where a checkpoint's tokenizer is.

mod checksum;
#[cfg(feature = "hub")]
mod download;
mod error;
mod fetch;
mod file;
mod model;
mod settings;
#[cfg(test)]
mod tests;
mod tokenizer;

pub use error::HubError;
pub use fetch::{Found, Progress};
pub use file::{HubFile, RepoKind};
pub use model::WEIGHT_FILES;
pub use settings::Hub;
pub use tokenizer::{ConfiguredTokenizer, TokenizerPlace, TokenizerRequest};
