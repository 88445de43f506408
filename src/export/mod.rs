//! Writing checkpoints: `.pt` files that `torch.load(weights_only=True)` accepts ([`TorchArchive`], whose contents are
//! described by a [`Value`]), merges of checkpoints in gpt-neox's own format for any number of ranks or in Hugging Face's
//! ([`MergeJob`]), and synthetic checkpoints of any size ([`synth`]). Reading is `checkpoint`'s, merging is `merge`'s.
//!
//! A merge is planned whole (`plan`) before it runs as a stream of parameters (`pipeline`, `writer`); a target (`neox`,
//! `hf`) maps parameters to files. The directory appears whole or not at all (`staging`).

mod budget;
mod card;
mod client_state;
mod direct;
mod drift;
mod error;
mod hf;
mod job;
mod neox;
mod neox_check;
mod neox_config;
mod neox_origin;
mod output_file;
mod pickle;
mod pipeline;
mod plan;
mod recipe;
mod recipe_file;
mod reopen;
mod safetensors;
mod sharded_tensor;
mod staging;
pub mod synth;
mod tokenizer_files;
mod torch_archive;
mod writer;

pub use drift::Drift;
pub use error::ExportError;
pub use job::{Format, MergeJob, MergeSummary, Preview};
pub use neox_origin::VOCABULARY_MULTIPLE;
pub use pickle::{StoredTensor, Value};
pub use pipeline::StageSupply;
pub use plan::MergeChoice;
pub use recipe::{Measured, Record, Scores};
pub use recipe_file::{RecipeFile, RecipeOutput, RecipeStrategy};
pub use staging::RECIPE_FILE;
pub use tokenizer_files::TokenizerFiles;
pub use torch_archive::{TorchArchive, save, save_tensors};

/// Watches a merge.
pub trait Progress: Sync {
    /// The work begins; `total` is its size.
    fn start(&self, total: u64);
    fn advance(&self, work: u64);
}

impl Progress for () {
    fn start(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}
