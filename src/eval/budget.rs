//! How many tokens go through a stage at once: chunks that keep the processor busy, slices that fit the memory.

use tch::Device;

use super::EvalError;
use super::variant::Models;
use crate::checkpoint::ModelSource;
use crate::config::Head;
use crate::model::{Backend, free_device_memory};

/// Tokens that go through a stage together at most: enough rows to keep matrix products efficient, which pack the weights
/// for every chunk; on a CPU, where each thread has a chunk of its own, few enough that activations stay in the cache.
pub fn default_chunk_tokens(backend: Backend) -> usize {
    if backend.device == Device::Cpu { 1024 } else { 16_384 }
}

/// Tokens of a chunk for this many tokens, whose longest passage has `longest`. On a CPU the number of chunks is a multiple
/// of four, and they are about equal, so that the usual numbers of threads end together; it does not depend on how many
/// threads there are, so that results do not either.
pub fn even_chunk_tokens(backend: Backend, tokens: usize, longest: usize) -> usize {
    const MULTIPLE: usize = 4;
    let most = default_chunk_tokens(backend);
    if backend.device != Device::Cpu || tokens == 0 {
        return most;
    }
    let count = tokens.div_ceil(most).next_multiple_of(MULTIPLE);
    // A chunk holds whole passages: on average half of one does not fit any more.
    tokens.div_ceil(count) + longest.div_ceil(2)
}

/// Bytes to spend on residual streams where none are given: half of what is available, on a GPU half of what is free
/// there. The other half is for weights and activations.
pub fn default_memory_budget(backend: Backend) -> u64 {
    const UNKNOWN: u64 = 8 << 30;
    let available = match backend.device {
        Device::Cuda(index) => free_device_memory(index),
        _ => available_memory(),
    };
    available.unwrap_or(UNKNOWN) / 2
}

/// Tokens of a slice whose residual streams fit the budget; an error where not even the longest passage does.
pub(super) fn slice_tokens(
    models: Models<'_>,
    backend: Backend,
    longest: usize,
    budget: u64,
) -> Result<usize, EvalError> {
    let architecture = models.checkpoint.architecture();
    let baseline = if architecture.streams_can_differ() { models.checkpoint.tp_size() } else { 1 };
    // Those of the variants; one per rank for the baseline and for its second run; as many being copied where variants part.
    let streams = models.stream_count() + 3 * baseline;
    let bytes_per_token = (streams * architecture.hidden_size * backend.kind.elt_size_in_bytes()) as u64;
    let tokens = usize::try_from(budget / bytes_per_token.max(1)).unwrap_or(usize::MAX);
    if tokens < longest {
        return Err(EvalError::Budget { budget, needed: bytes_per_token * longest as u64 });
    }
    Ok(tokens)
}

/// Tokens of a slice where results are kept slice by slice: about a minute's work, so that little is lost when a run is
/// killed, but ten times what reading and merging the weights takes, which every slice repeats. Speeds are those of usual
/// hardware; results do not depend on them.
pub fn kept_slice_tokens(models: Models<'_>, backends: &[Backend], threads: usize, chunk_tokens: usize) -> usize {
    /// Floating-point operations a second of a GPU, and of a thread of a CPU.
    const GPU_SPEED: u64 = 100_000_000_000_000;
    const THREAD_SPEED: u64 = 50_000_000_000;
    /// Bytes a second that are read, and that a thread merges.
    const BYTES_PER_SECOND: u64 = 1 << 30;
    const SECONDS: u64 = 60;
    const PREPARATIONS: u64 = 10;
    let (model, threads, variants) = (models.checkpoint, threads.max(1) as u64, models.variants.len() as u64);
    let on_cpu = backends.first().is_none_or(|backend| backend.device == Device::Cpu);
    let workers = if on_cpu { threads } else { (backends.len() as u64).max(1) };
    let speed = if on_cpu { THREAD_SPEED } else { GPU_SPEED }.saturating_mul(workers);
    let (_, bytes) = model.size();
    let preparation = bytes.saturating_add(bytes.saturating_mul(variants) / threads) / BYTES_PER_SECOND;
    let seconds = SECONDS.max(preparation.saturating_mul(PREPARATIONS));
    let per_token = 2_u64.saturating_mul(in_layers(model)).saturating_mul(variants).max(1);
    let tokens = usize::try_from(speed.saturating_mul(seconds) / per_token).unwrap_or(usize::MAX);
    // Whole chunks for every worker.
    let round = usize::try_from(workers).unwrap_or(1).saturating_mul(chunk_tokens).max(1);
    (tokens / round).max(1).saturating_mul(round)
}

/// The parameters that are multiplied with every token: those of the vocabulary are looked up, or multiplied at the targets alone.
pub(super) fn in_layers(model: &dyn ModelSource) -> u64 {
    let architecture = model.architecture();
    let matrices = if architecture.head == Head::Tied { 1 } else { 2 };
    let vocabulary = architecture.padded_vocab_size.saturating_mul(architecture.hidden_size) as u64;
    model.size().0.saturating_sub(vocabulary.saturating_mul(matrices))
}

/// `MemAvailable` of `/proc/meminfo`, lowered to the container's limit where there is one.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let limit = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    Some((kibibytes * 1024).min(limit.unwrap_or(u64::MAX)))
}
