//! What every evaluating subcommand does first: open the checkpoint, read passages, tokenize, choose devices.

use std::cell::Cell;
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use anyhow::bail;

use super::args::{EvaluationArgs, ModelArgs, ReadingArgs, Shard};
use super::output::Screen;
use super::{launcher, names};
use crate::checkpoint::{Checkpoint, ModelSource, open_model};
use crate::eval::documents::{DataSet, Document, read_documents};
use crate::eval::packing::Passage;
use crate::eval::rolling::documents_of_windows;
use crate::eval::task::{DataIdentity, Splitting, Task};
use crate::eval::tokenizer::{TokenPair, Tokenizer};
use crate::eval::{EngineOptions, samples};
use crate::merge::{MergeError, StageMerger, Strategy};
use crate::model::{Backend, DeviceChoice};
use crate::report::{DataInfo, FileDigest, PassageCounts, TaskInfo, TokenizerInfo, Versions};
use crate::samples::RollingText;

/// Calibration averages a few thousand tokens; more would not change it.
pub(super) const MOST_SET_ASIDE: usize = 256;

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
    pub data: DataSet,
    /// Where whole texts are predicted: how much there is. The documents are windows then.
    pub rolling: Option<RollingText>,
    pub tokenizer: Tokenizer,
    pub pairs: Vec<TokenPair>,
    pub passages: Vec<Passage>,
    pub truncated: usize,
    /// Passages of the data set that were set aside for calibration.
    pub calibration_count: usize,
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
    let mut data = read_documents(&place, &task, limit)?;
    if let DataIdentity::Different { .. } = data.identity {
        tracing::info!("{}: {}", place.display(), identity_text(&task, &data.identity));
    }
    let mut set_aside = match &args.calibration {
        _ if !calibrates => Vec::new(),
        Some(path) => unseen(read_documents(path, &task, None)?.documents, &data.documents)?,
        None => set_aside(&mut data.documents)?,
    };
    let (shard, local_rank) = shard(args)?;
    let tokenizer = Tokenizer::from_file(&names::tokenizer(args.tokenizer.as_deref(), model, screen)?)?;
    tokenizer.check_vocabulary(architecture.padded_vocab_size)?;
    if let Some(multiple) = model.vocabulary_multiple()
        && let Err(error) = tokenizer.check_padding(architecture.padded_vocab_size, multiple)
    {
        tracing::warn!("{error}");
    }
    let model_length = architecture.longest_input();
    let max_length = match args.max_length.map(|length| usize::try_from(length).unwrap_or(usize::MAX)) {
        Some(length) if length > model_length => {
            bail!("--max-length {length} is more than the model's {model_length} positions")
        }
        Some(length) => length,
        None => model_length,
    };
    let mut rolling = None;
    let mut tokenize = |documents: &mut Vec<Document>| -> anyhow::Result<Vec<TokenPair>> {
        if task.splitting == Splitting::LastSpace {
            return Ok(tokenizer.encode_documents(documents)?);
        }
        let (windows, pairs, counts) = documents_of_windows(documents, &task, &tokenizer, max_length)?;
        *documents = windows;
        rolling = Some(counts);
        Ok(pairs)
    };
    let calibration = tokenize(&mut set_aside)?;
    let pairs = tokenize(&mut data.documents)?;
    let (passages, truncated) = samples::passages(&pairs, max_length)?;
    let (calibration, _) = samples::passages(&calibration, max_length)?;
    let calibration_count = if args.calibration.is_none() { calibration.len() } else { 0 };
    if calibration_count > 0 {
        tracing::info!("{calibration_count} passages are set aside for calibration and not scored");
    }
    if truncated > 0 {
        tracing::warn!("{truncated} passages are longer than {max_length} tokens and lose some on the left");
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
        calibration,
        divergence: true,
    };
    Ok(Prepared {
        task,
        data,
        rolling,
        tokenizer,
        pairs,
        passages,
        truncated,
        calibration_count,
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
                file: name(&self.data.path),
                sha256: self.data.sha256.clone(),
                is_task_data: match self.data.identity {
                    DataIdentity::Same => Some(true),
                    DataIdentity::Different { .. } => Some(false),
                    DataIdentity::Unpinned => None,
                },
                identity: identity_text(&self.task, &self.data.identity),
            },
            passages: PassageCounts {
                original: if self.rolling.is_some() { self.data.documents.len() } else { self.data.total_count },
                effective: self.data.documents.len(),
                calibration: self.calibration_count,
            },
            tokenizer: TokenizerInfo { file: name(self.tokenizer.path()), sha256: self.tokenizer.sha256().to_owned() },
            splitting: self.task.splitting.name().to_owned(),
            truncated_count: self.truncated,
            rolling: self.rolling,
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

/// The first [`MOST_SET_ASIDE`] calibration passages, none of which may be scored.
fn unseen(mut calibration: Vec<Document>, scored: &[Document]) -> anyhow::Result<Vec<Document>> {
    calibration.truncate(MOST_SET_ASIDE);
    let known: HashSet<_> = scored.iter().map(|document| (&document.prompt_hash, &document.target_hash)).collect();
    if let Some(seen) =
        calibration.iter().find(|document| known.contains(&(&document.prompt_hash, &document.target_hash)))
    {
        bail!("--calibration: passage {} is among those to be scored", seen.doc_id);
    }
    Ok(calibration)
}

/// Takes passages out for calibration: one in five, at most [`MOST_SET_ASIDE`], spread evenly.
pub(super) fn set_aside(documents: &mut Vec<Document>) -> anyhow::Result<Vec<Document>> {
    let count = (documents.len() / 5).clamp(1, MOST_SET_ASIDE);
    if documents.len() < 2 {
        bail!("one passage cannot both calibrate and be scored: give more, or --calibration FILE");
    }
    let stride = documents.len() / count;
    let chosen = |place: usize| place % stride == stride - 1 && place / stride < count;
    let all = std::mem::take(documents).into_iter().enumerate();
    let (taken, kept): (Vec<_>, Vec<_>) = all.partition(|&(place, _)| chosen(place));
    documents.extend(kept.into_iter().map(|(_, document)| document));
    Ok(taken.into_iter().map(|(_, document)| document).collect())
}

fn identity_text(task: &Task, identity: &DataIdentity) -> String {
    match identity {
        DataIdentity::Same => format!("the data set that {} names", task.name),
        DataIdentity::Different { what, expected, found } => {
            format!("not the data set that {} names ({what}: expected {expected}, found {found})", task.name)
        }
        DataIdentity::Unpinned if task.data.document_count.is_none() => format!("{} names no data set", task.name),
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
