//! One merge from beginning to end: plan, write, recipe, card, and only then the directory under its name.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::hf::HfTarget;
use super::neox::NeoxTarget;
use super::neox_config::Changes;
use super::neox_origin::Origin;
use super::pipeline::{Pipeline, StageSupply, Target, Written};
use super::plan::{MergeChoice, Plan};
use super::recipe::{OutputRecord, Recipe, RecipeInput, Record};
use super::reopen::check_sizes;
use super::staging::{RECIPE_FILE, Staging};
use super::tokenizer_files::{MAX_FILE_BYTES, TokenizerFiles};
use super::{Drift, ExportError, Progress, card};
use crate::checkpoint::{FileDigest, ModelSource, digest_file};
use crate::files::{self, write_atomically};
use crate::merge::Exactness;
use crate::partition::StageId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A checkpoint that gpt-neox loads, for so many ranks.
    Neox { tp_size: usize },
    /// A directory that transformers loads.
    HuggingFace {
        /// Bytes of a file, unless one tensor is larger.
        max_shard_bytes: u64,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct MergeJob<'a> {
    pub source: &'a dyn ModelSource,
    pub choice: MergeChoice<'a>,
    pub format: Format,
    /// What makes replicas differ in gpt-neox's format; none: they are the same on all ranks.
    pub drift: Option<Drift>,
    /// The tokenizer to put beside it.
    pub tokenizer: Option<&'a TokenizerFiles>,
    pub directory: &'a Path,
    /// Whether an earlier merge there may be replaced.
    pub overwrite: bool,
    /// Bytes that may be in memory at once.
    pub memory_budget: u64,
    /// The recipe's entries on the run.
    pub record: &'a Record,
}

#[derive(Debug)]
pub struct MergeSummary {
    pub directory: PathBuf,
    pub bytes: u64,
    pub exactness: Exactness,
}

#[derive(Debug)]
pub struct Preview {
    /// Paths of the weight files below the directory.
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    /// What a reader of the files must know, a sentence each.
    pub notes: Vec<String>,
    pub exactness: Exactness,
}

impl MergeJob<'_> {
    /// Checks everything that can be checked before weights are read.
    ///
    /// # Errors
    /// As [`MergeJob::run`], as far as they do not depend on the weights or the disk.
    pub fn preview(&self) -> Result<Preview, ExportError> {
        let plan = self.plan()?;
        let target = self.target(&plan)?;
        let files = target.files().iter().map(|file| file.path.clone()).collect();
        Ok(Preview { files, bytes: target.bytes(), notes: target.notes(), exactness: plan.exactness })
    }

    /// Writes the merge. `supply` merges stages where [`MergeChoice::calibrated`] is set.
    ///
    /// # Errors
    /// Anything that keeps the merge from being made, read or written. The destination is then as it was before.
    pub fn run(
        &self,
        supply: Option<&mut StageSupply<'_>>,
        progress: &dyn Progress,
    ) -> Result<MergeSummary, ExportError> {
        let plan = self.plan()?;
        let target = self.target(&plan)?;
        let staging = Staging::begin(self.directory, self.overwrite)?;
        let folder = staging.folder();
        for file in target.files() {
            if let Some(parent) = folder.join(&file.path).parent() {
                fs::create_dir_all(parent).map_err(ExportError::at(parent))?;
            }
        }
        let strategy = self.choice.strategy;
        let pipeline = Pipeline { source: self.source, plan: &plan, strategy, target: &*target, folder };
        let Written { inputs, mut outputs, exactness } = pipeline.run(self.memory_budget, supply, progress)?;
        for (path, text) in target.texts() {
            outputs.push(write(folder, path, text.as_bytes())?);
        }
        for (source, name) in self.tokenizer.map(TokenizerFiles::copies).unwrap_or_default() {
            let bytes = files::read(source, MAX_FILE_BYTES).map_err(|source| ExportError::Read { source })?;
            outputs.push(write(folder, Path::new(name), &bytes)?);
        }
        let output = self.output_record(&plan, &*target);
        let input = RecipeInput {
            source: self.source,
            plan: &plan,
            exactness: &exactness,
            strategy,
            record: self.record,
            output: &output,
            inputs: &inputs,
            outputs: &outputs,
        };
        let title = staging.target().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        write(folder, Path::new("README.md"), card::text(&input, &title).as_bytes())?;
        let recipe = Recipe::new(&input)
            .text()
            .map_err(|source| ExportError::at::<std::io::Error>(&folder.join(RECIPE_FILE))(source.into()))?;
        write(folder, Path::new(RECIPE_FILE), recipe.as_bytes())?;
        target.check_written(folder)?;
        check_sizes(folder, &outputs)?;
        let directory = staging.target().to_owned();
        staging.publish()?;
        Ok(MergeSummary { directory, bytes: output.bytes, exactness })
    }

    fn plan(&self) -> Result<Plan, ExportError> {
        let tp_size = if let Format::Neox { tp_size } = self.format { tp_size } else { 1 };
        let mut plan = Plan::new(self.source, &self.choice, tp_size)?;
        if let Format::Neox { tp_size: 2.. } = self.format
            && self.source.tp_size() == 1
            && self.source.architecture().never_exact().is_some()
        {
            for layer in 0..self.source.architecture().layer_count {
                let reason = "it takes its statistics over the heads of one rank, here over some of the model's heads";
                plan.exactness.add_change(StageId::Layer(layer), "attention.qk_layernorm", reason);
            }
        }
        if let Some(drift) = &self.drift {
            drift.check()?;
            let drifted = plan.params.iter().filter(|param| param.used && drift.of(param.kind) > 0.0);
            for param in drifted {
                plan.exactness.add_change(param.stage, &param.name, "drifted from rank to rank, for a test");
            }
        }
        let rows = self.source.architecture().padded_vocab_size;
        if let Some(tokenizer) = self.tokenizer {
            tokenizer.check_rows(plan.vocab_size, rows)?;
        }
        Ok(plan)
    }

    fn target(&self, plan: &Plan) -> Result<Box<dyn Target + '_>, ExportError> {
        let Self { source, choice, tokenizer, .. } = self;
        let directory = &std::path::absolute(self.directory).map_err(ExportError::at(self.directory))?;
        Ok(match self.format {
            Format::Neox { tp_size } => {
                self.check_head_norms(tp_size)?;
                let origin = Origin::of(*source)?;
                let changes = Changes {
                    source: *source,
                    origin: &origin,
                    tp_size,
                    vocab_size: plan.vocab_size,
                    unties_head: plan.unties_head,
                    dtype: choice.dtype,
                    directory,
                    tokenizer: *tokenizer,
                    drift: self.drift,
                };
                Box::new(NeoxTarget::new(plan, &changes)?)
            }
            Format::HuggingFace { max_shard_bytes } => {
                Box::new(HfTarget::new(*source, plan, choice, *tokenizer, max_shard_bytes)?)
            }
        })
    }

    /// A norm over the heads of a rank is another one where ranks have other heads.
    fn check_head_norms(&self, tp_size: usize) -> Result<(), ExportError> {
        let trained = self.source.tp_size();
        let depends = self.source.architecture().never_exact().is_some();
        if !depends || tp_size == trained || self.choice.strategy.allow_inexact {
            return Ok(());
        }
        Err(ExportError::Inexpressible {
            format: "another number of ranks",
            reason: "qk_layernorm takes its statistics over the heads of each rank".to_owned(),
            instead: format!("--tensor-parallel {trained} keeps them; --allow-inexact writes it all the same"),
        })
    }

    fn output_record(&self, plan: &Plan, target: &dyn Target) -> OutputRecord {
        let (format, tp_size) = match self.format {
            Format::Neox { tp_size } => ("neox", tp_size),
            Format::HuggingFace { .. } => ("hf", 1),
        };
        let count = |shape: &[usize]| shape.iter().map(|&extent| extent as u64).product::<u64>();
        OutputRecord {
            format,
            tp_size,
            dtype: self.choice.dtype.unwrap_or(self.source.dtype()).to_string(),
            vocab_size: plan.vocab_size,
            parameter_count: plan.params.iter().filter(|param| param.used).map(|param| count(&param.shape)).sum(),
            bytes: target.bytes(),
        }
    }
}

/// Writes a small file below `folder`; the digest has its path there.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<FileDigest, ExportError> {
    let full = folder.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent).map_err(ExportError::at(parent))?;
    }
    write_atomically(&full, bytes).map_err(ExportError::at(&full))?;
    let digest = digest_file(&full).map_err(ExportError::at(&full))?;
    Ok(FileDigest { file: path.to_string_lossy().into_owned(), ..digest })
}
