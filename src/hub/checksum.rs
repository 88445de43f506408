//! The cache names a file's bytes by their checksum (the Hub's `ETag`): SHA-256 of a file in large-file storage, and git's own
//! SHA-1 of any other.

use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::error::HubError;
use crate::files;

/// The largest file that is checked; tokenizers and data sets of passages have megabytes.
const MAX_BYTES: u64 = 4 << 30;

/// Checks the bytes of a cached file against the checksum in its name. A file whose name is no checksum (a mirror's own
/// `ETag`, a cache without symbolic links) passes.
pub(super) fn check(path: &Path) -> Result<(), HubError> {
    let blob = path.canonicalize().map_err(|source| HubError::Read { path: path.to_owned(), source })?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let bytes = || files::read(&blob, MAX_BYTES).map_err(|source| HubError::Read { path: blob.clone(), source });
    let found = match name.len() {
        64 => files::hexadecimal(&Sha256::digest(bytes()?)),
        40 => {
            let bytes = bytes()?;
            let header = format!("blob {}\0", bytes.len());
            files::hexadecimal(&Sha1::new().chain_update(header).chain_update(bytes).finalize())
        }
        _ => return Ok(()),
    };
    if found.eq_ignore_ascii_case(&name) {
        return Ok(());
    }
    Err(HubError::Checksum { path: blob, expected: name, found })
}
