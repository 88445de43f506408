//! The cache names a file's bytes by their checksum (the Hub's `ETag`): SHA-256 of a file in large-file storage, and git's own
//! SHA-1 of any other.

use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::HubError;
use crate::files;

/// Bytes that are in memory at once: files of weights may be larger than it.
const READ_AT_ONCE: usize = 1 << 18;

/// Checks the bytes of a cached file against the checksum in its name. A file whose name is no checksum (a mirror's own
/// `ETag`, a cache without symbolic links) passes.
pub(super) fn check(path: &Path) -> Result<(), HubError> {
    let blob = path.canonicalize().map_err(|source| HubError::Read { path: path.to_owned(), source })?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let found = match name.len() {
        64 => digest::<Sha256>(&blob, |_| Sha256::new()),
        40 => digest::<Sha1>(&blob, |bytes| Sha1::new().chain_update(format!("blob {bytes}\0"))),
        _ => return Ok(()),
    };
    let found = found.map_err(|source| HubError::Read { path: blob.clone(), source })?;
    if found.eq_ignore_ascii_case(&name) {
        return Ok(());
    }
    Err(HubError::Checksum { path: blob, expected: name, found })
}

/// The digest of a file, of whose size the hasher may have to know.
fn digest<D: Digest>(path: &Path, hasher: impl FnOnce(u64) -> D) -> io::Result<String> {
    let mut file = files::open(path)?;
    let mut hasher = hasher(file.metadata()?.len());
    let mut buffer = vec![0_u8; READ_AT_ONCE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(files::hexadecimal(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
