//! What copying needs of the CUDA runtime, which comes with libtorch and which tch does not bind.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::model::ModelError;

/// `cudaStream_t` and `cudaEvent_t`.
pub(super) type Handle = *mut c_void;

/// The stream that libtorch computes on.
pub(super) const COMPUTE: Handle = std::ptr::null_mut();

/// `cudaMemcpyHostToDevice`
pub(super) const TO_DEVICE: c_int = 1;

/// `cudaHostAllocPortable`: pinned for every GPU.
pub(super) const PORTABLE: c_uint = 1;

/// `cudaStreamNonBlocking`: apart from the stream that libtorch computes on.
pub(super) const APART: c_uint = 1;

/// `cudaEventBlockingSync | cudaEventDisableTiming`: threads that wait for it sleep.
pub(super) const SLEEP: c_uint = 1 | 2;

macro_rules! calls {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The functions, each declared as in `cuda_runtime_api.h`; all return a `cudaError_t`.
        #[derive(Debug)]
        pub(super) struct Calls {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        fn find() -> Option<Calls> {
            Some(Calls { $($name: symbol(concat!($symbol, "\0"))?,)* })
        }
    };
}

calls! {
    set_device = "cudaSetDevice" (c_int);
    allocate = "cudaMalloc" (*mut *mut c_void, usize);
    free = "cudaFree" (*mut c_void);
    allocate_pinned = "cudaHostAlloc" (*mut *mut c_void, usize, c_uint);
    free_pinned = "cudaFreeHost" (*mut c_void);
    copy = "cudaMemcpyAsync" (*mut c_void, *const c_void, usize, c_int, Handle);
    create_stream = "cudaStreamCreateWithFlags" (*mut Handle, c_uint);
    destroy_stream = "cudaStreamDestroy" (Handle);
    stream_waits = "cudaStreamWaitEvent" (Handle, Handle, c_uint);
    create_event = "cudaEventCreateWithFlags" (*mut Handle, c_uint);
    destroy_event = "cudaEventDestroy" (Handle);
    record = "cudaEventRecord" (Handle, Handle);
    wait = "cudaEventSynchronize" (Handle);
    take_error = "cudaGetLastError" ();
}

/// The functions; `None` where one is missing, as without CUDA.
pub(super) fn calls() -> Option<&'static Calls> {
    static FOUND: OnceLock<Option<Calls>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref()
}

impl Calls {
    /// # Errors
    /// The call's status is one. It is taken from the runtime, so that libtorch does not find it later.
    pub(super) fn checked(&self, status: c_int, what: &str) -> Result<(), ModelError> {
        if status == 0 {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
        // SAFETY: it takes nothing and resets a number of this thread's.
        unsafe {
            (self.take_error)();
        }
        Err(ModelError::Device { device: "cuda".to_owned(), reason: format!("CUDA error {status} while {what}") })
    }

    /// `work` with this GPU as the thread's current one, which events and the compute stream refer to. It stays that: going back
    /// would set up the first GPU for a process that uses another, and libtorch names its device with every call.
    pub(super) fn on<T>(&self, device: c_int, work: impl FnOnce() -> Result<T, ModelError>) -> Result<T, ModelError> {
        #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
        // SAFETY: it changes a number of this thread's.
        let status = unsafe { (self.set_device)(device) };
        self.checked(status, "choosing a device")?;
        work()
    }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "the caller declares the function's type")]
fn symbol<T: Copy>(name: &str) -> Option<T> {
    // SAFETY: the symbol is a function of the CUDA runtime, which stays loaded, and its type is declared above.
    unsafe { libloading::os::unix::Library::this().get::<T>(name.as_bytes()).ok().map(|symbol| *symbol) }
}

#[cfg(not(unix))]
fn symbol<T: Copy>(_name: &str) -> Option<T> {
    None
}
