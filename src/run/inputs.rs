//! What an evaluation needs beside its models: passages, tokenizer, devices. All of it is opened and checked before
//! anything is computed.

use std::path::Path;

use super::caller::Caller;
use super::clock::Clock;
use super::records::StoppingRule;
use super::request::{Request, ResourceOptions};
use super::resolve;
use super::stopping;
use crate::checkpoint::ModelSource;
use crate::error::Result;
use crate::eval::data_set::read_passages;
use crate::eval::task::{DataIdentity, Task};
use crate::eval::tokenizer::Tokenizer;
use crate::eval::{EngineOptions, PassageOptions, Passages, calibration_passages, passages};
use crate::model::{Backend, ChosenDevice};
use crate::options::DeviceChoice;
use crate::report::{DataInfo, PassageCounts, RunShard, TaskInfo, TokenizerInfo};

/// Everything an evaluation needs beside its models.
pub(super) struct Inputs {
    pub task: Task,
    pub tokenizer: Tokenizer,
    pub passages: Passages,
    pub options: EngineOptions,
    pub threads: usize,
    /// The share of the passages that is evaluated here; none: all.
    pub shard: Option<RunShard>,
    /// Only the first so many passages.
    pub limit: Option<usize>,
    /// Longest input in tokens.
    pub max_length: usize,
    /// How the run decides when to stop.
    pub stopping: Option<StoppingRule>,
    pub clock: Clock,
}

impl Inputs {
    /// Opens and checks them, and where a strategy `calibrates` what it calibrates with.
    pub(super) fn prepare(
        model: &dyn ModelSource,
        request: &Request,
        calibrates: bool,
        clock: Clock,
        caller: &dyn Caller,
    ) -> Result<Self> {
        let (options, resources) = (&request.task, &request.resources);
        let threads = set_threads(resources.threads);
        model.check_evaluation()?;
        let task = Task::resolve(&options.task)?;
        stopping::check_request(request, &task)?;
        let data = resolve::data(options.data.as_deref(), &task, &mut *caller.download())?;
        let tokenizer = open_tokenizer(model, options.tokenizer.as_deref(), caller)?;
        let tokenizer = tokenizer.with_special_tokens(options.add_special_tokens)?;
        if let Some(end) = tokenizer.ignored_end() {
            let path = tokenizer.path().display();
            tracing::warn!("{path}: the tokenizer ends every text with {end}; texts are scored without it");
        }
        let max_length = passages::max_length(options.max_length, model.architecture())?;
        let data = read_passages(&data, &task, options.limit)?;
        let calibration = if calibrates {
            let (file, architecture) = (options.calibration.as_deref(), model.architecture());
            calibration_passages(file, &tokenizer, architecture, &data.passages)?
        } else {
            Vec::new()
        };
        let passages = Passages::new(data, &PassageOptions { task: &task, tokenizer: &tokenizer, max_length })?;
        announce(&task, &passages, max_length);
        let (stopping, order) = stopping::stopping_rule(request, &passages)?.unzip();
        let engine = EngineOptions {
            backends: backends(model, resources, caller.local_rank())?,
            chunk_tokens: resources.chunk_tokens,
            slice_tokens: None,
            memory_budget: resources.memory_budget,
            digests: true,
            calibration,
            divergence: true,
            order: order.unwrap_or_default(),
        };
        let (shard, limit) = (request.output.shard.filter(|shard| shard.count > 1), options.limit);
        Ok(Self { task, tokenizer, passages, options: engine, threads, shard, limit, max_length, stopping, clock })
    }

    /// Data type of the matrix products.
    pub(super) fn dtype_name(&self) -> &'static str {
        self.options.backends.first().map(Backend::dtype_name).unwrap_or_default()
    }

    /// `cpu` or `cuda`.
    pub(super) fn device_kind(&self) -> String {
        let device = self.options.backends.first().map(ToString::to_string).unwrap_or_default();
        device.split(':').next().unwrap_or_default().to_owned()
    }

    /// Provenance of task, data and tokenizer.
    pub(super) fn task_info(&self) -> TaskInfo {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Passages { data, rolling, truncated_count, .. } = &self.passages;
        TaskInfo {
            name: self.task.name.clone(),
            version: self.task.version,
            data: DataInfo {
                file: name(&data.path),
                sha256: data.sha256.clone(),
                is_task_data: match data.identity {
                    DataIdentity::Same => Some(true),
                    DataIdentity::Different { .. } => Some(false),
                    DataIdentity::Unpinned => None,
                },
                identity: identity_text(&self.task, &data.identity),
            },
            passages: PassageCounts {
                original: if rolling.is_some() { data.passages.len() } else { data.total_count },
                effective: data.passages.len(),
            },
            tokenizer: TokenizerInfo {
                file: name(self.tokenizer.path()),
                sha256: self.tokenizer.sha256().to_owned(),
                special_tokens: self.tokenizer.special_tokens(),
            },
            splitting: self.task.splitting.name().to_owned(),
            truncated_count: *truncated_count,
            rolling: *rolling,
        }
    }
}

/// The tokenizer given, else the model's own; it must fit the model's vocabulary.
pub(super) fn open_tokenizer(model: &dyn ModelSource, given: Option<&Path>, caller: &dyn Caller) -> Result<Tokenizer> {
    let vocabulary = model.architecture().padded_vocab_size;
    let place = resolve::tokenizer(given, model, &mut *caller.download())?;
    let tokenizer = match &place.merges {
        Some(merges) => Tokenizer::from_vocabulary(&place.path, merges)?,
        None => Tokenizer::from_file(&place.path)?,
    };
    if let Some(warning) = model.tokenizer().kind.and_then(|kind| tokenizer.of_another_family(kind)) {
        tracing::warn!("{warning}");
    }
    tokenizer.check_vocabulary(vocabulary)?;
    if let Some(multiple) = model.vocabulary_multiple()
        && let Err(error) = tokenizer.check_padding(vocabulary, multiple)
    {
        tracing::warn!("{error}");
    }
    Ok(tokenizer)
}

fn announce(task: &Task, passages: &Passages, max_length: usize) {
    if let DataIdentity::Different { .. } = passages.data.identity {
        tracing::info!("{}: {}", passages.data.path.display(), identity_text(task, &passages.data.identity));
    }
    let truncated = passages.truncated_count;
    if truncated > 0 {
        tracing::warn!("{truncated} passages are longer than {max_length} tokens and lose some on the left");
    }
}

fn identity_text(task: &Task, identity: &DataIdentity) -> String {
    match identity {
        DataIdentity::Same => format!("the data set that {} names", task.name),
        DataIdentity::Different { what, expected, found } => {
            format!("not the data set that {} names ({what}: expected {expected}, found {found})", task.name)
        }
        DataIdentity::Unpinned if task.data.passage_count.is_none() => format!("{} names no data set", task.name),
        DataIdentity::Unpinned => format!("{} names no checksum; the number of passages is right", task.name),
    }
}

/// The devices, each with the type it computes in.
pub(super) fn backends(
    model: &dyn ModelSource,
    resources: &ResourceOptions,
    local_rank: Option<usize>,
) -> Result<Vec<Backend>> {
    let dtype = model.dtype();
    let mut chosen = resources.device.resolve()?;
    if let (DeviceChoice::Auto, Some(local_rank), 2..) = (&resources.device, local_rank, chosen.len()) {
        // The processes of a machine divide its GPUs.
        chosen = vec![chosen.swap_remove(local_rank % chosen.len())];
    }
    if resources.device != DeviceChoice::Cpu {
        for device in &chosen {
            tracing::info!("device {}", device.reason);
        }
    }
    let on = |ChosenDevice { device, .. }| Backend { device, kind: resources.dtype.resolve(dtype, device) };
    Ok(chosen.into_iter().map(on).collect())
}

/// One pool size for libtorch and for the threads that read and merge.
fn set_threads(requested: Option<usize>) -> usize {
    let threads = requested.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    crate::model::set_threads(threads);
    if requested.is_some()
        && let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()
    {
        // A process has one pool that reads and merges, from its first run on; libtorch's follows every run.
        tracing::debug!("{} threads go on reading and merging: {error}", rayon::current_num_threads());
    }
    threads
}
