//! What a comparison would take, before it is run.

use std::path::PathBuf;

use super::inputs::Inputs;
use super::models::ModelSet;
use super::request::Request;
use crate::error::Result;
use crate::eval::{EvalError, Plan};
use crate::files::{free_bytes, probe};
use crate::report::ReportError;
use crate::stats::EarlyLook;

/// About the bytes that samples and lm-evaluation-harness's files take for each passage and each further target token of a
/// model, and those of page and plots.
const BYTES_PER_SAMPLE: u64 = 2200;
const BYTES_PER_TARGET: u64 = 800;
const BYTES_OF_PAGE: u64 = 2_000_000;

/// What a comparison would read, compute and write.
#[derive(Debug)]
pub struct Forecast {
    /// Directory and format of the model.
    pub checkpoint: String,
    /// Parameters of the model, replicas counted once.
    pub parameter_count: u64,
    /// Type of the weights.
    pub dtype: String,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Name of the task.
    pub task: String,
    /// Its data file.
    pub data: PathBuf,
    /// Passages in it.
    pub passage_count: usize,
    /// The `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Names of the models, the baseline's first.
    pub models: Vec<String>,
    /// `cpu`, or GPUs by their number.
    pub devices: Vec<String>,
    /// CPU threads.
    pub threads: usize,
    /// Passages, slices, bytes and operations.
    pub work: Plan,
    /// The numbers of passages after which it is looked whether every model is decided; empty where all are evaluated.
    pub looks: Vec<usize>,
    /// Seconds of the matrix products at the speed of one that has just been measured.
    pub seconds: Result<f64, EvalError>,
    /// None without an output directory.
    pub writes: Option<Writing>,
}

/// What would be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writing {
    /// The output directory.
    pub folder: PathBuf,
    /// Bytes, about.
    pub bytes: u64,
    /// Bytes free on its disk, where they are known.
    pub free: Option<u64>,
}

impl Forecast {
    pub(super) fn new(models: &ModelSet<'_>, inputs: &Inputs, request: &Request) -> Result<Self> {
        let (source, passages) = (models.source, &inputs.passages);
        if let Some(rule) = &inputs.stopping {
            rule.check(&inputs.task.name, models.judged())?;
        }
        let work = Plan::new(models.evaluated(), &passages.tokenized, &inputs.options)?;
        let (parameter_count, bytes) = source.size();
        let folder = request.output.output_dir.as_ref();
        Ok(Self {
            checkpoint: format!("{} ({})", models.path.display(), source.describe()),
            parameter_count,
            dtype: source.dtype().to_string(),
            bytes,
            task: inputs.task.name.clone(),
            data: passages.data.path.clone(),
            passage_count: passages.data.total_count,
            tokenizer: inputs.tokenizer.path().to_owned(),
            models: models.variants.iter().map(|variant| variant.name.clone()).collect(),
            devices: inputs.options.backends.iter().map(ToString::to_string).collect(),
            threads: inputs.threads,
            looks: inputs.stopping.as_ref().map_or_else(Vec::new, |rule| EarlyLook::slices(rule.order.len())),
            seconds: work.seconds(source, &inputs.options),
            writes: folder.map(|folder| writing(&work, models.variants.len(), folder.clone())).transpose()?,
            work,
        })
    }
}

/// About what the files take; the folder must be writable.
fn writing(work: &Plan, models: usize, folder: PathBuf) -> Result<Writing> {
    let further = work.targets.saturating_sub(work.passages) as u64;
    let samples = (work.passages as u64 * BYTES_PER_SAMPLE + further * BYTES_PER_TARGET) * models as u64;
    let bytes = samples + BYTES_OF_PAGE;
    if let Err(source) = probe(&folder) {
        return Err(ReportError::NotWritable { path: folder, source }.into());
    }
    let free = free_bytes(&folder);
    Ok(Writing { folder, bytes, free })
}
