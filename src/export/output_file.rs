//! A file that is being written front to back and hashed on the way, so that its digest costs no second reading.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::ExportError;
use super::direct::{Buffer, DirectFile, Disk};
use crate::checkpoint::FileDigest;
use crate::files::{publish, temporary_sibling};

/// A file under a temporary name beside its own. Dropped before it is published, it leaves nothing behind.
pub(super) struct OutputFile {
    path: PathBuf,
    file: NamedTempFile,
    disk: Disk,
    direct: DirectFile,
    buffer: Buffer,
    hasher: Option<Box<blake3::Hasher>>,
}

impl OutputFile {
    /// Starts a file that will hold at least so many bytes; `hashed` asks for its digest.
    pub(super) fn create(path: &Path, bytes: u64, hashed: bool, disk: &Disk) -> Result<Self, ExportError> {
        let file = temporary_sibling(path).map_err(ExportError::at(path))?;
        let direct = file.as_file().try_clone().map(|file| DirectFile::new(file, bytes, disk));
        Ok(Self {
            path: path.to_owned(),
            direct: direct.map_err(ExportError::at(path))?,
            file,
            disk: disk.clone(),
            buffer: disk.buffer(),
            hasher: hashed.then(Box::default),
        })
    }

    /// Waits until the disk has the complete file and gives it its name, replacing a file of that name. Returns its
    /// digest if that was asked for.
    pub(super) fn publish(mut self) -> Result<Option<FileDigest>, ExportError> {
        let written =
            self.hand_over().and_then(|()| self.direct.finish()).and_then(|()| publish(self.file, &self.path));
        written.map_err(ExportError::at(&self.path))?;
        Ok(self.hasher.map(|hasher| FileDigest::new(&self.path, &hasher)))
    }

    /// Has what was collected written, and hashes it while it is in the core's cache.
    fn hand_over(&mut self) -> io::Result<()> {
        let next = self.disk.buffer();
        let buffer = std::mem::replace(&mut self.buffer, next);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(buffer.filled());
        }
        self.direct.write(buffer)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.buffer.fill(bytes);
        if self.buffer.is_full() {
            self.hand_over()?;
        }
        Ok(taken)
    }

    /// Nothing of a file is to be seen before it is published.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
