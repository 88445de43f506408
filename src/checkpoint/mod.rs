//! Checkpoints as gpt-neox ([`Checkpoint`]) and Megatron-LM ([`MegatronCheckpoint`]) write them, and models as transformers
//! does ([`HuggingFaceModel`]): finding
//! the files, accounting for every tensor, reading a stage at a time ([`ModelSource`]). `partition` decides what a name
//! means, `merge` how stages are merged.

mod client;
mod digest;
mod error;
mod examine;
mod huggingface;
mod inventory;
mod layer_numbers;
mod layout;
mod megatron;
mod neox;
mod observe;
mod open;
mod other_format;
mod read_digests;
mod recognize;
mod rotary_table;
mod saved_tables;
mod source;
mod stage_reader;
#[cfg(test)]
mod tests;
mod torch_file;
mod unchanged;
mod warnings;

pub use client::ClientState;
pub(crate) use client::QUIRKS;
pub use digest::{FileDigest, digest_file};
pub use error::CheckpointError;
pub use examine::Description;
pub use huggingface::{HuggingFaceClass, HuggingFaceError, HuggingFaceModel};
pub use inventory::ParamEntry;
pub use layer_numbers::stage_number;
pub use layout::Layout;
pub use megatron::{DistributedCheckpoint, DistributedError, MegatronCheckpoint, MegatronError};
pub use neox::{Checkpoint, OpenOptions};
pub use open::open_model;
pub use other_format::OtherFormat;
pub use read_digests::ReadDigests;
pub use source::{ModelSource, ReplicatedParams, STORED_ONCE, StageReader};
pub use torch_file::{Reading, TensorForm, TorchFile};
