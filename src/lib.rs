//! kintsugi joins the tensor-parallel shards of a GPT-NeoX or Megatron-LM checkpoint into one model and measures what the
//! seams cost: it evaluates the unmerged model and every merge of it on the same passages, in one pass over the weights
//! (with a journal one for every slice of passages).
//!
//! The modules, from the ground up; each imports from lower ones only, and files within a module do not import in circles
//! (`tests/library/architecture` checks both):
//!
//! | level | module | content |
//! |---|---|---|
//! | 0 | `files` | files that are written whole or not at all, and are what they seem |
//! | 0 | `words` | names and numbers as sentences have them |
//! | 1 | `stats` | proportions, paired tests, bootstrap, fidelity: plain numbers in and out |
//! | 1 | `tensor` | host tensors and their arithmetic |
//! | 1 | `config` | what the model is: gpt-neox's configuration, typed and validated |
//! | 1 | `hub` | files and models by name: the Hugging Face cache and Hub; where tokenizers are |
//! | 2 | `samples` | the outcome of every passage, on disk |
//! | 2 | `options` | choices for a run, as they are written |
//! | 2 | `partition` | the one table: parameter name → kind; joining and splitting |
//! | 3 | `checkpoint` | models on disk, by who wrote them (gpt-neox, Megatron-LM, transformers): layout, accounting, reading a stage at a time |
//! | 3 | `limits` | limits for what a model may lose, and what was proven of them |
//! | 4 | `merge` | strategies as data, reducing, folding, drift, exactness |
//! | 4 | `model` | the forward pass on libtorch |
//! | 5 | `export` | writing merges, for gpt-neox and transformers; the `.pt` writer; synthetic checkpoints |
//! | 5 | `eval` | tasks, tokens, the layer-major engine |
//! | 5 | [`report`] | reports and their renderings; runs nothing |
//! | 6 | `gate` | reports checked against limits and against earlier reports |
//! | 6 | `verify` | merges checked against their certificates |
//! | 7 | `error` | the one [`Error`] that every module's errors become |
//! | 8 | [`run`] | the main job: a request in, a report out; journal, resume, run shards |
//! | 9 | `comparison` | [`Comparison`], the main job for callers from Rust |
//! | 9 | `cli` | one file per subcommand |
//!
//! `model`, `eval` and what runs a model in `run` need the feature `libtorch` (on by default); everything else builds and
//! works without.
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
//! an output directory change incompatibly only with a new major version (before 1.0: minor version). The modules that these
//! pages do not show are public so that parts can be used and tested; they may change with any minor version.

#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "libtorch")]
mod comparison;
#[doc(hidden)]
pub mod config;
mod error;
#[cfg(feature = "libtorch")]
#[doc(hidden)]
pub mod eval;
#[doc(hidden)]
pub mod export;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod gate;
#[doc(hidden)]
pub mod hub;
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod merge;
#[cfg(feature = "libtorch")]
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod options;
#[doc(hidden)]
pub mod partition;
pub mod report;
pub mod run;
#[doc(hidden)]
pub mod samples;
#[doc(hidden)]
pub mod stats;
#[doc(hidden)]
pub mod tensor;
#[doc(hidden)]
pub mod verify;
mod words;

#[cfg(feature = "libtorch")]
pub use comparison::{Comparison, compare};
pub use error::{Error, ErrorKind, Result};
