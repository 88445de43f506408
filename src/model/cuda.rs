//! The CUDA half of libtorch: loading it, its settings, and the GPUs that the CUDA runtime reports. What tch does not bind is
//! called by its symbol; both libraries come with libtorch.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::ModelError;

/// The oldest GPUs that libtorch 2.11's CUDA builds have kernels for.
const OLDEST: Capability = Capability { major: 7, minor: 5 };

/// What a GPU's kernels must be compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability {
    major: i32,
    minor: i32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A GPU as the CUDA runtime describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub index: usize,
    pub name: String,
    pub capability: Capability,
}

impl Gpu {
    /// Why libtorch cannot compute on it.
    pub(super) fn unusable(&self) -> Option<String> {
        let Self { name, capability, .. } = self;
        let reason = || format!("compute capability {capability} ({name}), libtorch's kernels need {OLDEST} or newer");
        (*capability < OLDEST).then(reason)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, capability, .. } = self;
        write!(f, "{name}, compute capability {capability}")
    }
}

/// Bytes of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuMemory {
    /// Used by no process.
    pub free: u64,
    pub total: u64,
}

impl fmt::Display for GpuMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "a size for people to read")]
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(f, "{:.1} of {:.1} GiB free", gib(self.free), gib(self.total))
    }
}

/// Opens `libtorch_cuda.so`, once. The binary links only the CPU half, so that it starts fast and runs where there is
/// no CUDA; the CUDA half registers itself when it is loaded.
///
/// # Errors
/// Why it cannot be loaded.
pub(super) fn load() -> Result<(), ModelError> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(runtime::open).clone();
    loaded.map_err(|reason| ModelError::Device { device: "cuda".to_owned(), reason })
}

/// All GPUs, also those that libtorch has no kernels for; at least one.
///
/// # Errors
/// Why there are none: the CUDA half cannot be loaded, or what the CUDA runtime reports.
pub fn gpus() -> Result<Vec<Gpu>, ModelError> {
    load()?;
    let found = runtime::device_count().and_then(|count| (0..count).map(runtime::gpu).collect());
    found.map_err(|reason| ModelError::Device { device: "cuda".to_owned(), reason })
}

/// The version of the NVIDIA driver, such as 580.65.06; the newest CUDA that it supports, such as 13.0; and the CUDA that libtorch
/// was built with. Where they are known.
pub fn cuda_versions() -> [(&'static str, Option<String>); 3] {
    let driver = std::fs::read_to_string("/sys/module/nvidia/version").ok().map(|text| text.trim().to_owned());
    let (supported, needed) = if load().is_ok() { runtime::versions() } else { (None, None) };
    [("driver", driver), ("driver for CUDA", supported), ("libtorch for CUDA", needed)]
}

/// Bytes that were free on a GPU when this was first asked; `None` where the CUDA runtime does not report it. Later the memory
/// that libtorch keeps for the next evaluation would seem to be used.
pub fn free_device_memory(index: usize) -> Option<u64> {
    static FREE: Mutex<BTreeMap<usize, u64>> = Mutex::new(BTreeMap::new());
    let mut known = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&free) = known.get(&index) {
        return Some(free);
    }
    let free = gpu_memory(index).ok()?.free;
    known.insert(index, free);
    Some(free)
}

/// The memory of a GPU now, which sets it up for this process.
///
/// # Errors
/// What the CUDA runtime reports.
pub fn gpu_memory(index: usize) -> Result<GpuMemory, ModelError> {
    load()?;
    let memory = i32::try_from(index).map_err(|_| "there is no such device".to_owned()).and_then(runtime::memory);
    memory.map_err(|reason| ModelError::Device { device: format!("cuda:{index}"), reason })
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "functions of libtorch and of the CUDA runtime that tch does not bind")]
mod runtime {
    use std::ffi::{CStr, c_char, c_int, c_void};

    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

    use super::{Capability, Gpu, GpuMemory};

    const SUCCESS: c_int = 0;
    /// `cudaErrorInsufficientDriver`
    const INSUFFICIENT_DRIVER: c_int = 35;
    /// `cudaDevAttrComputeCapabilityMajor` and `…Minor`
    const CAPABILITY: [c_int; 2] = [75, 76];
    /// More than any version's `cudaDeviceProp` has, which begins with `char name[256]`.
    const PROPERTIES: usize = 16 * 1024;

    pub(super) fn open() -> Result<(), String> {
        // SAFETY: the initialisers of libtorch_cuda register kernels with the dispatcher of the libtorch_cpu that this
        // process has loaded, which is what they are made for.
        let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|error| format!("libtorch_cuda.so cannot be loaded: {error}"))?;
        // Kernels stay registered until the process ends.
        std::mem::forget(library);
        set_up_arithmetic();
        Ok(())
    }

    /// Takes cuDNN out of the choice of attention kernels, which builds a plan for every number and length of passages, 0.06 to
    /// 0.4 s each, and forbids sums of partial products in 16 bits.
    fn set_up_arithmetic() {
        // `at::Context& at::globalContext()`, `void at::Context::setSDPUseCuDNN(bool)`, `void
        // at::Context::setAllow{FP16,BF16}ReductionCuBLAS(bool allow_reduced_precision, bool allow_split_k)`
        const CONTEXT: &str = "_ZN2at13globalContextEv";
        const CUDNN_ATTENTION: &str = "_ZN2at7Context14setSDPUseCuDNNEb";
        const NARROW_SUMS: [&str; 2] =
            ["_ZN2at7Context27setAllowFP16ReductionCuBLASEbb", "_ZN2at7Context27setAllowBF16ReductionCuBLASEbb"];
        let set_up = || {
            // SAFETY: references and `this` are pointers in this ABI; the context lives as long as the process.
            unsafe {
                let context = symbol::<unsafe extern "C" fn() -> *mut c_void>(CONTEXT)?();
                symbol::<unsafe extern "C" fn(*mut c_void, bool)>(CUDNN_ATTENTION)?(context, false);
                for name in NARROW_SUMS {
                    symbol::<unsafe extern "C" fn(*mut c_void, bool, bool)>(name)?(context, false, true);
                }
            }
            Ok::<_, String>(())
        };
        if let Err(reason) = set_up() {
            tracing::warn!(
                "cuDNN's attention and 16-bit sums stay on, evaluating takes longer and rounds more: {reason}"
            );
        }
    }

    pub(super) fn device_count() -> Result<c_int, String> {
        let mut count = 0;
        // SAFETY: `cudaError_t cudaGetDeviceCount(int *count)`
        let status =
            unsafe { symbol::<unsafe extern "C" fn(*mut c_int) -> c_int>("cudaGetDeviceCount")?(&raw mut count) };
        if status == INSUFFICIENT_DRIVER
            && let (Some(driver), Some(needed)) = versions()
        {
            return Err(format!("the NVIDIA driver is too old: it supports CUDA {driver}, libtorch needs {needed}"));
        }
        checked(status)?;
        if count == 0 { Err("the CUDA runtime finds no device".to_owned()) } else { Ok(count) }
    }

    pub(super) fn gpu(index: c_int) -> Result<Gpu, String> {
        let mut properties = vec![0_u8; PROPERTIES];
        let mut capability = [0; 2];
        // SAFETY: `cudaError_t cudaGetDeviceProperties(cudaDeviceProp *, int device)` writes at most the struct, and
        // `cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int device)` one number.
        unsafe {
            let properties_of = symbol::<unsafe extern "C" fn(*mut u8, c_int) -> c_int>("cudaGetDeviceProperties")?;
            checked(properties_of(properties.as_mut_ptr(), index))?;
            let attribute =
                symbol::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>("cudaDeviceGetAttribute")?;
            for (value, name) in capability.iter_mut().zip(CAPABILITY) {
                checked(attribute(value, name, index))?;
            }
        }
        let name = CStr::from_bytes_until_nul(&properties).map(CStr::to_string_lossy).unwrap_or_default().into_owned();
        let [major, minor] = capability;
        let index = usize::try_from(index).unwrap_or_default();
        Ok(Gpu { index, name, capability: Capability { major, minor } })
    }

    pub(super) fn memory(index: c_int) -> Result<GpuMemory, String> {
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: `cudaError_t cudaSetDevice(int)`, `cudaError_t cudaMemGetInfo(size_t *free, size_t *total)`
        unsafe {
            checked(symbol::<unsafe extern "C" fn(c_int) -> c_int>("cudaSetDevice")?(index))?;
            let info = symbol::<unsafe extern "C" fn(*mut usize, *mut usize) -> c_int>("cudaMemGetInfo")?;
            checked(info(&raw mut free, &raw mut total))?;
        }
        Ok(GpuMemory { free: free as u64, total: total as u64 })
    }

    pub(super) fn versions() -> (Option<String>, Option<String>) {
        let ask = |name| {
            let mut version = 0;
            // SAFETY: `cudaError_t cudaDriverGetVersion(int *)` and `cudaError_t cudaRuntimeGetVersion(int *)`
            let status = unsafe { symbol::<unsafe extern "C" fn(*mut c_int) -> c_int>(name).ok()?(&raw mut version) };
            // 13020 is 13.2; 0 is no driver.
            (status == SUCCESS && version > 0).then(|| format!("{}.{}", version / 1000, version % 1000 / 10))
        };
        (ask("cudaDriverGetVersion"), ask("cudaRuntimeGetVersion"))
    }

    fn checked(status: c_int) -> Result<(), String> {
        if status == SUCCESS {
            return Ok(());
        }
        let text = symbol::<unsafe extern "C" fn(c_int) -> *const c_char>("cudaGetErrorString").ok().map(|text_of| {
            // SAFETY: `const char *cudaGetErrorString(cudaError_t)` gives a text for any number, which is never freed.
            unsafe { CStr::from_ptr(text_of(status)) }.to_string_lossy().into_owned()
        });
        Err(format!("CUDA error {status}: {}", text.unwrap_or_default()))
    }

    /// A function of this process's libraries, by its symbol; the caller answers for its type.
    fn symbol<T: Copy>(name: &str) -> Result<T, String> {
        // SAFETY: the symbol is a function, and only read here.
        let found: Result<Symbol<T>, _> = unsafe { Library::this().get(name.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|_| format!("libtorch lacks {name}"))
    }
}

#[cfg(not(unix))]
mod runtime {
    use super::{Gpu, GpuMemory};

    const UNSUPPORTED: &str = "loading the CUDA half of libtorch is only supported on Unix";

    pub(super) fn open() -> Result<(), String> {
        Err(UNSUPPORTED.to_owned())
    }

    pub(super) fn device_count() -> Result<i32, String> {
        Err(UNSUPPORTED.to_owned())
    }

    pub(super) fn gpu(_index: i32) -> Result<Gpu, String> {
        Err(UNSUPPORTED.to_owned())
    }

    pub(super) fn memory(_index: i32) -> Result<GpuMemory, String> {
        Err(UNSUPPORTED.to_owned())
    }

    pub(super) fn versions() -> (Option<String>, Option<String>) {
        (None, None)
    }
}

#[cfg(test)]
mod tests {
    use super::{Capability, Gpu};

    #[test]
    fn gpus_without_kernels_are_unusable() {
        let gpu = |major, minor| Gpu { index: 0, name: "a GPU".to_owned(), capability: Capability { major, minor } };
        for old in [gpu(5, 0), gpu(6, 1), gpu(7, 0), gpu(7, 2)] {
            let reason = old.unusable().unwrap();
            assert!(reason.contains(&old.capability.to_string()) && reason.contains("7.5"), "{reason}");
        }
        assert!([gpu(7, 5), gpu(8, 0), gpu(9, 0), gpu(10, 0), gpu(12, 1)].iter().all(|gpu| gpu.unusable().is_none()));
    }
}
