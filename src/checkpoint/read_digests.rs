//! Hashing files while they are read. BLAKE3 is a tree: pieces of a file can be hashed in any order, by any thread, while
//! they are in a core's cache; pieces that were not read by then are read at the end. The digest is that of the file, as
//! `b3sum` prints it, and its pieces are the bytes that were used.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::digest::{FileDigest, digest_file};
use crate::files;

/// Bytes of a piece: a subtree of BLAKE3 (a power of two), and few enough to stay in a core's cache.
pub(super) const PIECE_BYTES: usize = 1 << 18;

/// Files that are hashed while they are read.
#[derive(Debug)]
pub struct ReadDigests(HashMap<PathBuf, ReadDigest>);

/// The pieces of a file that have been hashed, by number.
#[derive(Debug, Default)]
pub(super) struct ReadDigest(Mutex<HashMap<u64, ChainingValue>>);

impl ReadDigests {
    pub fn new(files: &[PathBuf]) -> Self {
        Self(files.iter().map(|path| (path.clone(), ReadDigest::default())).collect())
    }

    pub(super) fn of(&self, path: &Path) -> Option<&ReadDigest> {
        self.0.get(path)
    }

    /// The digest of a file; reads what has not been read of it.
    pub fn finish(&self, path: &Path) -> Result<FileDigest, std::io::Error> {
        match self.of(path) {
            Some(digest) => digest.finish(path),
            None => digest_file(path),
        }
    }
}

impl ReadDigest {
    /// Hashes what was read at this place of the file, if it is a whole piece.
    pub(super) fn see(&self, at: u64, bytes: &[u8]) {
        if bytes.len() == PIECE_BYTES && at.is_multiple_of(PIECE_BYTES as u64) {
            let number = at / PIECE_BYTES as u64;
            // A tied head is the embedding, read again.
            if self.lock().contains_key(&number) {
                return;
            }
            // Hashed outside of the lock: others hash other pieces meanwhile.
            let value = chaining_value(number, bytes);
            self.lock().insert(number, value);
        }
    }

    fn finish(&self, path: &Path) -> Result<FileDigest, std::io::Error> {
        let file = files::open(path)?;
        let bytes = file.metadata()?.len();
        if bytes <= PIECE_BYTES as u64 {
            return digest_file(path);
        }
        let seen = std::mem::take(&mut *self.lock());
        let mut piece = vec![0; PIECE_BYTES];
        let values = (0..bytes.div_ceil(PIECE_BYTES as u64)).map(|number| {
            if let Some(value) = seen.get(&number) {
                return Ok(*value);
            }
            let start = number * PIECE_BYTES as u64;
            let count = usize::try_from(bytes - start).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            file.file().read_exact_at(&mut piece[..count], start)?;
            Ok(chaining_value(number, &piece[..count]))
        });
        let values = values.collect::<Result<Vec<_>, std::io::Error>>()?;
        let (left, right) = halves(&values);
        let hash = merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
        Ok(FileDigest::of(path, hash, bytes))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, ChainingValue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chaining_value(number: u64, piece: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(number * PIECE_BYTES as u64).update(piece).finalize_non_root()
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    if let [value] = values {
        return *value;
    }
    let (left, right) = halves(values);
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// The left part of a tree of at least two is the largest that is full and leaves something for the right.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn the_digest_is_the_files_whatever_was_read_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for pieces in [0, 1, 2, 3, 4, 5, 7, 8, 9] {
            for more in [0, 1, 1023, 1024, PIECE_BYTES - 1] {
                let bytes: Vec<u8> =
                    (0..pieces * PIECE_BYTES + more).map(|at| ((at * 7 + at / 255) % 251).to_le_bytes()[0]).collect();
                fs::write(&path, &bytes).unwrap();
                let whole = digest_file(&path).unwrap();
                for every in 1..3 {
                    let digests = ReadDigests::new(std::slice::from_ref(&path));
                    for (number, piece) in bytes.chunks(PIECE_BYTES).enumerate().step_by(every) {
                        digests.of(&path).unwrap().see((number * PIECE_BYTES) as u64, piece);
                    }
                    assert_eq!(digests.finish(&path).unwrap(), whole, "{pieces} pieces and {more}, every {every}");
                }
            }
        }
        assert_eq!(ReadDigests::new(&[]).finish(&path).unwrap(), digest_file(&path).unwrap());
    }

    #[test]
    fn it_is_what_was_read_that_is_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 3 * PIECE_BYTES]).unwrap();
        let digests = ReadDigests::new(std::slice::from_ref(&path));
        digests.of(&path).unwrap().see(PIECE_BYTES as u64, &vec![2; PIECE_BYTES]);
        // Neither of these is a piece.
        digests.of(&path).unwrap().see(1, &vec![2; PIECE_BYTES]);
        digests.of(&path).unwrap().see(0, &vec![2; PIECE_BYTES - 1]);
        let digest = digests.finish(&path).unwrap();
        let mut read = vec![1; 3 * PIECE_BYTES];
        read[PIECE_BYTES..2 * PIECE_BYTES].fill(2);
        fs::write(&path, read).unwrap();
        assert_eq!(digest, digest_file(&path).unwrap());
    }
}
