//! Where the journals of a run and of its run shards are.

use std::path::{Path, PathBuf};

use super::error::RunError;
use super::journal::read_journal;
use super::records::{Record, Records};
#[cfg(feature = "libtorch")]
use crate::report::RunShard;

/// The journal of a comparison or of one model's evaluation.
pub(super) const JOURNAL: &str = "journal.jsonl";
#[cfg(feature = "libtorch")]
pub(super) const EXPLANATION_JOURNAL: &str = "explanation-journal.jsonl";

#[cfg(feature = "libtorch")]
pub(super) fn journal_folder(output_dir: &Path, shard: Option<RunShard>) -> PathBuf {
    match shard {
        None => output_dir.to_owned(),
        Some(RunShard { index, count }) => output_dir.join("shards").join(format!("{index}-of-{count}")),
    }
}

/// The journals of a folder's run shards, else its own. A file is taken as it is.
pub(super) fn journals_in(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut below: Vec<_> = [path.to_owned(), path.join("shards")]
        .iter()
        .filter_map(|folder| fs_err::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join(JOURNAL)).filter(|journal| journal.is_file()))
        .collect();
    below.sort();
    if below.is_empty() { vec![path.join(JOURNAL)] } else { below }
}

/// Reads a journal; a record at its end that was not finished is dropped.
pub(super) fn read_records(path: &Path) -> Result<Records, RunError> {
    let contents = read_journal::<Record>(path)?;
    if contents.torn {
        tracing::warn!("{}: the last record was not finished and is ignored", path.display());
    }
    Records::read(path, contents.records)
}
