//! Tensors whose elements lie one behind another in the file.

use std::collections::HashMap;
use std::io;

use fs_err::File;
use fs_err::os::unix::fs::FileExt as _;

use super::archive::Entry;
use super::place::Place;
use crate::checkpoint::read_digests::{PIECE_BYTES, ReadDigest};
use crate::tensor::first_non_finite;

/// Tensors that are one run of the file each.
pub(super) struct Runs {
    pub file: File,
    pub places: HashMap<String, Run>,
}

pub(super) struct Run {
    pub start: u64,
    pub place: Place,
    pub fills_storage: bool,
    /// Of exactly these bytes, where the file has one.
    pub crc32: Option<u32>,
}

impl Run {
    /// A place as a run of the file; `None` where it reaches beyond its storage.
    pub(super) fn of(entry: Entry, place: Place) -> Option<Self> {
        let size = place.dtype.size() as u64;
        let count = place.shape.iter().try_fold(1, |count: u64, &extent| count.checked_mul(extent as u64))?;
        let (first, bytes) = (place.first.checked_mul(size)?, count.checked_mul(size)?);
        let start = entry.start.checked_add(first)?;
        let inside = bytes > 0 && first.checked_add(bytes)? <= entry.bytes;
        let fills_storage = bytes == entry.bytes;
        let crc32 = Some(entry.crc32).filter(|&crc32| crc32 != 0 && fills_storage);
        inside.then_some(Self { start, place, fills_storage, crc32 })
    }
}

/// Reads a run once, piece by piece, from its first byte to its last. Each piece is hashed, compared with the file's checksum
/// and searched for NaN while it is in the core's cache.
pub(super) struct RunReader<'a> {
    file: &'a File,
    run: &'a Run,
    digest: Option<&'a ReadDigest>,
    at: u64,
    crc32: crc32fast::Hasher,
    non_finite: Option<usize>,
}

/// What was seen of a run that has been read whole.
pub(super) struct Seen {
    /// Index of the first NaN or infinity.
    pub non_finite: Option<usize>,
    pub fits_checksum: bool,
}

impl<'a> RunReader<'a> {
    pub(super) fn new(file: &'a File, run: &'a Run, digest: Option<&'a ReadDigest>) -> Self {
        Self { file, run, digest, at: run.start, crc32: crc32fast::Hasher::new(), non_finite: None }
    }

    /// Bytes of the next piece, if it ended with a piece of the file.
    pub(super) fn next_bytes(&self) -> usize {
        // Pieces begin with an element: an item of a distributed checkpoint may begin anywhere in its file.
        let first_piece = self.run.start % self.run.place.dtype.size() as u64;
        PIECE_BYTES - usize::try_from((self.at - first_piece) % PIECE_BYTES as u64).unwrap_or(0)
    }

    pub(super) fn read(&mut self, piece: &mut [u8]) -> io::Result<()> {
        let dtype = self.run.place.dtype;
        self.file.read_exact_at(piece, self.at)?;
        if let Some(digest) = self.digest {
            digest.see(self.at, piece);
        }
        if self.run.crc32.is_some() {
            self.crc32.update(piece);
        }
        if self.non_finite.is_none() {
            let before = usize::try_from(self.at - self.run.start).unwrap_or(usize::MAX) / dtype.size();
            self.non_finite = first_non_finite(dtype, piece).map(|index| before + index);
        }
        self.at += piece.len() as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Seen {
        let found = self.crc32.finalize();
        Seen { non_finite: self.non_finite, fits_checksum: self.run.crc32.is_none_or(|expected| expected == found) }
    }
}
