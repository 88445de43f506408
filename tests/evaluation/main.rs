//! The forward pass and the evaluation, on libtorch: against gpt-neox's and Megatron-LM's own numbers, against itself in other divisions,
//! types and formats, and with files that change under it.
//!
//! One process for all of them: [`invariance`] changes the number of threads for the whole process, which by its own
//! assertion changes no number anywhere.
#![allow(clippy::float_cmp, clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod calibration;
mod candidates;
mod changed_files;
mod dead_reader;
mod export_evaluation;
mod gpt_neox_reference;
mod gpu;
mod invariance;
mod megatron_reference;
mod read_and_merged;
mod self_check;
mod tokenizing;
mod written_models;
