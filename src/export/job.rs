//! One merge from beginning to end: plan, write, recipe, card, and only then the directory under its name.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::hf::HfTarget;
use super::neox::{ClientState, NeoxTarget};
use super::neox_config::Changes;
use super::pipeline::{StageSupply, Target, Written, run};
use super::plan::{MergeChoice, Plan};
use super::recipe::{OutputRecord, Recipe, RecipeInput, Record};
use super::staging::{RECIPE_FILE, Staging};
use super::tokenizer_files::{MAX_FILE_BYTES, TokenizerFiles};
use super::{ExportError, Progress, card};
use crate::checkpoint::{Checkpoint, FileDigest, ModelSource as _, digest_file};
use crate::files::{self, write_atomically};
use crate::merge::Exactness;

/// What a merge is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A checkpoint that gpt-neox loads, for so many ranks.
    Neox {
        /// Number of tensor-parallel ranks.
        tp_size: usize,
    },
    /// A directory that transformers loads.
    HuggingFace {
        /// Bytes of a file, unless one tensor is larger.
        max_shard_bytes: u64,
    },
}

/// What is written, planned for one format.
enum PlannedTarget<'a> {
    Neox(NeoxTarget<'a>),
    HuggingFace(HfTarget<'a>),
}

impl PlannedTarget<'_> {
    fn target(&self) -> &dyn Target {
        match self {
            Self::Neox(target) => target,
            Self::HuggingFace(target) => target,
        }
    }
}

/// A merge that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct MergeJob<'a> {
    /// What is merged.
    pub checkpoint: &'a Checkpoint,
    /// Which merge.
    pub choice: MergeChoice<'a>,
    /// What it is written as.
    pub format: Format,
    /// The tokenizer to put beside it.
    pub tokenizer: Option<&'a TokenizerFiles>,
    /// The directory.
    pub directory: &'a Path,
    /// Whether an earlier merge there may be replaced.
    pub overwrite: bool,
    /// Bytes that may be in memory at once.
    pub memory_budget: u64,
    /// What the recipe is to say of the run.
    pub record: &'a Record,
}

/// A merge that has been written.
#[derive(Debug)]
pub struct MergeSummary {
    /// The directory.
    pub directory: PathBuf,
    /// Bytes of weights.
    pub bytes: u64,
    /// What makes it differ from the unmerged model.
    pub exactness: Exactness,
}

/// What a merge would write.
#[derive(Debug)]
pub struct Preview {
    /// Paths of the weight files below the directory.
    pub files: Vec<PathBuf>,
    /// Bytes of weights.
    pub bytes: u64,
    /// What would make it differ from the unmerged model.
    pub exactness: Exactness,
}

impl MergeJob<'_> {
    /// Checks everything that can be checked before weights are read, and says what would be written.
    ///
    /// # Errors
    /// As [`MergeJob::run`], as far as they do not depend on the weights or the disk.
    pub fn preview(&self) -> Result<Preview, ExportError> {
        let plan = self.plan()?;
        let target = self.target(&plan, self.directory)?;
        let files = target.target().files().iter().map(|file| file.path.clone()).collect();
        Ok(Preview { files, bytes: self.output_record(&plan, &target).bytes, exactness: plan.exactness })
    }

    /// Writes the merge. `supply` merges stages where [`MergeChoice::calibrated`] says that a calibration does.
    ///
    /// # Errors
    /// Anything that keeps the merge from being made, read or written. Nothing is then at the destination that was not
    /// there before.
    pub fn run(
        &self,
        supply: Option<&mut StageSupply<'_>>,
        progress: &dyn Progress,
    ) -> Result<MergeSummary, ExportError> {
        let staging = Staging::begin(self.directory, self.overwrite)?;
        let plan = self.plan()?;
        let target = self.target(&plan, staging.target())?;
        let folder = staging.folder();
        for file in target.target().files() {
            if let Some(parent) = folder.join(&file.path).parent() {
                fs::create_dir_all(parent).map_err(ExportError::at(parent))?;
            }
        }
        let written = run(
            (self.checkpoint, &plan, &self.choice),
            (target.target(), folder),
            self.memory_budget,
            supply,
            progress,
        )?;
        let Written { inputs, mut outputs, exactness } = written;
        for (path, text) in self.texts(&plan, &target, staging.target()) {
            outputs.push(write(folder, &path, text.as_bytes())?);
        }
        for (source, name) in self.tokenizer.map(TokenizerFiles::copies).unwrap_or_default() {
            let bytes = files::read(&source, MAX_FILE_BYTES).map_err(|source| ExportError::Read { source })?;
            outputs.push(write(folder, Path::new(&name), &bytes)?);
        }
        let output = self.output_record(&plan, &target);
        let input = RecipeInput {
            checkpoint: self.checkpoint,
            plan: &plan,
            exactness: &exactness,
            strategy: self.choice.strategy,
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
        let directory = staging.target().to_owned();
        staging.publish()?;
        Ok(MergeSummary { directory, bytes: output.bytes, exactness })
    }

    fn plan(&self) -> Result<Plan, ExportError> {
        let rows = self.checkpoint.architecture().padded_vocab_size;
        if let Some(asked) = self.choice.vocab_size.filter(|&asked| asked == 0 || asked > rows) {
            return Err(ExportError::Vocabulary { asked, rows });
        }
        Plan::new(self.checkpoint, &self.choice)
    }

    fn target<'t>(&'t self, plan: &Plan, directory: &Path) -> Result<PlannedTarget<'t>, ExportError> {
        Ok(match self.format {
            Format::Neox { tp_size } => {
                let changes = self.changes(plan, tp_size, directory, None);
                let client = ClientState { iteration: self.iteration(), args: changes.client_args(self.checkpoint) };
                PlannedTarget::Neox(NeoxTarget::new(self.checkpoint, plan, tp_size, &self.step(), &client)?)
            }
            Format::HuggingFace { max_shard_bytes } => {
                let allow_inexact = self.choice.strategy.allow_inexact;
                PlannedTarget::HuggingFace(HfTarget::new(self.checkpoint, plan, max_shard_bytes, allow_inexact)?)
            }
        })
    }

    /// The texts beside the weights.
    fn texts(&self, plan: &Plan, target: &PlannedTarget<'_>, directory: &Path) -> Vec<(PathBuf, String)> {
        match (target, self.format) {
            (PlannedTarget::HuggingFace(target), _) => target.texts(plan, self.vocab_size(), self.tokenizer),
            (PlannedTarget::Neox(_), Format::Neox { tp_size }) => {
                let tokenizer = self.tokenizer.map(|_| directory.join("tokenizer.json"));
                let changes = self.changes(plan, tp_size, directory, tokenizer.as_deref());
                let step = self.step();
                vec![
                    (Path::new(&step).join("configs/config.yml"), changes.text(self.checkpoint)),
                    ("latest".into(), step),
                ]
            }
            (PlannedTarget::Neox(_), Format::HuggingFace { .. }) => Vec::new(),
        }
    }

    fn changes<'c>(
        &self,
        plan: &Plan,
        tp_size: usize,
        directory: &'c Path,
        tokenizer: Option<&'c Path>,
    ) -> Changes<'c> {
        Changes {
            tp_size,
            vocab_size: self.vocab_size(),
            layout: self.checkpoint.layout(),
            unties_head: plan.unties_head,
            dtype: self.choice.dtype,
            directory,
            tokenizer,
        }
    }

    fn vocab_size(&self) -> usize {
        self.choice.vocab_size.unwrap_or(self.checkpoint.architecture().padded_vocab_size)
    }

    fn iteration(&self) -> u64 {
        self.checkpoint.iteration().unwrap_or(0)
    }

    /// Name of the step's directory.
    fn step(&self) -> String {
        format!("global_step{}", self.iteration())
    }

    fn output_record(&self, plan: &Plan, target: &PlannedTarget<'_>) -> OutputRecord {
        let count = |shape: &[usize]| shape.iter().map(|&extent| extent as u64).product::<u64>();
        let bytes_for = |tp_size: u64| {
            let bytes = plan.params.iter().map(|param| {
                let copies = if param.partition.is_some() { 1 } else { tp_size };
                count(&param.shape) * param.dtype.size() as u64 * copies
            });
            bytes.sum()
        };
        let (format, tp_size, bytes) = match (self.format, target) {
            (Format::Neox { tp_size }, _) => ("neox", tp_size, bytes_for(tp_size as u64)),
            (_, PlannedTarget::HuggingFace(target)) => ("hf", 1, target.bytes()),
            (_, PlannedTarget::Neox(_)) => ("neox", 1, bytes_for(1)),
        };
        let used = plan.params.iter().filter(|param| param.used);
        OutputRecord {
            format,
            tp_size,
            dtype: self.choice.dtype.unwrap_or(self.checkpoint.dtype()).to_string(),
            vocab_size: self.vocab_size(),
            parameter_count: used.map(|param| count(&param.shape)).sum(),
            bytes,
        }
    }
}

/// Writes a small file below `folder`; the digest carries its path there.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<FileDigest, ExportError> {
    let full = folder.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent).map_err(ExportError::at(parent))?;
    }
    write_atomically(&full, bytes).map_err(ExportError::at(&full))?;
    let digest = digest_file(&full).map_err(ExportError::at(&full))?;
    Ok(FileDigest { file: path.to_string_lossy().into_owned(), ..digest })
}
