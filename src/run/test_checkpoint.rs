//! Test checkpoints: a real model, divided among ranks whose replicas differ by a seeded amount, with what is true of it
//! beside it.

use std::path::Path;

use serde::Serialize;

use super::drift::read_replicated;
use super::judge::judge_strategies;
use super::provenance::versions;
use super::resolve::{model_path, tokenizer_if_any};
use crate::checkpoint::{Checkpoint, ModelSource, OpenOptions, open_model};
use crate::error::{Error, Result};
use crate::export::{Drift, Format, MergeChoice, MergeJob, Record, TokenizerFiles};
use crate::files::free_bytes;
use crate::hub;
use crate::merge::Strategy;
use crate::report::{Judgement, Tool, write_atomically};
use crate::tensor::DType;

/// The file that says what is true of a test checkpoint.
pub const TRUTH_FILE: &str = "truth.json";

const TRUTH_VERSION: &str = "1";

/// Bytes of weights in transit.
const MEMORY_BUDGET: u64 = 768 << 20;

/// A test checkpoint that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct TestCheckpoint<'a> {
    /// A model of one rank: a Hugging Face directory, a name on the Hub, or a merged checkpoint of gpt-neox.
    pub model: &'a Path,
    /// Number of ranks.
    pub tp_size: usize,
    /// How far the ranks' replicas are apart.
    pub drift: Drift,
    /// Type of the weights; none: the model's.
    pub dtype: Option<DType>,
    /// A tokenizer's file or name; none: the one beside the model, if there is one.
    pub tokenizer: Option<&'a Path>,
    /// A new directory.
    pub directory: &'a Path,
}

/// What is true of a test checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Truth {
    /// Version of the file's form.
    pub schema_version: &'static str,
    /// The program that wrote it.
    pub tool: Tool,
    /// The model that it was made of.
    pub model: String,
    /// The format of that model.
    pub format: String,
    /// Number of ranks.
    pub tensor_parallel: usize,
    /// Standard deviation of the noise, relative to each value, in norms and learned positions.
    pub drift: f64,
    /// The same in row-parallel biases.
    pub drift_biases: f64,
    /// Seed of the noise.
    pub seed: u64,
    /// The built-in strategies: which of them keep the unmerged model, and what the others lose.
    pub strategies: Vec<Judgement>,
    /// What the unmerged checkpoint scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmerged: Option<Numbers>,
}

/// The numbers of an evaluation.
#[derive(Debug, Clone, Serialize)]
pub struct Numbers {
    /// The task.
    pub task: String,
    /// Number of passages.
    pub passages: usize,
    /// Perplexity per passage.
    pub perplexity: f64,
    /// Share of targets that greedy decoding gives.
    pub acc: f64,
    /// Data type of the matrix products.
    pub dtype: String,
}

impl TestCheckpoint<'_> {
    /// Writes it, opens it again, and writes beside it what is true of it.
    ///
    /// # Errors
    /// A model that cannot be read, has several ranks already or cannot be gpt-neox's; ranks that do not divide it; the disk.
    pub fn write(&self, command: &[String], download: &mut dyn hub::Progress) -> Result<Truth> {
        let source = open_model(&model_path(self.model, download)?, &OpenOptions::default())?;
        if source.tp_size() > 1 {
            let (model, ranks) = (self.model.display(), source.tp_size());
            return Err(Error::usage(format!(
                "{model}: a test checkpoint is made of a model of one rank, and this one has {ranks}: merge it first"
            )));
        }
        self.check_room(&*source)?;
        let strategy = Strategy::resolve("fold")?;
        let place = tokenizer_if_any(self.tokenizer, &*source, download)?;
        let tokenizer = place.map(|place| TokenizerFiles::read(&place.path, place.merges.as_deref())).transpose()?;
        let versions = versions();
        let record = Record {
            command: command.to_vec(),
            strategy_text: Strategy::text("fold")?,
            version: versions.kintsugi,
            commit: versions.git_commit,
            measured: None,
        };
        let job = MergeJob {
            source: &*source,
            choice: MergeChoice {
                strategy: &strategy,
                dtype: self.dtype,
                vocab_size: None,
                // No more rows than the ranks need, so that the probabilities are the model's.
                vocab_multiple: Some(1),
                calibrated: false,
            },
            format: Format::Neox { tp_size: self.tp_size },
            drift: Some(self.drift),
            tokenizer: tokenizer.as_ref(),
            directory: self.directory,
            overwrite: false,
            memory_budget: MEMORY_BUDGET,
            record: &record,
        };
        job.run(None, &())?;
        let truth = self.truth(source.describe())?;
        truth.write(self.directory)?;
        Ok(truth)
    }

    /// The disk must have room for the weights.
    fn check_room(&self, source: &dyn ModelSource) -> Result<()> {
        let (parameters, bytes) = source.size();
        let needed = self.dtype.map_or(bytes, |dtype| parameters * dtype.size() as u64);
        let (directory, needed_mib) = (self.directory.display(), needed.div_ceil(1 << 20));
        if let Some(free) = free_bytes(self.directory).filter(|&free| free < needed) {
            let free_mib = free >> 20;
            return Err(Error::usage(format!(
                "{directory}: {needed_mib} MiB of weights would be written, and {free_mib} MiB are free on that disk"
            ))
            .with_hint("choose a folder on another disk"));
        }
        tracing::info!("{directory}: {needed_mib} MiB of weights for {} ranks", self.tp_size);
        Ok(())
    }

    fn truth(&self, format: String) -> Result<Truth> {
        let checkpoint = Checkpoint::open(self.directory, &[])?;
        let stages = read_replicated(&checkpoint)?;
        let strategies = judge_strategies(&checkpoint, &stages, &Strategy::built_in()?)?;
        Ok(Truth {
            schema_version: TRUTH_VERSION,
            tool: Tool { name: "kintsugi".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
            model: self.model.display().to_string(),
            format,
            tensor_parallel: self.tp_size,
            drift: self.drift.replicas,
            drift_biases: self.drift.biases,
            seed: self.drift.seed,
            strategies,
            unmerged: None,
        })
    }
}

impl Truth {
    /// Writes it into the checkpoint's directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(write_atomically(&directory.join(TRUTH_FILE), text.as_bytes())?)
    }
}
