//! What a file must be before anything in it is parsed: torch.save's zip archive, nothing compressed, or its older
//! stream. What unpacks to more than the file holds is refused here, so that memory is bounded by the file's size.

use std::io::{BufReader, Read as _};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::CheckpointError;
use crate::files::{self, Identity};

/// The largest pickle inside an archive. One tensor takes some 150 bytes of it; parsed, it takes up to a hundred times
/// its size in memory.
const MAX_PICKLE_BYTES: u64 = 16 << 20;

/// Where a tar header has its magic number.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;

/// Looks at a file without reading what it stores.
pub(super) fn check(path: &Path) -> Result<Identity, CheckpointError> {
    let identity = Identity::of(path)?;
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
        return Ok(identity);
    }
    // What is no sound archive, the reader has words for.
    let Ok(mut archive) = ZipArchive::new(BufReader::new(files::open(path)?)) else { return Ok(identity) };
    for index in 0..archive.len() {
        let Ok(entry) = archive.by_index_raw(index) else { return Ok(identity) };
        let name = entry.name().map(std::borrow::Cow::into_owned).unwrap_or_default();
        if entry.compression() != CompressionMethod::Stored {
            return refused(format!("its entry `{name}` is compressed, which torch.save never does"));
        }
        if entry.size() > identity.bytes() {
            return refused(format!("its entry `{name}` claims {} bytes, more than the file has", entry.size()));
        }
        if name.ends_with("data.pkl") && entry.size() > MAX_PICKLE_BYTES {
            let size = entry.size();
            return refused(format!("its entry `{name}` has {size} bytes, expected at most {MAX_PICKLE_BYTES}"));
        }
    }
    Ok(identity)
}
