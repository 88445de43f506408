//! Checks before anything in a file is parsed: torch.save's zip archive, nothing compressed, or its older stream. Entries
//! that would unpack to more than the file holds are refused, so that memory is bounded by the file's size.

use std::collections::HashMap;
use std::io::{BufReader, Read as _};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use crate::checkpoint::error::CheckpointError;
use crate::files::{self, FileStat};

/// The largest pickle inside an archive. One tensor takes some 150 bytes of it; parsed, it takes up to a hundred times
/// its size in memory.
pub(super) const MAX_PICKLE_BYTES: u64 = 16 << 20;

const TAR_MAGIC: std::ops::Range<usize> = 257..262;

/// The pickle of an archive, after whatever folder it is in.
const PICKLE: &str = "data.pkl";

/// The entries of an archive by name, if it is one.
#[derive(Debug, Default)]
pub(super) struct Entries(HashMap<String, Entry>);

/// An entry that is stored as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Where its bytes begin in the file.
    pub start: u64,
    pub bytes: u64,
    /// 0 where none was computed.
    pub crc32: u32,
}

impl Entries {
    /// The pickle, and the folder that the storages lie in. As pytorch-reader chooses: the shortest name.
    pub(super) fn pickle(&self) -> Option<(Entry, String)> {
        let folder = |name: &str| name.strip_suffix(PICKLE).map(str::to_owned);
        let folders = self.0.iter().filter_map(|(name, &entry)| Some((entry, folder(name)?)));
        let folders = folders.filter(|(_, folder)| folder.is_empty() || folder.ends_with('/'));
        folders.min_by_key(|(_, folder)| folder.len()).map(|(entry, folder)| (entry, format!("{folder}data/")))
    }

    pub(super) fn get(&self, name: &str) -> Option<Entry> {
        self.0.get(name).copied()
    }
}

pub(super) fn check(path: &Path) -> Result<(FileStat, Entries), CheckpointError> {
    let identity = FileStat::of(path)?;
    let refused = |reason: String| Err(CheckpointError::Archive { path: path.to_owned(), reason });
    if identity.bytes() == 0 {
        return refused("the file is empty".to_owned());
    }
    let mut head = Vec::new();
    files::open(path)?.take(TAR_MAGIC.end as u64).read_to_end(&mut head)?;
    if head.get(TAR_MAGIC) == Some(b"ustar") {
        return refused("it is a tar archive, which torch.save has not written since 2017".to_owned());
    }
    if !head.starts_with(b"PK") {
        return Ok((identity, Entries::default()));
    }
    // The reader reports an unsound archive.
    let unsound = Ok((identity, Entries::default()));
    let Ok(mut archive) = ZipArchive::new(BufReader::new(files::open(path)?)) else { return unsound };
    let mut entries = HashMap::new();
    for index in 0..archive.len() {
        let Ok(entry) = archive.by_index_raw(index) else { return unsound };
        let name = entry.name().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let bytes = entry.size();
        if entry.compression() != CompressionMethod::Stored {
            return refused(format!("its entry `{name}` is compressed, which torch.save never does"));
        }
        if bytes > identity.bytes() {
            return refused(format!("its entry `{name}` claims {bytes} bytes, more than the file has"));
        }
        if name.ends_with(PICKLE) && bytes > MAX_PICKLE_BYTES {
            return refused(format!("its entry `{name}` has {bytes} bytes, expected at most {MAX_PICKLE_BYTES}"));
        }
        let end = |start: u64| start.checked_add(bytes).filter(|&end| end <= identity.bytes());
        if let Some(start) =
            entry.data_start().filter(|&start| end(start).is_some() && entry.compressed_size() == bytes)
        {
            entries.insert(name, Entry { start, bytes, crc32: entry.crc32() });
        }
    }
    // Which of several entries with one name counts is the reader's choice.
    if entries.len() != archive.len() {
        return unsound;
    }
    Ok((identity, Entries(entries)))
}
