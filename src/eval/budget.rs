//! How many tokens go through a stage at once: chunks that keep the processor busy, slices that fit the memory.

use tch::Device;

use super::device_memory::{DeviceMemory, in_layers};
use super::packing::TokenizedPassage;
use super::variant::Models;
use crate::model::{Backend, free_device_memory, matrix_product_flops};

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

/// Bytes to spend on residual streams where none are given: half of what is available, the other half is for weights and
/// activations. On a GPU 85 % of what everything else leaves of its memory: libtorch's blocks do not fit together without gaps.
pub(super) fn default_memory_budget(
    models: Models<'_>,
    backend: Backend,
    chunk_tokens: usize,
    calibration: &[TokenizedPassage],
) -> u64 {
    let free = free_memory(backend);
    if backend.device == Device::Cpu {
        return free / 2;
    }
    let left = free.saturating_sub(device_memory(models, backend, chunk_tokens, calibration).besides_streams());
    // A chunk that does not fit is halved where it is computed.
    (left / 100 * 85).max(free / 8)
}

/// What a GPU's memory holds besides residual streams.
pub(super) fn device_memory(
    models: Models<'_>,
    backend: Backend,
    chunk_tokens: usize,
    calibration: &[TokenizedPassage],
) -> DeviceMemory {
    DeviceMemory::new(models, backend, chunk_tokens, calibration, default_chunk_tokens(backend))
}

/// As many tokens of a chunk or half of them, a quarter and so on, so that its activations take a third at most of what other
/// things than streams leave of a GPU's memory. In halves, so that a little more or less memory makes no other plan.
pub(super) fn fitting_chunk_tokens(
    models: Models<'_>,
    backend: Backend,
    chunk_tokens: usize,
    calibration: &[TokenizedPassage],
) -> usize {
    if backend.device == Device::Cpu {
        return chunk_tokens;
    }
    let memory = |tokens| device_memory(models, backend, tokens, calibration);
    let rest = free_memory(backend).saturating_sub(memory(0).besides_streams());
    let mut tokens = chunk_tokens;
    while tokens > 1 && memory(tokens).chunk > rest / 3 {
        tokens /= 2;
    }
    tokens
}

/// Bytes of memory that an evaluation may use.
fn free_memory(backend: Backend) -> u64 {
    const UNKNOWN: u64 = 8 << 30;
    let available = match backend.device {
        Device::Cuda(index) => free_device_memory(index),
        _ => available_memory(),
    };
    available.unwrap_or(UNKNOWN)
}

/// Tokens of a slice where results are kept slice by slice: about a minute's work, so that little is lost when a run is
/// killed, but ten times what reading and merging the weights takes, which every slice repeats. A GPU's speed is measured, other
/// speeds are those of usual hardware; results do not depend on them.
pub fn kept_slice_tokens(models: Models<'_>, backends: &[Backend], threads: usize, chunk_tokens: usize) -> usize {
    /// Floating-point operations a second of a thread of a CPU, and of a GPU that cannot be measured.
    const THREAD_SPEED: u64 = 50_000_000_000;
    const GPU_SPEED: f64 = 1e14;
    /// No GPU's; what is above is no measurement.
    const FASTEST: f64 = 1e16;
    /// Bytes a second that are read, and that a thread merges.
    const BYTES_PER_SECOND: u64 = 1 << 30;
    const SECONDS: u64 = 60;
    const PREPARATIONS: u64 = 10;
    let (model, threads, variants) = (models.checkpoint, threads.max(1) as u64, models.variants.len() as u64);
    let on_cpu = backends.first().is_none_or(|backend| backend.device == Device::Cpu);
    let workers = if on_cpu { threads } else { (backends.len() as u64).max(1) };
    let speed = if on_cpu {
        THREAD_SPEED.saturating_mul(workers)
    } else {
        let hidden_size = model.architecture().hidden_size;
        let measured = |&backend| matrix_product_flops(backend, hidden_size).unwrap_or(GPU_SPEED).min(FASTEST);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^63")]
        let total = backends.iter().map(measured).sum::<f64>() as u64;
        total
    };
    let (_, bytes) = model.size();
    let preparation = bytes.saturating_add(bytes.saturating_mul(variants) / threads) / BYTES_PER_SECOND;
    let seconds = SECONDS.max(preparation.saturating_mul(PREPARATIONS));
    let per_token = 2_u64.saturating_mul(in_layers(model)).saturating_mul(variants).max(1);
    let tokens = usize::try_from(speed.saturating_mul(seconds) / per_token).unwrap_or(usize::MAX);
    // Whole chunks for every worker.
    let round = usize::try_from(workers).unwrap_or(1).saturating_mul(chunk_tokens).max(1);
    (tokens / round).max(1).saturating_mul(round)
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
