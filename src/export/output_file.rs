//! A file that is being written front to back and hashed on the way, so that its digest costs no second reading.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::ExportError;
use crate::checkpoint::FileDigest;
use crate::files::{publish, temporary_sibling};

/// Bytes to write at once: checksum, digest and the operating system's copy find them in a core's cache.
const WRITTEN_AT_ONCE: usize = 1 << 18;

/// A file under a temporary name beside its own. Dropped before it is published, it leaves nothing behind.
pub(super) struct OutputFile {
    path: PathBuf,
    file: NamedTempFile,
    hasher: Option<Box<blake3::Hasher>>,
}

impl OutputFile {
    /// Starts a file; `hashed` asks for its digest.
    pub(super) fn create(path: &Path, hashed: bool) -> Result<Self, ExportError> {
        let file = temporary_sibling(path).map_err(ExportError::at(path))?;
        Ok(Self { path: path.to_owned(), file, hasher: hashed.then(Box::default) })
    }

    /// Waits until the disk has the complete file and gives it its name, replacing a file of that name. Returns its
    /// digest if that was asked for.
    pub(super) fn publish(self) -> Result<Option<FileDigest>, ExportError> {
        publish(self.file, &self.path).map_err(ExportError::at(&self.path))?;
        Ok(self.hasher.map(|hasher| FileDigest::new(&self.path, &hasher)))
    }
}

impl Write for OutputFile {
    /// Writes all of it in pieces that stay in a core's cache: hashing fetches what the operating system then copies.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(WRITTEN_AT_ONCE) {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(piece);
            }
            self.file.write_all(piece)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
