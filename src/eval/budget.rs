//! How much goes through at once: chunks that keep the processor busy, slices that fit the memory.

use tch::{Device, Kind};

use super::EvalError;
use crate::config::Architecture;
use crate::model::{Backend, free_device_memory};

/// Tokens that go through a stage together: enough rows to keep matrix products efficient; on a CPU, where each thread has
/// a chunk of its own, few enough that activations stay in a core's cache and that threads end at about the same time.
#[must_use]
pub fn default_chunk_tokens(backend: Backend) -> usize {
    if backend.device == Device::Cpu { 512 } else { 16_384 }
}

/// Bytes to spend on residual streams where none are given: half of what is available, on a GPU half of what is free
/// there. The other half is for weights and activations.
#[must_use]
pub fn default_memory_budget(backend: Backend) -> u64 {
    /// Where the system does not tell.
    const UNKNOWN: u64 = 8 << 30;
    let available = match backend.device {
        Device::Cuda(index) => free_device_memory(index),
        _ => available_memory(),
    };
    available.unwrap_or(UNKNOWN) / 2
}

/// Tokens of a slice whose residual streams fit the budget.
///
/// # Errors
/// Not even the longest passage fits.
pub fn slice_tokens(
    architecture: &Architecture,
    backend: Backend,
    tp_size: usize,
    variant_streams: usize,
    longest: usize,
    budget: u64,
) -> Result<usize, EvalError> {
    let baseline = if architecture.streams_can_differ() { tp_size } else { 1 };
    // Those of the variants; one per rank for the baseline and for its second run; as many being copied where variants part.
    let streams = variant_streams + 3 * baseline;
    let bytes_per_token = (streams * architecture.hidden_size * kind_bytes(backend.kind)) as u64;
    let tokens = usize::try_from(budget / bytes_per_token.max(1)).unwrap_or(usize::MAX);
    if tokens < longest {
        return Err(EvalError::Budget { budget, needed: bytes_per_token * longest as u64 });
    }
    Ok(tokens)
}

fn kind_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Half | Kind::BFloat16 => 2,
        Kind::Double => 8,
        _ => 4,
    }
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
