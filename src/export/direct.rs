//! Writing past the page cache. Files that are only written gain nothing from it, and it is what writing costs: on a
//! virtual machine with two cores 5.3 GB took 5.5 to 8.5 s through it with the wait for the disk, and 2.6 s (the disk's
//! 2.1 GB/s) with `O_DIRECT`. Buffers go round: they are aligned as the file system wants it and their pages are the
//! process's already. File systems without `O_DIRECT` are written through the page cache, by the same code.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Bytes of a buffer: few enough to stay in a core's cache while they are filled, checked and hashed.
const BUFFER_BYTES: usize = 1 << 20;

/// What file systems want the address, length and place of a write to be a multiple of: a page at most.
const ALIGNMENT: usize = 4096;

/// Buffers that wait to be written or are being written.
const IN_FLIGHT: usize = 16;

/// Threads that write; they wait for the disk nearly all the time.
const WRITERS: usize = 4;

/// Threads that write, shared by any number of files. Clones are the same threads.
#[derive(Clone)]
pub(super) struct Disk {
    threads: Arc<ThreadPool>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    free: Vec<Buffer>,
}

/// Bytes at an aligned address.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    filled: usize,
}

/// A file that is written front to back, one buffer after another.
pub(super) struct DirectFile {
    disk: Disk,
    file: Arc<File>,
    bytes: u64,
    pending: Arc<Pending>,
}

/// The buffers of one file that are not written yet, and the first error of those that are.
#[derive(Default)]
struct Pending {
    state: Mutex<(usize, Option<io::Error>)>,
    changed: Condvar,
}

impl Disk {
    pub(super) fn new() -> io::Result<Self> {
        let threads = ThreadPoolBuilder::new().num_threads(WRITERS).build().map_err(io::Error::other)?;
        Ok(Self { threads: Arc::new(threads), shared: Arc::default() })
    }

    /// An empty buffer.
    pub(super) fn buffer(&self) -> Buffer {
        lock(&self.shared.state).free.pop().unwrap_or_else(Buffer::new)
    }

    /// Waits until another buffer may be in flight.
    fn admit(&self) {
        let state = lock(&self.shared.state);
        let wait = self.shared.changed.wait_while(state, |state| state.in_flight >= IN_FLIGHT);
        wait.unwrap_or_else(PoisonError::into_inner).in_flight += 1;
    }
}

impl Shared {
    fn landed(&self, mut buffer: Buffer) {
        buffer.filled = 0;
        let mut state = lock(&self.state);
        state.in_flight -= 1;
        state.free.push(buffer);
        self.changed.notify_all();
    }
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; BUFFER_BYTES + ALIGNMENT];
        let address = bytes.as_ptr().addr();
        Self { start: address.next_multiple_of(ALIGNMENT) - address, bytes, filled: 0 }
    }

    /// Takes as many bytes as there is room for and says how many.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(BUFFER_BYTES - self.filled);
        let at = self.start + self.filled;
        self.bytes[at..at + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == BUFFER_BYTES
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.filled]
    }

    /// What it holds and then zeros, up to a multiple of what file systems want.
    fn padded(&mut self) -> &[u8] {
        let (end, padded) = (self.start + self.filled, self.start + self.filled.next_multiple_of(ALIGNMENT));
        self.bytes[end..padded].fill(0);
        &self.bytes[self.start..padded]
    }
}

impl DirectFile {
    /// Of an empty file that will have at least so many bytes.
    pub(super) fn new(file: File, bytes: u64, disk: &Disk) -> Self {
        set_direct(&file, true);
        reserve(&file, bytes);
        Self { disk: disk.clone(), file: Arc::new(file), bytes: 0, pending: Arc::default() }
    }

    /// Writes a full buffer behind what was written before; only the last one may have room left. Returns before the
    /// disk has it.
    ///
    /// # Errors
    /// An earlier buffer could not be written.
    pub(super) fn write(&mut self, mut buffer: Buffer) -> io::Result<()> {
        self.disk.admit();
        let at = self.bytes;
        self.bytes += buffer.filled as u64;
        let failed = {
            let mut pending = lock(&self.pending.state);
            pending.0 += 1;
            pending.1.take()
        };
        let (file, pending, shared) = (self.file.clone(), self.pending.clone(), self.disk.shared.clone());
        self.disk.threads.spawn(move || {
            let written = write_at(&file, buffer.padded(), at);
            shared.landed(buffer);
            pending.landed(written);
        });
        failed.map_or(Ok(()), Err)
    }

    /// Waits until everything is written and cuts the file to its length.
    ///
    /// # Errors
    /// A buffer could not be written.
    pub(super) fn finish(self) -> io::Result<()> {
        let state = lock(&self.pending.state);
        let wait = self.pending.changed.wait_while(state, |(count, _)| *count > 0);
        wait.unwrap_or_else(PoisonError::into_inner).1.take().map_or(Ok(()), Err)?;
        self.file.set_len(self.bytes)
    }
}

impl Pending {
    fn landed(&self, written: io::Result<()>) {
        let mut state = lock(&self.state);
        state.0 -= 1;
        if let Err(error) = written {
            state.1.get_or_insert(error);
        }
        self.changed.notify_all();
    }
}

fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    match file.write_all_at(bytes, at) {
        // A file system that takes the flag and then wants more than we give it. The page cache takes anything.
        Err(error) if error.kind() == ErrorKind::InvalidInput && set_direct(file, false) => {
            file.write_all_at(bytes, at)
        }
        outcome => outcome,
    }
}

/// Has the file system set the room aside: several threads can then write to the file at once, where each write that makes
/// it longer goes alone. That a file system cannot, or has not the room, is for the writes to find.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes);
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) {}

/// Has a file written past the page cache or through it; whether that could be done.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, direct: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    fcntl_getfl(file)
        .and_then(|mut flags| {
            flags.set(OFlags::DIRECT, direct);
            fcntl_setfl(file, flags)
        })
        .is_ok()
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, _: bool) -> bool {
    false
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
