//! A range of a file as a file of its own.

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use fs_err::File;

pub(super) struct Window {
    file: File,
    range: Range<u64>,
    /// The next byte, counted from the start of the range.
    at: u64,
}

impl Window {
    pub(super) fn new(file: File, range: Range<u64>) -> Self {
        Self { file, range, at: 0 }
    }

    fn len(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.len().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let read = self.file.file().read_at(&mut buffer[..count], self.range.start.saturating_add(self.at))?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
        };
        self.at = place.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a place before the start"))?;
        Ok(self.at)
    }
}
