//! What every evaluating subcommand does first: open the checkpoint, read passages, tokenize, choose devices.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::args::{EvaluationArgs, ModelArgs};
use super::provenance;
use crate::checkpoint::Checkpoint;
use crate::eval::documents::{DataSet, read_documents, select_shard};
use crate::eval::packing::Passage;
use crate::eval::task::{DataIdentity, Task};
use crate::eval::tokenizer::{TokenPair, Tokenizer};
use crate::eval::{EngineOptions, samples};
use crate::model::Backend;
use crate::report::{CheckpointInfo, DataInfo, DocumentCounts, FileDigest, TaskInfo, TokenizerInfo, Versions};

/// Everything an evaluation needs, validated.
pub(super) struct Prepared {
    pub checkpoint: Checkpoint,
    pub task: Task,
    pub data: DataSet,
    pub tokenizer: Tokenizer,
    pub pairs: Vec<TokenPair>,
    pub passages: Vec<Passage>,
    pub truncated: usize,
    pub options: EngineOptions,
    pub threads: usize,
}

/// Opens and checks all inputs; nothing is computed yet.
pub(super) fn prepare(model: &ModelArgs, args: &EvaluationArgs) -> anyhow::Result<Prepared> {
    let threads = set_threads(args.threads)?;
    let checkpoint = Checkpoint::open(&model.checkpoint, &model.neox_config)?;
    let architecture = checkpoint.architecture();
    let task = Task::resolve(&args.task)?;
    let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut data = read_documents(&args.data, &task, limit)?;
    if let DataIdentity::Different { .. } = data.identity {
        tracing::info!("{}: {}", args.data.display(), identity_text(&task, &data.identity));
    }
    if let Some(shard) = args.shard {
        data.documents = select_shard(data.documents, shard.index, shard.count)?;
        if data.documents.is_empty() {
            bail!("shard {}/{} holds no passage", shard.index, shard.count);
        }
    }
    let tokenizer = Tokenizer::from_file(&find_tokenizer(args.tokenizer.as_deref(), checkpoint.folder())?)?;
    tokenizer.check_vocabulary(architecture.padded_vocab_size)?;
    let pairs = tokenizer.encode_documents(&data.documents)?;
    let model_length = architecture.max_position_embeddings;
    let max_length = match args.max_length.map(|length| usize::try_from(length).unwrap_or(usize::MAX)) {
        Some(length) if length > model_length => {
            bail!("--max-length {length} is more than the model's {model_length} positions")
        }
        Some(length) => length,
        None => model_length,
    };
    let (passages, truncated) = samples::passages(&pairs, max_length)?;
    if truncated > 0 {
        tracing::warn!("{truncated} passages are longer than {max_length} tokens and lose some on the left");
    }
    let dtype = checkpoint.dtype();
    let backends = args
        .device
        .resolve()?
        .into_iter()
        .map(|device| Backend { device, kind: args.dtype.resolve(dtype, device) })
        .collect();
    let options = EngineOptions {
        backends,
        chunk_tokens: args.chunk_tokens.map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX)),
        memory_budget: args.memory_budget,
        digests: true,
    };
    Ok(Prepared { checkpoint, task, data, tokenizer, pairs, passages, truncated, options, threads })
}

impl Prepared {
    /// Provenance of the checkpoint.
    pub(super) fn checkpoint_info(&self, model: &ModelArgs, digests: Vec<FileDigest>) -> CheckpointInfo {
        provenance::checkpoint_info(&self.checkpoint, model, Some(digests))
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
            documents: DocumentCounts { original: self.data.total_count, effective: self.data.documents.len() },
            tokenizer: TokenizerInfo { file: name(self.tokenizer.path()), sha256: self.tokenizer.sha256().to_owned() },
            splitting: self.task.splitting.name().to_owned(),
            truncated_count: self.truncated,
        }
    }
}

/// The file given, else the one that lies beside the checkpoint.
fn find_tokenizer(given: Option<&Path>, folder: &Path) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let places = [Some(folder), folder.parent()];
    let names = ["tokenizer.json", "20B_tokenizer.json"];
    places
        .into_iter()
        .flatten()
        .flat_map(|place| names.map(|name| place.join(name)))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no tokenizer.json or 20B_tokenizer.json beside {}: give one with --tokenizer FILE",
                folder.display()
            )
        })
}

fn identity_text(task: &Task, identity: &DataIdentity) -> String {
    match identity {
        DataIdentity::Same => format!("the data set that {} names", task.name),
        DataIdentity::Different { what, expected, found } => {
            format!("not the data set that {} names ({what}: expected {expected}, found {found})", task.name)
        }
        DataIdentity::Unpinned => format!("{} names no checksum; the number of passages is right", task.name),
    }
}

/// One pool size for libtorch and for the threads that read and merge.
fn set_threads(asked: Option<u16>) -> anyhow::Result<usize> {
    let threads = match asked {
        Some(threads) => usize::from(threads),
        None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    crate::model::set_threads(threads);
    if asked.is_some() {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("thread pool")?;
    }
    Ok(threads)
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
