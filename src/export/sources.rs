//! The files that a merge reads: their digests, and whether they are at the end what they were at the beginning.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use fs_err as fs;

use super::ExportError;
use crate::checkpoint::{Checkpoint, FileDigest, digest_file};

/// Files that are hashed at once.
const HASHERS: usize = 3;

/// The weight files of a checkpoint, as they were when the merge began.
pub(super) struct SourceFiles(Vec<Source>);

struct Source {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl SourceFiles {
    /// Notes size and time of every file.
    pub(super) fn note(checkpoint: &Checkpoint) -> Result<Self, ExportError> {
        let note = |path: PathBuf| {
            let metadata = fs::metadata(&path).map_err(|source| ExportError::Read { source })?;
            Ok(Source { bytes: metadata.len(), modified: metadata.modified().ok(), path })
        };
        Ok(Self(checkpoint.weight_files().into_iter().map(note).collect::<Result<_, ExportError>>()?))
    }

    /// The digest of every file, in the order of the stages; stops early once `failed`. Several files at once, since a
    /// thread waits for the disk as long as it hashes.
    pub(super) fn hash(&self, failed: &AtomicBool) -> Result<Vec<FileDigest>, ExportError> {
        let next = AtomicUsize::new(0);
        let hash_files = || {
            let mut digests = Vec::new();
            while let Some((at, source)) = self.take(&next).filter(|_| !failed.load(Ordering::Relaxed)) {
                let digest = digest_file(&source.path).map_err(|source| ExportError::Read { source })?;
                digests.push((at, digest));
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
    fn take(&self, next: &AtomicUsize) -> Option<(usize, &Source)> {
        let at = next.fetch_add(1, Ordering::Relaxed);
        Some((at, self.0.get(at)?))
    }

    /// What was read must be one checkpoint: no file may have changed since.
    pub(super) fn check_unchanged(&self) -> Result<(), ExportError> {
        for Source { path, bytes, modified } in &self.0 {
            let now = fs::metadata(path).map_err(|source| ExportError::Read { source })?;
            if now.len() != *bytes {
                let what = format!("{bytes} bytes became {}", now.len());
                return Err(ExportError::SourceChanged { path: path.clone(), what });
            }
            if now.modified().ok() != *modified {
                let what = "it was written to".to_owned();
                return Err(ExportError::SourceChanged { path: path.clone(), what });
            }
        }
        Ok(())
    }
}
