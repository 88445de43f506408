//! A file that is being written front to back and hashed on the way, so that its digest costs no second reading.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::ExportError;
use crate::checkpoint::FileDigest;
use crate::files::{publish, temporary_sibling};

/// From this many bytes on, hashing runs beside the write instead of after it.
const HASHED_BESIDE: usize = 1 << 20;

/// Bytes that go to the operating system at once. It copies pieces of this size several times faster than whole matrices
/// (4 GiB on ext4, Linux 6: 1.4 s in pieces of 1 MiB, 5 s in pieces of 64 MiB).
const WRITTEN_AT_ONCE: usize = 1 << 20;

/// A file under a temporary name beside its own. Dropped before it is published, it leaves nothing behind.
pub(super) struct OutputFile {
    path: PathBuf,
    file: NamedTempFile,
    hasher: Option<Sha256>,
    bytes: u64,
}

impl OutputFile {
    /// Starts a file; `hashed` asks for its digest.
    pub(super) fn create(path: &Path, hashed: bool) -> Result<Self, ExportError> {
        let file = temporary_sibling(path).map_err(ExportError::at(path))?;
        Ok(Self { path: path.to_owned(), file, hasher: hashed.then(Sha256::new), bytes: 0 })
    }

    /// Waits until the disk has the complete file and gives it its name, replacing a file of that name. Returns its
    /// digest if that was asked for.
    pub(super) fn publish(self) -> Result<Option<FileDigest>, ExportError> {
        publish(self.file, &self.path).map_err(ExportError::at(&self.path))?;
        let Some(hasher) = self.hasher else { return Ok(None) };
        let mut sha256 = String::with_capacity(64);
        for byte in hasher.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(sha256, "{byte:02x}");
        }
        let file = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Some(FileDigest { file, sha256, bytes: self.bytes }))
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { file, hasher, .. } = self;
        match hasher {
            None => write_in_pieces(file, bytes)?,
            Some(hasher) if bytes.len() < HASHED_BESIDE => {
                hasher.update(bytes);
                file.write_all(bytes)?;
            }
            Some(hasher) => std::thread::scope(|scope| {
                scope.spawn(|| hasher.update(bytes));
                write_in_pieces(file, bytes)
            })?,
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn write_in_pieces(file: &mut NamedTempFile, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(WRITTEN_AT_ONCE).try_for_each(|piece| file.write_all(piece))
}
