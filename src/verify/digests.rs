//! Lists of files by name, size and digest.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use crate::checkpoint::{FileDigest, digest_file};
use crate::files::check_regular;
use crate::report;

/// The differences between two lists of files, whatever their order, a sentence each.
pub(super) fn differences<'a>(
    found: impl IntoIterator<Item = &'a FileDigest>,
    certified: &'a [report::FileDigest],
) -> Vec<String> {
    let found: BTreeMap<_, _> = found.into_iter().map(|file| (&file.file, (&file.blake3, file.bytes))).collect();
    let certified: BTreeMap<_, _> = certified.iter().map(|file| (&file.file, (&file.blake3, file.bytes))).collect();
    let mut wrong = Vec::new();
    for (name, expected) in &certified {
        match found.get(name) {
            None => wrong.push(format!("{name} is missing")),
            Some(other) if other.0 != expected.0 || other.1 != expected.1 => {
                wrong.push(format!("{name} is another file: BLAKE3 {}, certified {}", other.0, expected.0));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|name| !certified.contains_key(**name));
    wrong.extend(more.map(|name| format!("{name} is not in the certificate")));
    wrong
}

/// What is wrong with a file below `folder`: `None` if it is this one.
///
/// # Errors
/// It cannot be read.
pub(super) fn difference(folder: &Path, expected: &FileDigest) -> io::Result<Option<String>> {
    let FileDigest { file, blake3, bytes } = expected;
    let relative = Path::new(file);
    if relative.file_name().is_none() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(Some(format!("`{file}` is no file below the directory")));
    }
    let path = folder.join(relative);
    let size = match check_regular(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(format!("{file} is missing"))),
        Err(error) => return Err(error),
    };
    if size != *bytes {
        return Ok(Some(format!("{file} has {size} bytes, written were {bytes}")));
    }
    let found = digest_file(&path)?;
    Ok((found.blake3 != *blake3).then(|| format!("{file} was changed: BLAKE3 {}, written was {blake3}", found.blake3)))
}
