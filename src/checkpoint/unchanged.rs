//! Files that must not change between being opened and being read or hashed.

use std::path::Path;

use super::error::CheckpointError;
use crate::files::FileStat;

/// Refuses a file that changed after it was opened.
pub(super) fn check(path: &Path, opened: &FileStat) -> Result<(), CheckpointError> {
    match opened.change_to(&FileStat::of(path)?) {
        None => Ok(()),
        Some(what) => Err(CheckpointError::Changed { path: path.to_owned(), what }),
    }
}
