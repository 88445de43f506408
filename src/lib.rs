//! kintsugi joins the tensor-parallel shards of a GPT-NeoX checkpoint into one model and measures what the seams cost: it
//! evaluates the unmerged model and every merge of it on the same passages, in one pass over the weights.
//!
//! The rooms, from the ground up; each imports from lower ones only (`tests/library/architecture.rs` sees to it):
//!
//! | level | room | what is in it |
//! |---|---|---|
//! | 0 | [`files`] | files that are there whole or not at all, and are what they seem |
//! | 1 | [`stats`] | proportions, paired tests, bootstrap, fidelity: plain numbers in and out |
//! | 1 | [`tensor`] | host tensors and their arithmetic |
//! | 1 | [`config`] | what the model is: gpt-neox's configuration, typed and validated |
//! | 1 | [`hub`] | files by name: the Hugging Face cache and Hub; where tokenizers lie |
//! | 2 | [`samples`] | what was measured, per passage, on disk |
//! | 2 | [`partition`] | the one table: parameter name → kind; joining and splitting |
//! | 3 | [`checkpoint`] | directories and `.pt` files: layout, accounting, reading a stage at a time |
//! | 4 | [`merge`] | strategies as data, reducing, folding, drift, exactness |
//! | 4 | `model` | the forward pass on libtorch |
//! | 5 | [`export`] | writing merges, for gpt-neox and transformers; the `.pt` writer; synthetic checkpoints |
//! | 5 | `eval` | tasks, tokens, the layer-major engine |
//! | 5 | [`report`] | reports and their renderings; runs nothing |
//! | 6 | [`gate`] | reports held against limits and against earlier reports |
//! | 7 | [`cli`] | one file per subcommand |
//!
//! `model` and `eval` need the feature `libtorch` (on by default); everything else builds and works without.

//!
//! # From Rust
//!
//! [`compare`] and [`Comparison`] do what `kintsugi compare` does:
#![cfg_attr(feature = "libtorch", doc = "```")]
#![cfg_attr(not(feature = "libtorch"), doc = "```ignore")]
//! let report = kintsugi::Comparison::of("evals/demo/checkpoint")
//!     .task("evals/demo/task.yml")
//!     .tokenizer("evals/demo/tokenizer.json")
//!     .strategies(["mean", "fold"])
//!     .device("cpu")?
//!     .limit(40)
//!     .run()?;
//! let [mean, fold] = &report.variants[..] else { unreachable!("two strategies were asked for") };
//! assert!(mean.loss.perplexity > 10.0 * fold.loss.perplexity.abs());
//! assert!(fold.exact.as_ref().is_some_and(|exact| exact.exact));
//! print!("{}", kintsugi::report::render_markdown(&report));
//! # Ok::<(), kintsugi::Error>(())
//! ```
//!
//! What the version promises: [`compare`], [`Comparison`], [`Error`], the command line, exit codes, `report.json` and the files of
//! an output directory change incompatibly only with a new major version (before 1.0: minor version). The rooms are public so
//! that parts can be used and tested; they may change with any minor version.

pub mod checkpoint;
pub mod cli;
#[cfg(feature = "libtorch")]
mod comparison;
pub mod config;
#[cfg(feature = "libtorch")]
pub mod eval;
pub mod export;
pub mod files;
pub mod gate;
pub mod hub;
pub mod merge;
#[cfg(feature = "libtorch")]
pub mod model;
pub mod partition;
pub mod report;
pub mod samples;
pub mod stats;
pub mod tensor;

#[cfg(feature = "libtorch")]
pub use comparison::{Comparison, Error, compare};
