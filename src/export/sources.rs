//! The files that a merge reads: their digests, and whether they are at the end what they were at the beginning.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use fs_err as fs;

use super::ExportError;
use crate::checkpoint::{Checkpoint, FileDigest, sha256_file};

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

    /// The digest of every file, in the order of the stages; stops early once `failed`.
    pub(super) fn hash(&self, failed: &AtomicBool) -> Result<Vec<FileDigest>, ExportError> {
        let mut digests = Vec::with_capacity(self.0.len());
        for source in self.0.iter().take_while(|_| !failed.load(Ordering::Relaxed)) {
            digests.push(sha256_file(&source.path).map_err(|source| ExportError::Read { source })?);
        }
        Ok(digests)
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
