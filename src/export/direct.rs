//! Writing past the page cache. Files that are only written gain nothing from it, and it is what writing costs: on a
//! virtual machine with two cores 5.3 GB took 5.5 to 8.5 s through it with the wait for the disk, and 2.6 s (the disk's
//! 2.1 GB/s) with `O_DIRECT`. Buffers are reused: they are aligned as the file system wants it and their pages are
//! mapped already. File systems without `O_DIRECT` are written through the page cache, by the same code.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Bytes of a buffer: few enough to stay in a core's cache while they are filled, checked and hashed.
const BUFFER_BYTES: usize = 1 << 20;

/// Address, length and offset of a direct write must be multiples of this: a page at most.
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

/// The writes of one file.
#[derive(Default)]
struct Pending {
    state: Mutex<WriteState>,
    changed: Condvar,
}

#[derive(Default)]
struct WriteState {
    in_flight: usize,
    failed: Option<io::Error>,
}

impl Disk {
    pub(super) fn new() -> io::Result<Self> {
        let threads = ThreadPoolBuilder::new().num_threads(WRITERS).build().map_err(io::Error::other)?;
        Ok(Self { threads: Arc::new(threads), shared: Arc::default() })
    }

    pub(super) fn buffer(&self) -> Buffer {
        lock(&self.shared.state).free.pop().unwrap_or_else(Buffer::new)
    }

    /// Waits until another buffer may be in flight.
    fn acquire(&self) {
        let state = lock(&self.shared.state);
        let wait = self.shared.changed.wait_while(state, |state| state.in_flight >= IN_FLIGHT);
        wait.unwrap_or_else(PoisonError::into_inner).in_flight += 1;
    }
}

impl Shared {
    fn complete(&self, mut buffer: Buffer) {
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

    /// Copies as many bytes as there is room for and returns how many.
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

    /// The contents and then zeros, up to a multiple of [`ALIGNMENT`].
    fn padded(&mut self) -> &[u8] {
        let (end, padded) = (self.start + self.filled, self.start + self.filled.next_multiple_of(ALIGNMENT));
        self.bytes[end..padded].fill(0);
        &self.bytes[self.start..padded]
    }
}

impl DirectFile {
    /// `file` is empty; `bytes` is the least size it will have.
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
        self.pending.submit()?;
        self.disk.acquire();
        let at = self.bytes;
        self.bytes += buffer.filled as u64;
        let (file, pending, shared) = (self.file.clone(), self.pending.clone(), self.disk.shared.clone());
        self.disk.threads.spawn(move || {
            let written = write_at(&file, buffer.padded(), at);
            shared.complete(buffer);
            pending.complete(written);
        });
        Ok(())
    }

    /// Waits until everything is written and cuts the file to its length.
    ///
    /// # Errors
    /// A buffer could not be written.
    pub(super) fn finish(self) -> io::Result<()> {
        self.pending.wait()?;
        self.file.set_len(self.bytes)
    }
}

impl Pending {
    fn submit(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.outcome()?;
        state.in_flight += 1;
        Ok(())
    }

    fn complete(&self, written: io::Result<()>) {
        let mut state = lock(&self.state);
        state.in_flight -= 1;
        if let Err(error) = written {
            state.failed.get_or_insert(error);
        }
        self.changed.notify_all();
    }

    fn wait(&self) -> io::Result<()> {
        let state = lock(&self.state);
        let wait = self.changed.wait_while(state, |state| state.in_flight > 0);
        wait.unwrap_or_else(PoisonError::into_inner).outcome()
    }
}

impl WriteState {
    /// The first error, however often it is asked for: a file that lacks a buffer never becomes whole.
    fn outcome(&self) -> io::Result<()> {
        let again = |error: &io::Error| error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error);
        self.failed.as_ref().map_or(Ok(()), |error| Err(again(error)))
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

/// Allocates the file's blocks: several threads can then write to it at once, where writes that make it longer go one by
/// one. If this fails, the writes report why.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes);
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: &File, _: u64) {}

/// Turns direct writes on or off; returns whether that succeeded.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, direct: bool) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(file).map(|mut flags| {
        flags.set(OFlags::DIRECT, direct);
        flags
    });
    flags.and_then(|flags| fcntl_setfl(file, flags)).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, _: bool) -> bool {
    false
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err::OpenOptions;

    use super::*;

    fn filled(disk: &Disk, byte: u8, count: usize) -> Buffer {
        let mut buffer = disk.buffer();
        assert_eq!(buffer.fill(&vec![byte; count]), count);
        buffer
    }

    #[test]
    fn buffers_are_aligned_and_go_round() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::new().unwrap());
        let path = folder.path().join("file");
        let mut file = DirectFile::new(File::create(&path).unwrap(), 0, &disk);
        for byte in 0..100 {
            let mut buffer = filled(&disk, byte, BUFFER_BYTES);
            assert!(buffer.is_full() && buffer.fill(&[0]) == 0);
            assert_eq!(buffer.padded().as_ptr().addr() % ALIGNMENT, 0);
            file.write(buffer).unwrap();
        }
        file.write(filled(&disk, 100, 5)).unwrap();
        file.finish().unwrap();
        assert!(lock(&disk.shared.state).free.len() <= IN_FLIGHT + 1);
        let bytes = fs_err::read(&path).unwrap();
        assert_eq!(bytes.len(), 100 * BUFFER_BYTES + 5);
        assert!(bytes.chunks(BUFFER_BYTES).zip(0..).all(|(chunk, byte)| chunk.iter().all(|&found| found == byte)));
    }

    #[test]
    fn what_is_not_aligned_goes_through_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        set_direct(&file, true);
        write_at(&file, b"neither long nor aligned", 3).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"\0\0\0neither long nor aligned");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_is_found_by_later_writes_and_at_the_end() {
        let disk = Disk::new().unwrap();
        let full = || {
            let file = OpenOptions::new().write(true).open("/dev/full").unwrap().into_file();
            DirectFile::new(file, BUFFER_BYTES as u64, &disk)
        };
        let mut file = full();
        let failed = (0..1000).find_map(|_| file.write(filled(&disk, 7, BUFFER_BYTES)).err());
        assert_eq!(failed.unwrap().kind(), ErrorKind::StorageFull);
        assert_eq!(file.write(disk.buffer()).unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(file.finish().unwrap_err().kind(), ErrorKind::StorageFull);

        let mut file = full();
        file.write(filled(&disk, 7, 10)).unwrap();
        assert_eq!(file.finish().unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(lock(&disk.shared.state).in_flight, 0);
    }
}
