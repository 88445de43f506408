//! The journal of a run: a file that only grows, one JSON object a line, each with a checksum, on the disk before the next
//! is begun. What a killed run has written is read back; a record that it did not finish is dropped.
//!
//! A line is `{"blake3":"…","record":…}`: the first 16 digits of the BLAKE3 of the digits before (none before the first
//! line) and of the record's bytes. So a record that is changed, missing, doubled or out of place is noticed.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::RunError;
use crate::files;

const BEFORE_SUM: &str = "{\"blake3\":\"";
const AFTER_SUM: &str = "\",\"record\":";
const SUM_DIGITS: usize = 16;

/// A journal that is being written; no other process writes to it meanwhile.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    length: u64,
    sum: String,
}

#[derive(Debug)]
pub struct Contents<T> {
    pub records: Vec<T>,
    /// Whether a record after them was not finished.
    pub torn: bool,
}

impl Journal {
    /// Opens a journal, or makes an empty one, and reads what it holds. The rest of a torn record is cut off.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Self, Contents<T>), RunError> {
        let mut journal = Self::lock(path)?;
        let mut bytes = Vec::new();
        journal.file.read_to_end(&mut bytes).map_err(journal.failed())?;
        let (contents, length, sum) = parse(path, &bytes)?;
        (journal.length, journal.sum) = (length, sum);
        if contents.torn {
            journal.cut_off_rest().map_err(journal.failed())?;
        }
        Ok((journal, contents))
    }

    /// Opens a journal, or makes one, and discards what it holds.
    pub fn restart(path: &Path) -> Result<Self, RunError> {
        let mut journal = Self::lock(path)?;
        journal.clear()?;
        Ok(journal)
    }

    pub fn clear(&mut self) -> Result<(), RunError> {
        (self.length, self.sum) = (0, String::new());
        self.cut_off_rest().map_err(self.failed())
    }

    /// Adds a record, and returns when the disk has it.
    pub fn append<T: Serialize>(&mut self, record: &T) -> Result<(), RunError> {
        let record = serde_json::to_string(record).map_err(|error| self.failed()(error.into()))?;
        let sum = checksum(&self.sum, record.as_bytes());
        let line = format!("{BEFORE_SUM}{sum}{AFTER_SUM}{record}}}\n");
        if let Err(error) = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data()) {
            // A reader drops the rest of a record in any case; where it can be removed, nobody needs to.
            let _ = self.cut_off_rest();
            return Err(self.failed()(error));
        }
        (self.length, self.sum) = (self.length + line.len() as u64, sum);
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(path: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::JournalWrite { path: path.to_owned(), source };
        let file = File::options().read(true).append(true).create(true).open(path).map_err(failed)?;
        // Opened for writing as well, a pipe does not block here; reading it would.
        files::check_regular(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunError::JournalInUse { path: path.to_owned() }),
            // File systems without locks have nobody to tell of another run.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The name of a new file is on the disk once its folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, length: 0, sum: String::new() })
    }

    fn cut_off_rest(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::End(0))?;
        self.file.sync_data()
    }

    fn failed(&self) -> impl Fn(io::Error) -> RunError + use<> {
        let path = self.path.clone();
        move |source| RunError::JournalWrite { path: path.clone(), source }
    }
}

/// Reads a journal that nobody needs to write to.
pub fn read_journal<T: DeserializeOwned>(path: &Path) -> Result<Contents<T>, RunError> {
    let mut bytes = Vec::new();
    files::open(path)?.read_to_end(&mut bytes)?;
    Ok(parse(path, &bytes)?.0)
}

/// The records, how many bytes they take, and the last one's checksum.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Contents<T>, u64, String), RunError> {
    let (mut records, mut length, mut sum) = (Vec::new(), 0, String::new());
    let lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    for (at, line) in lines.iter().enumerate() {
        let damaged = |reason: String| RunError::JournalDamaged { path: path.to_owned(), record: at + 1, reason };
        match record_of(line, &sum) {
            Ok((found, record)) => {
                let foreign = |error: serde_json::Error| RunError::JournalForm {
                    path: path.to_owned(),
                    reason: format!("record {}: {error}", at + 1),
                };
                records.push(serde_json::from_slice(record).map_err(foreign)?);
                length += line.len() as u64;
                found.clone_into(&mut sum);
            }
            // Killed, or out of power, while it was being written: blocks reach the disk in any order.
            Err(_) if at + 1 == lines.len() => return Ok((Contents { records, torn: true }, length, sum)),
            Err(reason) => return Err(damaged(reason.to_owned())),
        }
    }
    Ok((Contents { records, torn: false }, length, sum))
}

/// Checksum and record of a line that follows the checksum `before`.
fn record_of<'a>(line: &'a [u8], before: &str) -> Result<(&'a str, &'a [u8]), &'static str> {
    let rest = line.strip_suffix(b"}\n").ok_or("it does not end as a record does")?;
    let rest = rest.strip_prefix(BEFORE_SUM.as_bytes()).ok_or("it does not begin as a record does")?;
    let (sum, rest) = rest.split_at_checked(SUM_DIGITS).ok_or("it has no checksum")?;
    let sum = std::str::from_utf8(sum).map_err(|_| "it has no checksum")?;
    let record = rest.strip_prefix(AFTER_SUM.as_bytes()).ok_or("it has no checksum")?;
    if checksum(before, record) == sum { Ok((sum, record)) } else { Err("its checksum is not that of its contents") }
}

fn checksum(before: &str, record: &[u8]) -> String {
    let digest = blake3::Hasher::new().update(before.as_bytes()).update(record).finalize();
    digest.to_hex()[..SUM_DIGITS].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
