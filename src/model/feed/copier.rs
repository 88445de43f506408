//! Copying to a GPU on a stream of its own, by way of a ring of pinned blocks: the GPU's copy engine reads pinned memory
//! alone, and copies from other memory are made by the driver, piece by piece, while the caller and the stream wait. A ring
//! serves all tensors whoever made them, and pins 64 MiB instead of several stages.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::calls::{APART, Calls, Handle, PORTABLE, SLEEP, TO_DEVICE};
use crate::model::ModelError;

/// Bytes of a pinned block, and how many there are: while one is copied to the GPU the next is filled.
const BLOCK: usize = 16 << 20;
const BLOCKS: usize = 4;

/// Bytes that a thread copies into a block at once.
const SHARE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Copier {
    calls: &'static Calls,
    device: c_int,
    pub(super) stream: Handle,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    blocks: Vec<Pinned>,
    next: usize,
}

/// A pinned block; the event is when the GPU has read it.
#[derive(Debug)]
struct Pinned {
    calls: &'static Calls,
    address: *mut u8,
    read: Handle,
}

// SAFETY: handles of the CUDA runtime and pinned memory may be used by any thread; the ring is used by one at a time.
#[expect(unsafe_code, reason = "raw pointers are neither sent nor shared otherwise")]
unsafe impl Send for Copier {}
#[expect(unsafe_code, reason = "raw pointers are neither sent nor shared otherwise")]
// SAFETY: as above.
unsafe impl Sync for Copier {}

impl Copier {
    pub(super) fn new(calls: &'static Calls, device: c_int) -> Result<Self, ModelError> {
        calls.on(device, || {
            let blocks = (0..BLOCKS).map(|_| Pinned::new(calls)).collect::<Result<_, _>>()?;
            let mut stream = std::ptr::null_mut();
            #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
            // SAFETY: the pointer is good for the call.
            let status = unsafe { (calls.create_stream)(&raw mut stream, APART) };
            calls.checked(status, "creating a stream")?;
            Ok(Self { calls, device, stream, ring: Mutex::new(Ring { blocks, next: 0 }) })
        })
    }

    /// Has `stream` copy the bytes. They may be changed after this returns.
    ///
    /// # Safety
    /// `to` is memory of this GPU, of at least as many bytes, that nothing else writes to or reads before `stream` has copied.
    #[expect(unsafe_code, reason = "the target is a pointer")]
    pub(super) unsafe fn copy(&self, from: &[u8], to: *mut u8, stream: Handle) -> Result<(), ModelError> {
        let calls = self.calls;
        calls.on(self.device, || {
            for (number, piece) in from.chunks(BLOCK).enumerate() {
                // Held for a piece only, so that a thread with a small tensor need not wait for one with a large.
                let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
                let at = ring.next;
                ring.next = (at + 1) % BLOCKS;
                let block = &mut ring.blocks[at];
                block.fill(piece)?;
                // SAFETY: the block holds the piece and is not written to before `read` has come; the target is the
                // caller's affair.
                unsafe {
                    let to = to.add(number * BLOCK).cast();
                    let status = (calls.copy)(to, block.address.cast(), piece.len(), TO_DEVICE, stream);
                    calls.checked(status, "copying to the device")?;
                    calls.checked((calls.record)(block.read, stream), "recording an event")?;
                }
            }
            Ok(())
        })
    }

    /// Waits until everything has been copied.
    pub(super) fn finish(&self) -> Result<(), ModelError> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.blocks.iter().try_for_each(Pinned::wait)
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
        // SAFETY: made in `new`; work that it has is still done.
        unsafe {
            (self.calls.destroy_stream)(self.stream);
        }
    }
}

impl Pinned {
    fn new(calls: &'static Calls) -> Result<Self, ModelError> {
        let mut block = Self { calls, address: std::ptr::null_mut(), read: std::ptr::null_mut() };
        #[expect(unsafe_code, reason = "functions of the CUDA runtime")]
        // SAFETY: both pointers are good for the calls; what they make is destroyed in `drop`. The memory is cleared, so that
        // it is initialised.
        unsafe {
            calls.checked((calls.create_event)(&raw mut block.read, SLEEP), "creating an event")?;
            let address = (&raw mut block.address).cast();
            calls.checked((calls.allocate_pinned)(address, BLOCK, PORTABLE), "asking for pinned memory")?;
            block.address.write_bytes(0, BLOCK);
        }
        Ok(block)
    }

    /// Waits until the GPU has read what is there, and puts the bytes there, at most a block.
    fn fill(&mut self, bytes: &[u8]) -> Result<(), ModelError> {
        self.wait()?;
        #[expect(unsafe_code, reason = "memory of the CUDA runtime")]
        // SAFETY: the block has so many bytes, which are initialised, and the GPU does not read them any more.
        let block = unsafe { std::slice::from_raw_parts_mut(self.address, BLOCK) };
        let shares = block[..bytes.len()].par_chunks_mut(SHARE).zip(bytes.par_chunks(SHARE));
        shares.for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    }

    fn wait(&self) -> Result<(), ModelError> {
        #[expect(unsafe_code, reason = "a function of the CUDA runtime")]
        // SAFETY: the event exists; one that was never recorded has come.
        let status = unsafe { (self.calls.wait)(self.read) };
        self.calls.checked(status, "waiting for a copy")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = self.wait();
        #[expect(unsafe_code, reason = "functions of the CUDA runtime")]
        // SAFETY: made in `new`; the GPU has read the block.
        unsafe {
            if !self.address.is_null() {
                (self.calls.free_pinned)(self.address.cast());
            }
            if !self.read.is_null() {
                (self.calls.destroy_event)(self.read);
            }
        }
    }
}
