//! Output files that appear whole or not at all: written under a temporary name beside the target, synced, renamed; and
//! input files that are regular, of bounded size, and checked for changes. Every reader and writer of the crate uses
//! these functions.

mod input;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

pub use input::{FileError, FileStat, check_regular, hint, open, read, read_to_string};

/// The digits of a digest.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// A file in the folder of `path`, for whose renaming no bytes need to move. It is gone unless it is [`publish`]ed.
pub fn temporary_sibling(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kintsugi-");
    // Temporary files are private by default; this one becomes an ordinary file, whose mode the umask decides.
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Waits until the disk has a complete file and gives it its name, replacing a file of that name.
pub fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Bytes that may still be written where this path is, or would be once its folders are made; `None` if unknown.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(&nearest(path).ok()?).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

/// Whether files can be made in this folder, or in the one that it would be made in. Nothing stays behind.
pub fn probe(folder: &Path) -> io::Result<()> {
    temporary_sibling(&nearest(folder)?.join("probe")).map(drop)
}

/// The path itself, or the nearest folder above it that is there.
fn nearest(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let there = absolute.ancestors().find(|folder| folder.exists());
    there.map(Path::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
}

pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary_sibling(path)?;
    file.write_all(bytes)?;
    publish(file, path)
}
