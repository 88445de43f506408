//! Reading input files: never a pipe that blocks, a device that has no end, or more bytes than a file of its kind can
//! sensibly have.

use std::fs::{FileType, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

/// Why a file is not read. Travels inside an [`io::Error`], where [`hint`] finds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FileError {
    #[error("{path}: no such file", path = path.display())]
    Missing { path: PathBuf },
    #[error("{path}: expected a file, found {found}", path = path.display())]
    NotAFile { path: PathBuf, found: &'static str },
    #[error("{path}: larger than {limit_bytes} bytes, the most that is read of such a file", path = path.display())]
    TooLarge { path: PathBuf, limit_bytes: u64 },
    #[error("{path}: expected text in UTF-8, found other bytes at {byte}", path = path.display())]
    NotText { path: PathBuf, byte: usize },
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        let kind = match error {
            FileError::Missing { .. } => ErrorKind::NotFound,
            FileError::NotAFile { found: "a directory", .. } => ErrorKind::IsADirectory,
            FileError::TooLarge { .. } => ErrorKind::FileTooLarge,
            FileError::NotAFile { .. } | FileError::NotText { .. } => ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The remedy for a file that cannot be read or written, where one is known.
pub fn hint(error: &io::Error) -> Option<String> {
    let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<FileError>());
    let text = match (ours, error.kind()) {
        (Some(FileError::Missing { path }), _) if path.is_relative() => {
            "is the path right? It starts from the working directory"
        }
        (Some(FileError::Missing { .. }), _) => "is the path right?",
        (Some(FileError::NotAFile { found: "a directory", .. }), _) => "give the file itself",
        (Some(FileError::NotAFile { .. }), _) => "inputs are read more than once: write it to a file first",
        (Some(FileError::TooLarge { .. } | FileError::NotText { .. }), _) => "is this the file that you meant?",
        (None, ErrorKind::PermissionDenied) => "the permissions of the file or of a folder above it do not allow this",
        (None, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => "the disk is full: make room or choose another",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Refuses whatever is not a regular file (or a link to one): opening a pipe may wait for ever, reading a device may
/// never end.
pub fn check_regular(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => FileError::Missing { path: path.to_owned() }.into(),
        _ => error,
    })?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    Err(FileError::NotAFile { path: path.to_owned(), found: kind_of(metadata.file_type()) }.into())
}

pub fn open(path: &Path) -> io::Result<fs::File> {
    check_regular(path)?;
    fs::File::open(path)
}

/// Reads a regular file of at most `limit_bytes`.
pub fn read(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(FileError::TooLarge { path: path.to_owned(), limit_bytes }.into());
    }
    Ok(bytes)
}

/// Reads a regular file of at most `limit_bytes` as text.
pub fn read_to_string(path: &Path, limit_bytes: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit_bytes)?)
        .map_err(|error| FileError::NotText { path: path.to_owned(), byte: error.utf8_error().valid_up_to() }.into())
}

fn kind_of(file_type: FileType) -> &'static str {
    match file_type {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

/// Inode, size and time of the last change of a file. A file that was replaced or written to differs in at least one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStat {
    place: (u64, u64),
    bytes: u64,
    modified: Option<SystemTime>,
}

impl FileStat {
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = check_regular(path)?;
        let place = (metadata.dev(), metadata.ino());
        Ok(Self { place, bytes: metadata.len(), modified: metadata.modified().ok() })
    }

    /// The change between this state of the file and a later one; `None` where there is none.
    pub(crate) fn change_to(&self, later: &Self) -> Option<String> {
        if self.bytes != later.bytes {
            Some(format!("{} bytes became {}", self.bytes, later.bytes))
        } else if self.place != later.place {
            Some("another file has its name".to_owned())
        } else if self.modified != later.modified {
            Some("it was written to".to_owned())
        } else {
            None
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its number on its file system.
    pub fn inode(&self) -> u64 {
        self.place.1
    }

    /// Time of the last change, in nanoseconds since 1970; 0 where the system has none.
    pub fn modified_nanoseconds(&self) -> i64 {
        let nanoseconds = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        self.modified.map_or(0, |modified| match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => nanoseconds(after),
            Err(before) => -nanoseconds(before.duration()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn size_and_text_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(read_to_string(&path, 4).unwrap(), "four");
        let error = read(&path, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert!(hint(&error).is_some() && error.to_string().contains("larger than 3 bytes"), "{error}");
        fs::write(&path, b"ab\xff").unwrap();
        assert!(read_to_string(&path, 9).unwrap_err().to_string().ends_with("found other bytes at 2"));
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_called_by_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, found) in
            [(folder.path(), "a directory"), (Path::new("/dev/zero"), "a device"), (&socket, "a socket")]
        {
            let error = open(path).unwrap_err();
            assert_eq!(error.to_string(), format!("{}: expected a file, found {found}", path.display()));
            assert!(hint(&error).is_some());
        }
        let link = folder.path().join("loop");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(open(&link).unwrap_err().to_string().contains("loop"));
    }

    #[test]
    fn a_file_is_no_longer_the_same_once_written_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&path, "one").unwrap();
        let before = FileStat::of(&path).unwrap();
        assert_eq!(FileStat::of(&path).unwrap(), before);
        // Another file of the same size under its name.
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(FileStat::of(&path).unwrap(), before);
        let before = FileStat::of(&path).unwrap();
        fs::write(&path, "longer").unwrap();
        assert_ne!(FileStat::of(&path).unwrap(), before);
    }
}
