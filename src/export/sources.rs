//! The digests of the files that a merge reads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::ExportError;
use crate::checkpoint::{FileDigest, digest_file};

/// Files that are hashed at once.
const HASHERS: usize = 3;

/// The digest of every file, in the order given; stops early once `failed`. Several files at once, since a thread waits
/// for the disk as long as it hashes.
pub(super) fn hash(files: &[PathBuf], failed: &AtomicBool) -> Result<Vec<FileDigest>, ExportError> {
    let next = AtomicUsize::new(0);
    let hash_files = || {
        let mut digests = Vec::new();
        while let Some((at, path)) = take(files, &next).filter(|_| !failed.load(Ordering::Relaxed)) {
            digests.push((at, digest_file(path).map_err(|source| ExportError::Read { source })?));
        }
        Ok::<_, ExportError>(digests)
    };
    let hashed = thread::scope(|scope| {
        let threads: Vec<_> = (0..HASHERS).map(|_| scope.spawn(hash_files)).collect();
        let join =
            |thread: thread::ScopedJoinHandle<'_, _>| thread.join().map_err(|_| ExportError::ThreadLost).flatten();
        threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
    })?;
    let mut digests: Vec<_> = hashed.into_iter().flatten().collect();
    digests.sort_by_key(|&(at, _)| at);
    Ok(digests.into_iter().map(|(_, digest)| digest).collect())
}

/// The next file that nobody has taken.
fn take<'a>(files: &'a [PathBuf], next: &AtomicUsize) -> Option<(usize, &'a PathBuf)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, files.get(at)?))
}
