//! Files that are the same when they have been read as they were when they were opened: only then does what was read
//! belong together, and is what was hashed what was read.

use std::path::Path;

use super::CheckpointError;
use crate::files::FileStat;

/// Refuses a file that is no longer the one that was opened.
pub(super) fn check(path: &Path, opened: &FileStat) -> Result<(), CheckpointError> {
    match opened.change_to(&FileStat::of(path)?) {
        None => Ok(()),
        Some(what) => Err(CheckpointError::Changed { path: path.to_owned(), what }),
    }
}
