//! What every evaluating subcommand does first: open the checkpoint, read passages, tokenize, choose devices.

use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

use super::args::{EvaluationArgs, ModelArgs, ReadingArgs, Shard};
use super::output::Screen;
use super::{launcher, names};
use crate::checkpoint::{Checkpoint, ModelSource, open_model};
use crate::eval::passages::max_length;
use crate::eval::task::{DataIdentity, Task};
use crate::eval::tokenizer::Tokenizer;
use crate::eval::{CalibrationSource, EngineOptions, PassageOptions, Passages};
use crate::merge::{MergeError, StageMerger, Strategy};
use crate::model::{Backend, DeviceChoice};
use crate::report::{DataInfo, DocumentCounts, FileDigest, TaskInfo, TokenizerInfo, Versions};

/// When a run began.
pub(super) type Clocks = (jiff::Timestamp, Instant);

/// What is settled once the model is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    clocks: Clocks,
    threads: usize,
    /// Whether a strategy calibrates and the model needs it.
    calibrates: bool,
}

/// Everything an evaluation needs beside the model, validated.
pub(super) struct Prepared {
    pub task: Task,
    pub passages: Passages,
    pub tokenizer: Tokenizer,
    pub options: EngineOptions,
    pub threads: usize,
    /// The share of the passages that is to be evaluated here; none where it is all.
    pub shard: Option<Shard>,
    /// Longest input in tokens.
    pub max_length: usize,
    started: jiff::Timestamp,
    lap: Cell<Instant>,
}

/// Opens a checkpoint that these strategies can merge.
pub(super) fn open_checkpoint(
    model: &ModelArgs,
    args: &EvaluationArgs,
    strategies: &[Strategy],
) -> anyhow::Result<(Checkpoint, Setting)> {
    let (clocks, threads) = ((jiff::Timestamp::now(), Instant::now()), set_threads(args.threads));
    let checkpoint = model.open()?;
    checkpoint.check_evaluation()?;
    check_strategies(&checkpoint, strategies)?;
    let calibrates = strategies.iter().any(|strategy| strategy.calibrate) && streams_differ(&checkpoint)?;
    Ok((checkpoint, Setting { clocks, threads, calibrates }))
}

/// Opens any model.
pub(super) fn open_any(
    path: &Path,
    reading: &ReadingArgs,
    args: &EvaluationArgs,
) -> anyhow::Result<(Box<dyn ModelSource>, Setting)> {
    let (clocks, threads) = ((jiff::Timestamp::now(), Instant::now()), set_threads(args.threads));
    Ok((open_model(path, &reading.options())?, Setting { clocks, threads, calibrates: false }))
}

/// Opens and checks all inputs; nothing is computed yet.
///
/// Where a strategy calibrates and the model needs it, passages are set aside for that unless a file of them is given.
pub(super) fn prepare(
    model: &dyn ModelSource,
    args: &EvaluationArgs,
    setting: Setting,
    screen: &Screen,
) -> anyhow::Result<Prepared> {
    if let Some(file) = &args.config {
        tracing::info!("run file: {}", file.display());
    }
    let Setting { clocks, threads, calibrates } = setting;
    model.check_evaluation()?;
    let architecture = model.architecture();
    let task = Task::resolve(&args.task)?;
    let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let place = names::data(args.data.as_deref(), &task, screen)?;
    let (shard, local_rank) = shard(args)?;
    let tokenizer = Tokenizer::from_file(&names::tokenizer(args.tokenizer.as_deref(), model, screen)?)?;
    tokenizer.check_vocabulary(architecture.padded_vocab_size)?;
    if let Some(multiple) = model.vocabulary_multiple()
        && let Err(error) = tokenizer.check_padding(architecture.padded_vocab_size, multiple)
    {
        tracing::warn!("{error}");
    }
    let max_length =
        max_length(args.max_length.map(|length| usize::try_from(length).unwrap_or(usize::MAX)), architecture)?;
    let source = match &args.calibration {
        _ if !calibrates => CalibrationSource::None,
        Some(path) => CalibrationSource::File(path),
        None => CalibrationSource::SetAside,
    };
    let options = PassageOptions { task: &task, tokenizer: &tokenizer, limit, max_length };
    let passages = Passages::load(&place, &options, source)?;
    if let DataIdentity::Different { .. } = passages.data.identity {
        tracing::info!("{}: {}", place.display(), identity_text(&task, &passages.data.identity));
    }
    let (set_aside_count, truncated_count) = (passages.set_aside_count, passages.truncated_count);
    if set_aside_count > 0 {
        tracing::info!("{set_aside_count} passages are set aside for calibration and not scored");
    }
    if truncated_count > 0 {
        tracing::warn!("{truncated_count} passages are longer than {max_length} tokens and lose some on the left");
    }
    let dtype = model.dtype();
    let mut devices = args.device.resolve()?;
    if let (DeviceChoice::Auto, Some(local_rank), 2..) = (&args.device, local_rank, devices.len()) {
        // The processes of a machine share its GPUs out.
        devices = vec![devices[local_rank % devices.len()]];
    }
    let backends =
        devices.into_iter().map(|device| Backend { device, kind: args.dtype.resolve(dtype, device) }).collect();
    let options = EngineOptions {
        backends,
        chunk_tokens: args.chunk_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
        slice_tokens: None,
        memory_budget: args.memory_budget,
        digests: true,
        calibration: passages.calibration.clone(),
        divergence: true,
    };
    Ok(Prepared {
        task,
        passages,
        tokenizer,
        options,
        threads,
        shard,
        max_length,
        started: clocks.0,
        lap: Cell::new(clocks.1),
    })
}

/// The share asked for, else the one that a launcher gave this process, with the process's number on its machine.
fn shard(args: &EvaluationArgs) -> anyhow::Result<(Option<Shard>, Option<usize>)> {
    if args.shard.is_some() {
        return Ok((args.shard.filter(|shard| shard.count > 1), None));
    }
    let Some(place) = launcher::place(&|name| std::env::var(name).ok())? else { return Ok((None, None)) };
    let Shard { index, count } = place.shard;
    tracing::info!("shard {index}/{count}, from {}; --shard 1/1 evaluates everything here", place.source);
    Ok((Some(place.shard), place.local_rank))
}

impl Prepared {
    /// When the run began.
    pub(super) fn started(&self) -> jiff::Timestamp {
        self.started
    }

    /// Seconds since this was last asked, at first since the run began.
    pub(super) fn lap(&self) -> f64 {
        self.lap.replace(Instant::now()).elapsed().as_secs_f64()
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
        TaskInfo {
            name: self.task.name.clone(),
            version: self.task.version,
            data: DataInfo {
                file: name(&self.passages.data.path),
                sha256: self.passages.data.sha256.clone(),
                is_task_data: match self.passages.data.identity {
                    DataIdentity::Same => Some(true),
                    DataIdentity::Different { .. } => Some(false),
                    DataIdentity::Unpinned => None,
                },
                identity: identity_text(&self.task, &self.passages.data.identity),
            },
            documents: DocumentCounts {
                original: if self.passages.rolling.is_some() {
                    self.passages.data.passages.len()
                } else {
                    self.passages.data.total_count
                },
                effective: self.passages.data.passages.len(),
                calibration: self.passages.set_aside_count,
            },
            tokenizer: TokenizerInfo { file: name(self.tokenizer.path()), sha256: self.tokenizer.sha256().to_owned() },
            splitting: self.task.splitting.name().to_owned(),
            truncated_count: self.passages.truncated_count,
            rolling: self.passages.rolling,
        }
    }
}

/// Every strategy must have a rule that fits for every replicated parameter, before anything is computed.
fn check_strategies(checkpoint: &Checkpoint, strategies: &[Strategy]) -> anyhow::Result<()> {
    let parameters: Vec<_> = checkpoint
        .stage_ids()
        .into_iter()
        .flat_map(|id| checkpoint.stage_params(id).into_iter().map(move |(_, entry)| (id, entry)))
        .filter(|(_, entry)| entry.row.kind.is_replicated())
        .collect();
    for (at, strategy) in strategies.iter().enumerate() {
        if let Some(other) = strategies[..at].iter().find(|other| other.name == strategy.name) {
            let (name, first, second) = (strategy.name.clone(), other.origin.clone(), strategy.origin.clone());
            return Err(MergeError::SameName { name, first, second }.into());
        }
        let named = parameters.iter().map(|(id, entry)| (*id, entry.name.as_str(), entry.row.kind));
        strategy.check(named, checkpoint.tp_size())?;
    }
    Ok(())
}

/// Whether the ranks really come to hold different residual streams: their replicas tell.
pub(super) fn streams_differ(checkpoint: &Checkpoint) -> anyhow::Result<bool> {
    let architecture = checkpoint.architecture();
    if !architecture.streams_can_differ() {
        return Ok(false);
    }
    for id in checkpoint.stage_ids() {
        let replicated = checkpoint.read_replicated(id)?;
        if StageMerger::new(&replicated.used, architecture).forks_streams() {
            return Ok(true);
        }
    }
    Ok(false)
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

/// One pool size for libtorch and for the threads that read and merge.
fn set_threads(asked: Option<u16>) -> usize {
    let threads = match asked {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    crate::model::set_threads(threads);
    if asked.is_some()
        && let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()
    {
        // A process has one pool that reads and merges, from its first run on; what computes follows every run.
        tracing::debug!("{} threads go on reading and merging: {error}", rayon::current_num_threads());
    }
    threads
}

/// The libtorch this binary was built against.
pub(super) fn libtorch_version() -> String {
    env!("KINTSUGI_LIBTORCH_VERSION").to_owned()
}

/// Versions for the report.
pub(super) fn versions() -> Versions {
    let commit = env!("KINTSUGI_GIT_COMMIT");
    Versions {
        kintsugi: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: (!commit.is_empty()).then(|| commit.to_owned()),
        libtorch: libtorch_version(),
    }
}

/// The largest resident set this process has had, where the system tells.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The digests as the report has them.
pub(super) fn digests(digests: &[crate::checkpoint::FileDigest]) -> Vec<FileDigest> {
    let convert = |digest: &crate::checkpoint::FileDigest| FileDigest {
        file: digest.file.clone(),
        blake3: digest.blake3.clone(),
        bytes: digest.bytes,
    };
    digests.iter().map(convert).collect()
}
