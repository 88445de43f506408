//! The library without libtorch: checkpoints read, merged and written, folding against its definition, reports, the docs
//! against the code, and the sources themselves. Runs the same with and without the feature `libtorch`.
#![allow(clippy::cast_precision_loss, clippy::float_cmp, clippy::print_stderr, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod architecture;
mod checkpoint_reading;
mod client_state;
mod contradictions;
mod corpus_replay;
mod distributed;
mod export_hf;
mod export_roundtrip;
mod fold_properties;
mod hugging_face_ranks;
mod hugging_face_settings;
mod missing_tensors;
mod other_formats;
mod report_browser;
mod report_page;
mod report_reader;
mod report_snapshots;
mod supported;
mod synthetic;
mod torch_archive;
