//! Blocks of a GPU's memory that hold one stage's weights after another's. libtorch's own allocator knows nothing of streams
//! that it did not make, so what is written on one of ours lies in memory of ours.

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::calls::{COMPUTE, Calls, Handle, SLEEP, calls};
use crate::model::ModelError;

/// Memory of a GPU that no stage uses now.
#[derive(Debug)]
pub(super) struct Spare {
    device: c_int,
    blocks: Mutex<Vec<Block>>,
}

#[derive(Debug)]
struct Block {
    address: *mut c_void,
    bytes: usize,
    /// What was computed when the block was given back.
    last_use: Handle,
}

/// A block in use. It goes back with the last of the stages that read it; what was launched until then is waited for by
/// whoever writes to it next.
#[derive(Debug)]
pub(in crate::model) struct WeightBlock {
    block: Option<Block>,
    spare: Arc<Spare>,
}

// SAFETY: addresses of a GPU's memory and handles of the CUDA runtime may be used by any thread; nothing here is changed
// through a shared reference.
#[expect(unsafe_code, reason = "raw pointers are neither sent nor shared otherwise")]
unsafe impl Send for Block {}
#[expect(unsafe_code, reason = "raw pointers are neither sent nor shared otherwise")]
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Spare {
    pub(super) fn new(device: c_int) -> Self {
        Self { device, blocks: Mutex::default() }
    }

    /// A block of at least so many bytes, which `stream` may write to once it gets there; `None` where there is no memory.
    pub(super) fn take(self: &Arc<Self>, calls: &Calls, bytes: usize, stream: Handle) -> Option<WeightBlock> {
        let found = {
            let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
            let fitting = blocks.iter().position(|block| block.bytes >= bytes);
            // One that is too small is in the way of a larger one.
            fitting.or(blocks.len().checked_sub(1)).map(|at| blocks.swap_remove(at))
        };
        let fitting = found.filter(|block| block.bytes >= bytes);
        let block = match fitting {
            Some(block) => block,
            None => calls.on(self.device, || Block::new(calls, bytes)).ok()?,
        };
        #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
        // SAFETY: stream and event exist.
        let status = unsafe { (calls.stream_waits)(stream, block.last_use, 0) };
        calls.checked(status, "waiting for the stage before").ok()?;
        Some(WeightBlock { block: Some(block), spare: Arc::clone(self) })
    }
}

impl Block {
    fn new(calls: &Calls, bytes: usize) -> Result<Self, ModelError> {
        let mut block = Self { address: std::ptr::null_mut(), bytes, last_use: std::ptr::null_mut() };
        #[expect(unsafe_code, reason = "functions of the CUDA runtime")]
        // SAFETY: both pointers are good for the calls; what they make is destroyed in `drop`.
        unsafe {
            calls.checked((calls.create_event)(&raw mut block.last_use, SLEEP), "creating an event")?;
            calls.checked((calls.allocate)(&raw mut block.address, bytes), "asking for memory")?;
        }
        Ok(block)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(calls) = calls() else { return };
        #[expect(unsafe_code, reason = "functions of the CUDA runtime")]
        // SAFETY: made in `new` and used by nothing any more: freeing memory waits for what was launched.
        unsafe {
            if !self.address.is_null() {
                (calls.free)(self.address);
            }
            if !self.last_use.is_null() {
                (calls.destroy_event)(self.last_use);
            }
        }
    }
}

impl WeightBlock {
    /// Its first byte.
    pub(super) fn address(&self) -> *mut u8 {
        self.block.as_ref().map_or(std::ptr::null_mut(), |block| block.address.cast())
    }
}

impl Drop for WeightBlock {
    fn drop(&mut self) {
        let (Some(block), Some(calls)) = (self.block.take(), calls()) else { return };
        let recorded = calls.on(self.spare.device, || {
            #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
            // SAFETY: the event is of this device, and so is the compute stream where it is current.
            let status = unsafe { (calls.record)(block.last_use, COMPUTE) };
            calls.checked(status, "recording an event")
        });
        // A block whose readers cannot be waited for is freed, which waits for all.
        if recorded.is_ok() {
            self.spare.blocks.lock().unwrap_or_else(PoisonError::into_inner).push(block);
        }
    }
}
