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

    /// Passes the buffer to the disk and hashes it while it is in the core's cache.
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

    /// Nothing of a file is visible before it is published.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err as fs;
    use proptest::prelude::*;

    use super::*;
    use crate::checkpoint::digest_file;

    const MIB: usize = 1 << 20;

    fn numbered(count: usize) -> Vec<u8> {
        (0..count).map(|at| u8::try_from((at / 3 + at / 4096) % 251).unwrap()).collect()
    }

    /// Writes the bytes in pieces of these lengths, over and over, and compares what is then in the file.
    fn check(disk: &Disk, bytes: &[u8], lengths: &[usize]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = OutputFile::create(&path, bytes.len() as u64 / 2, true, disk).unwrap();
        let mut rest = bytes;
        for &length in lengths.iter().cycle() {
            let (piece, further) = rest.split_at(length.min(rest.len()));
            file.write_all(piece).unwrap();
            rest = further;
            if rest.is_empty() {
                break;
            }
        }
        assert!(!path.exists());
        let digest = file.publish().unwrap().unwrap();
        assert!(fs::read(&path).unwrap() == bytes, "{} bytes in pieces of {lengths:?}", bytes.len());
        assert_eq!(digest, digest_file(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_of_any_length() {
        let disk = Disk::new().unwrap();
        for count in [0, 1, 511, 512, 513, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 3 * MIB, 3 * MIB + 4095] {
            check(&disk, &numbered(count), &[count.max(1)]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_of_any_length(count in 0..3 * MIB, lengths in prop::collection::vec(1..2 * MIB, 1..5)) {
            check(&Disk::new().unwrap(), &numbered(count), &lengths);
        }
    }

    #[test]
    fn many_files_at_once_share_the_threads() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::new().unwrap());
        let path = |number: usize| folder.path().join(number.to_string());
        let create = |number| OutputFile::create(&path(number), 0, false, &disk).unwrap();
        let mut files: Vec<_> = (0..40).map(create).collect();
        for half in numbered(MIB + 100).chunks(MIB / 2) {
            files.iter_mut().try_for_each(|file| file.write_all(half)).unwrap();
        }
        assert!(files.into_iter().all(|file| file.publish().unwrap().is_none()));
        assert!((0..40).all(|number| fs::read(path(number)).unwrap() == numbered(MIB + 100)));
    }

    #[test]
    fn an_error_names_the_file() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::new().unwrap());
        let path = folder.path().join("file");
        let mut file = OutputFile::create(&path, 0, false, &disk).unwrap();
        // A handle that may only read.
        file.direct = DirectFile::new(fs::File::open(file.file.path()).unwrap().into_file(), 0, &disk);
        file.write_all(b"text").unwrap();
        let error = file.publish().unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
