//! Which devices to compute on.

use tch::Device;

use super::ModelError;
use super::cuda::{self, Gpu};
use crate::options::DeviceChoice;

/// A device to compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenDevice {
    pub device: Device,
    /// What it is, or why it was chosen.
    pub reason: String,
}

impl ChosenDevice {
    fn cpu(reason: &str) -> Self {
        Self { device: Device::Cpu, reason: format!("cpu: {reason}") }
    }

    fn gpu(gpu: &Gpu) -> Self {
        Self { device: Device::Cuda(gpu.index), reason: format!("cuda:{}: {gpu}", gpu.index) }
    }
}

impl DeviceChoice {
    /// The devices, at least one.
    ///
    /// # Errors
    /// A GPU that is asked for and not there, or that libtorch has no kernels for.
    pub fn resolve(&self) -> Result<Vec<ChosenDevice>, ModelError> {
        match self {
            Self::Cpu => Ok(vec![ChosenDevice::cpu("as asked for")]),
            Self::Auto => Ok(automatic()),
            Self::Cuda(indices) if indices.is_empty() => usable_gpus(),
            Self::Cuda(indices) => named(indices),
        }
    }
}

fn automatic() -> Vec<ChosenDevice> {
    if !nvidia_driver_present() {
        return vec![ChosenDevice::cpu("no NVIDIA driver is here")];
    }
    usable_gpus().unwrap_or_else(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        tracing::warn!("an NVIDIA driver is here, but no GPU can be used: {error}{hint}");
        vec![ChosenDevice::cpu("no GPU can be used")]
    })
}

fn named(indices: &[usize]) -> Result<Vec<ChosenDevice>, ModelError> {
    let gpus = cuda::gpus()?;
    let chosen = indices.iter().map(|&index| {
        let failed = |reason| ModelError::Device { device: format!("cuda:{index}"), reason };
        let gpu = gpus.get(index).ok_or_else(|| failed(format!("there are {}, counted from 0", gpus.len())))?;
        gpu.unusable().map_or_else(|| Ok(ChosenDevice::gpu(gpu)), |reason| Err(failed(reason)))
    });
    chosen.collect()
}

/// All GPUs that libtorch has kernels for, at least one; others are named in a warning.
fn usable_gpus() -> Result<Vec<ChosenDevice>, ModelError> {
    let (mut usable, mut reasons) = (Vec::new(), Vec::new());
    for gpu in cuda::gpus()? {
        match gpu.unusable() {
            None => usable.push(ChosenDevice::gpu(&gpu)),
            Some(reason) => reasons.push(format!("cuda:{} has {reason}", gpu.index)),
        }
    }
    if usable.is_empty() {
        return Err(ModelError::Device { device: "cuda".to_owned(), reason: reasons.join("; ") });
    }
    for reason in reasons {
        tracing::warn!("{reason}: not used");
    }
    Ok(usable)
}

/// Whether loading the CUDA half of libtorch, which takes a second, may be worth it.
fn nvidia_driver_present() -> bool {
    ["/dev/nvidiactl", "/dev/nvidia0"].iter().any(|path| std::path::Path::new(path).exists())
}
