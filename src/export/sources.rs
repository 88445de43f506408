//! The digests of the files that a merge reads.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::ExportError;
use crate::checkpoint::{FileDigest, ReadDigests};

/// Announces files that may be hashed. Each is announced once; when this is dropped, those that are left.
pub(super) struct Announcer<'a> {
    files: &'a [PathBuf],
    announced: Vec<bool>,
    sender: Sender<usize>,
}

/// The files in the order in which they may be hashed.
pub(super) fn announcer(files: &[PathBuf]) -> (Announcer<'_>, Receiver<usize>) {
    let (sender, receiver) = channel();
    (Announcer { files, announced: vec![false; files.len()], sender }, receiver)
}

impl Announcer<'_> {
    /// No more of these will be read.
    pub(super) fn announce(&mut self, read: &[PathBuf]) {
        self.announce_where(|path| read.iter().any(|read| read == path));
    }

    fn announce_where(&mut self, wanted: impl Fn(&Path) -> bool) {
        for (at, path) in self.files.iter().enumerate() {
            if !self.announced[at] && wanted(path) {
                self.announced[at] = true;
                // Whoever hashes may have failed, and will say so.
                let _ = self.sender.send(at);
            }
        }
    }
}

impl Drop for Announcer<'_> {
    fn drop(&mut self) {
        self.announce_where(|_| true);
    }
}

/// The digest of every file, in the order given; stops early once `failed`. What was read of a file is hashed already when
/// it is announced.
pub(super) fn hash(
    files: &[PathBuf],
    read: &ReadDigests,
    announced: &Receiver<usize>,
    failed: &AtomicBool,
) -> Result<Vec<FileDigest>, ExportError> {
    let mut digests = Vec::new();
    for at in announced.iter().take_while(|_| !failed.load(Ordering::Relaxed)) {
        digests.push((at, read.finish(&files[at]).map_err(|source| ExportError::Read { source })?));
    }
    digests.sort_by_key(|&(at, _)| at);
    Ok(digests.into_iter().map(|(_, digest)| digest).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::checkpoint::digest_file;

    #[test]
    fn every_file_is_hashed_once_whatever_was_announced() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..5).map(|number| folder.path().join(number.to_string())).collect();
        files.iter().try_for_each(|path| fs_err::write(path, path.to_string_lossy().as_bytes())).unwrap();
        let (mut announcer, announced) = announcer(&files);
        announcer.announce(&files[3..]);
        announcer.announce(&[files[1].clone(), files[4].clone(), folder.path().join("another")]);
        drop(announcer);
        let digests = hash(&files, &ReadDigests::new(&files), &announced, &AtomicBool::new(false)).unwrap();
        assert_eq!(digests, files.iter().map(|path| digest_file(path).unwrap()).collect::<Vec<_>>());
        assert!(hash(&files, &ReadDigests::new(&files), &announced, &AtomicBool::new(false)).unwrap().is_empty());
    }
}
