//! Devices and compute types; the only place that picks a GPU or opens the CUDA half of libtorch.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tch::{Cuda, Device, Kind};

use super::ModelError;
use super::extent::to_i64;
use crate::tensor::DType;

/// Where and in which type the forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    pub device: Device,
    /// The type of activations and weights. Norm statistics and softmax are at least float32 whatever this is.
    pub kind: Kind,
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            Device::Cpu => formatter.write_str("cpu"),
            Device::Cuda(index) => write!(formatter, "cuda:{index}"),
            other => write!(formatter, "{other:?}"),
        }
    }
}

impl Backend {
    /// Waits until the device has done its work; on a CPU that is so at any time.
    pub fn synchronize(self) {
        if let Device::Cuda(index) = self.device {
            Cuda::synchronize(to_i64(index));
        }
    }

    pub fn dtype_name(&self) -> &'static str {
        match self.kind {
            Kind::Half => DType::F16.name(),
            Kind::BFloat16 => DType::BF16.name(),
            Kind::Double => DType::F64.name(),
            _ => DType::F32.name(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// The checkpoint's type on a GPU, float32 on a CPU.
    #[default]
    Auto,
    Exactly(DType),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// All GPUs if there are any, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// These GPUs; empty means all of them.
    Cuda(Vec<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(Vec::new())),
            _ => {}
        }
        let mut indices = Vec::new();
        for part in text.split(',') {
            let number = part.strip_prefix("cuda:").unwrap_or(part).parse::<usize>();
            let Ok(index) = number else {
                return Err(format!("`{part}`: expected auto, cpu, cuda or cuda:N[,N…]"));
            };
            if indices.contains(&index) {
                return Err(format!("cuda:{index} is named twice"));
            }
            indices.push(index);
        }
        Ok(Self::Cuda(indices))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(indices) if indices.is_empty() => f.write_str("cuda"),
            Self::Cuda(indices) => {
                write!(f, "cuda:{}", indices.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl DeviceChoice {
    pub fn resolve(&self) -> Result<Vec<Device>, ModelError> {
        let all = |count: usize| (0..count).map(Device::Cuda).collect();
        match self {
            Self::Cpu => Ok(vec![Device::Cpu]),
            Self::Auto if !nvidia_device_present() => Ok(vec![Device::Cpu]),
            Self::Auto => {
                let count = cuda_device_count().unwrap_or_else(|reason| {
                    tracing::warn!("an NVIDIA device is there but cannot be used ({reason}): using the CPU");
                    0
                });
                Ok(if count > 0 { all(count) } else { vec![Device::Cpu] })
            }
            Self::Cuda(indices) => {
                let failed = |device: &str, reason| ModelError::Device { device: device.to_owned(), reason };
                let count = cuda_device_count().map_err(|reason| failed("cuda", reason))?;
                if count == 0 {
                    return Err(failed("cuda", "libtorch finds no CUDA device".to_owned()));
                }
                if let Some(index) = indices.iter().find(|&&index| index >= count) {
                    return Err(failed(&format!("cuda:{index}"), format!("there are {count}, counted from 0")));
                }
                Ok(if indices.is_empty() { all(count) } else { indices.iter().copied().map(Device::Cuda).collect() })
            }
        }
    }
}

impl FromStr for Compute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "f32" => Self::Exactly(DType::F32),
            "bf16" => Self::Exactly(DType::BF16),
            "f16" => Self::Exactly(DType::F16),
            "f64" => Self::Exactly(DType::F64),
            _ => return Err("expected auto, f32, bf16, f16 or f64".to_owned()),
        })
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(dtype) => dtype.fmt(f),
        }
    }
}

impl Compute {
    /// The libtorch type for a checkpoint of this type on this device.
    pub fn resolve(self, checkpoint: DType, device: Device) -> Kind {
        match (self, device) {
            (Self::Exactly(dtype), _) => kind_of(dtype),
            (Self::Auto, Device::Cpu) => Kind::Float,
            (Self::Auto, _) => kind_of(checkpoint),
        }
    }
}

/// float64 for float64, else float32: for sums that other types are too narrow for.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

pub(super) fn kind_of(dtype: DType) -> Kind {
    match dtype {
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::F32 => Kind::Float,
        DType::F64 => Kind::Double,
        DType::U8 => Kind::Uint8,
        DType::I8 => Kind::Int8,
        DType::I16 => Kind::Int16,
        DType::I32 => Kind::Int,
        DType::I64 => Kind::Int64,
    }
}

pub fn cuda_device_count() -> Result<usize, String> {
    load_cuda()?;
    Ok(usize::try_from(Cuda::device_count()).unwrap_or(0))
}

fn nvidia_device_present() -> bool {
    std::path::Path::new("/dev/nvidiactl").exists() || std::path::Path::new("/dev/nvidia0").exists()
}

/// Opens `libtorch_cuda.so`, once. The binary links only the CPU half, so that it starts fast and runs where there is
/// no CUDA; the CUDA half registers itself when it is loaded.
fn load_cuda() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(open_cuda_library).clone()
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "loading a library runs its initialisers; this one is libtorch's own other half")]
fn open_cuda_library() -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: the initialisers of libtorch_cuda register kernels with the dispatcher of the libtorch_cpu that this
    // process has loaded, which is what they are made for.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| format!("libtorch_cuda.so cannot be loaded: {error}"))?;
    // Kernels stay registered until the process ends.
    std::mem::forget(library);
    Ok(())
}

#[cfg(not(unix))]
fn open_cuda_library() -> Result<(), String> {
    Err("loading the CUDA half of libtorch is only supported on Unix".to_owned())
}

/// Bytes that are free on a GPU; `None` where the CUDA runtime, which comes with libtorch, does not report it.
pub fn free_device_memory(index: usize) -> Option<u64> {
    load_cuda().ok()?;
    ask_free_memory(i32::try_from(index).ok()?)
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "tch does not bind these two functions of the CUDA runtime")]
fn ask_free_memory(index: i32) -> Option<u64> {
    use libloading::os::unix::{Library, Symbol};
    const SUCCESS: i32 = 0;
    let process = Library::this();
    let (mut free, mut total) = (0_usize, 0_usize);
    // SAFETY: the CUDA runtime declares `cudaError_t cudaSetDevice(int)` and `cudaError_t cudaMemGetInfo(size_t *free,
    // size_t *total)`; both pointers are good for the call.
    let reported = unsafe {
        let set_device: Symbol<unsafe extern "C" fn(i32) -> i32> = process.get(b"cudaSetDevice\0").ok()?;
        let memory: Symbol<unsafe extern "C" fn(*mut usize, *mut usize) -> i32> =
            process.get(b"cudaMemGetInfo\0").ok()?;
        set_device(index) == SUCCESS && memory(&raw mut free, &raw mut total) == SUCCESS
    };
    reported.then_some(free as u64)
}

#[cfg(not(unix))]
fn ask_free_memory(_index: i32) -> Option<u64> {
    None
}
