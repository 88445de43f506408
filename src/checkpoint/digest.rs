//! BLAKE3 of files read and written, for provenance; `b3sum` checks it. SHA-256 takes a core half a second a gigabyte at
//! best: for input and output together longer than reading, joining and writing them.

use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::files;

/// A file and the digest of its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileDigest {
    /// Name of the file, without its folder.
    pub file: String,
    /// BLAKE3 (256 bits), hexadecimal, as `b3sum` prints it.
    pub blake3: String,
    /// Size.
    pub bytes: u64,
}

/// Bytes that are read and hashed at once: few enough to stay in a core's cache between the two.
const HASHED_AT_ONCE: usize = 1 << 18;

pub fn digest_file(path: &Path) -> Result<FileDigest, std::io::Error> {
    let mut file = files::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0_u8; HASHED_AT_ONCE];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(FileDigest::new(path, &hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

impl FileDigest {
    /// The digest of the file at `path`, all of which the hasher has seen.
    pub(crate) fn new(path: &Path, hasher: &blake3::Hasher) -> Self {
        Self::of(path, hasher.finalize(), hasher.count())
    }

    pub(super) fn of(path: &Path, hash: blake3::Hash, bytes: u64) -> Self {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { file, blake3: hash.to_hex().to_string(), bytes }
    }
}
