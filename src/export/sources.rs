//! The digests of the files that a merge reads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ExportError;
use crate::checkpoint::{FileDigest, digest_file};

/// The digest of every file, in the order given; stops early once `failed`. One after another, which leaves the cores to
/// those that merge: what they have read is in the page cache when its turn comes.
pub(super) fn hash(files: &[PathBuf], failed: &AtomicBool) -> Result<Vec<FileDigest>, ExportError> {
    let files = files.iter().take_while(|_| !failed.load(Ordering::Relaxed));
    files.map(|path| digest_file(path).map_err(|source| ExportError::Read { source })).collect()
}
