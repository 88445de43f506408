//! Merges written into temporary directories.

use std::path::{Path, PathBuf};

use kintsugi::checkpoint::{Checkpoint, ModelSource};
use kintsugi::export::{ExportError, Format, MergeChoice, MergeJob, MergeSummary, Record};
use kintsugi::merge::Strategy;
use kintsugi::tensor::DType;

/// A merge with everything at its default.
#[derive(Debug, Clone)]
pub struct Merge {
    pub strategy: Strategy,
    pub format: Format,
    pub dtype: Option<DType>,
    pub vocab_size: Option<usize>,
    pub vocab_multiple: Option<usize>,
    pub overwrite: bool,
    pub memory_budget: u64,
}

impl Merge {
    /// For gpt-neox with one rank.
    pub fn by(strategy: &str) -> Self {
        Self {
            strategy: Strategy::resolve(strategy).unwrap(),
            format: Format::Neox { tp_size: 1 },
            dtype: None,
            vocab_size: None,
            vocab_multiple: None,
            overwrite: false,
            memory_budget: 1 << 20,
        }
    }

    /// For gpt-neox with so many ranks.
    pub fn ranks(self, tp_size: usize) -> Self {
        Self { format: Format::Neox { tp_size }, ..self }
    }

    /// For transformers.
    pub fn hf(self, max_shard_bytes: u64) -> Self {
        Self { format: Format::HuggingFace { max_shard_bytes }, ..self }
    }

    /// Hands the job over.
    pub fn with<R>(&self, source: &dyn ModelSource, directory: &Path, use_job: impl FnOnce(&MergeJob<'_>) -> R) -> R {
        let record = Record { strategy_text: "text".to_owned(), version: "0".to_owned(), ..Record::default() };
        let job = MergeJob {
            source,
            choice: MergeChoice {
                strategy: &self.strategy,
                dtype: self.dtype,
                vocab_size: self.vocab_size,
                vocab_multiple: self.vocab_multiple,
                calibrated: false,
            },
            format: self.format,
            drift: None,
            tokenizer: None,
            directory,
            overwrite: self.overwrite,
            memory_budget: self.memory_budget,
            record: &record,
        };
        use_job(&job)
    }

    /// Writes it.
    pub fn write(&self, source: &dyn ModelSource, directory: &Path) -> Result<MergeSummary, ExportError> {
        self.with(source, directory, |job| job.run(None, &()))
    }

    /// Writes it and opens what was written, as gpt-neox's files.
    pub fn reopen(&self, source: &dyn ModelSource, directory: &Path) -> Checkpoint {
        self.write(source, directory).unwrap();
        Checkpoint::open(directory, &[]).unwrap()
    }
}

/// Every file below a directory, sorted.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}
