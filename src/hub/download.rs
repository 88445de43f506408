//! Downloads, by the library that reads the cache too.
//!
//! The library goes on with what an earlier run has left of a file (`blobs/ETAG.part`), but not well in some cases, so that
//! a download is prepared and repeated here: its own retries begin at byte 0, behind what is there already, when a connection
//! fails before it has brought anything; a file that arrived whole but was not renamed is asked for beyond its end, which
//! servers refuse; one with too many bytes stays in the way for ever; and bytes that are in the cache already, under another
//! commit or since another process fetched them, are fetched again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::{Cache, CacheRepo};

use super::checksum;
use super::error::HubError;
use super::fetch::{Progress, repo};
use super::file::{HubFile, RepoKind};
use super::model::Listing;
use super::settings::Hub;

/// Connections that break off without having brought anything are taken up again this often.
const RETRIES: u32 = 3;

/// The pause before the first of them; it doubles from one to the next.
const PAUSE: Duration = Duration::from_millis(250);

/// How often another program's download of the same file is waited for; the library waits 5 seconds each time.
const WAITS: usize = 120;

impl Hub {
    /// The files of a model's repository.
    pub(super) fn list(&self, model: &HubFile) -> Result<Listing, HubError> {
        let info = self.api().and_then(|api| api.repo(repo(RepoKind::Model, model)).info());
        let info = info.map_err(|error| self.failed(model, &error))?;
        Ok(Listing { commit: info.sha, files: info.siblings.into_iter().map(|file| file.rfilename).collect() })
    }

    pub(super) fn download(
        &self,
        kind: RepoKind,
        file: &HubFile,
        progress: &mut dyn Progress,
    ) -> Result<PathBuf, HubError> {
        let failed = |error: &ApiError| self.failed(file, error);
        let api = self.api().map_err(|error| failed(&error))?;
        let remote = api.repo(repo(kind, file));
        let cached = Cache::new(self.cache.clone()).repo(repo(kind, file));
        let (mut waits, mut failures, mut arrived) = (0, 0, 0);
        let (path, size) = loop {
            let attempt = api.metadata(&remote.url(&file.file)).and_then(|metadata| {
                let (blob, size) = (cached.blob_path(metadata.etag()), metadata.size() as u64);
                let _alone = self.alone_with(&repo(kind, file).folder_name(), metadata.etag())?;
                let before = prepare(&blob, size)?;
                if before > arrived {
                    (arrived, failures) = (before, 0);
                }
                if blob.is_file() {
                    return Ok((link(&cached, &metadata, &file.file)?, size));
                }
                remote.download_with_progress(&file.file, Watched(progress)).map(|path| (path, size))
            });
            match attempt {
                Ok(found) => break found,
                Err(ApiError::LockAcquisition(_)) if waits < WAITS => waits += 1,
                Err(error) if failures < RETRIES && may_pass(&error) => {
                    tracing::debug!("{file}: {error}; trying again");
                    sleep(PAUSE * 2_u32.pow(failures));
                    failures += 1;
                }
                Err(error) => return Err(failed(&error)),
            }
        };
        let complete = self.check_size(file, &path, size).and_then(|()| checksum::check(&path));
        if let Err(error) = complete {
            // Removed, so that the next run does not find them in the cache.
            for path in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
        Ok(path)
    }

    /// Waits until no other process fetches a file, and keeps others from it for as long as the result lives. The library
    /// releases its own lock before the file has its name. The place is that of Python's `huggingface_hub`.
    fn alone_with(&self, folder: &str, etag: &str) -> std::io::Result<fs::File> {
        let locks = self.cache.join(".locks").join(folder);
        fs::create_dir_all(&locks)?;
        lock(&locks.join(format!("{etag}.lock")))
    }

    fn api(&self) -> Result<Api, ApiError> {
        ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_user_agent("kintsugi", env!("CARGO_PKG_VERSION"))
            .build()
    }

    /// A server that ignores where a download is to go on would be found out by the checksum; not every `ETag` is one.
    fn check_size(&self, file: &HubFile, path: &Path, expected: u64) -> Result<(), HubError> {
        let found = fs::metadata(path).map_err(|source| HubError::Read { path: path.to_owned(), source })?.len();
        if found == expected {
            return Ok(());
        }
        let (file, endpoint) = (file.clone(), self.endpoint.clone());
        Err(HubError::Download { file, endpoint, message: format!("{found} bytes arrived, expected {expected}") })
    }

    fn failed(&self, file: &HubFile, error: &ApiError) -> HubError {
        let (file, endpoint) = (file.clone(), self.endpoint.clone());
        match status(error) {
            Some(404) => HubError::NotThere { file, endpoint },
            Some(401 | 403) => HubError::Refused { file, endpoint, with_token: self.token.is_some() },
            _ => HubError::Download { file, endpoint, message: error.to_string() },
        }
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the same request may succeed a moment later.
fn may_pass(error: &ApiError) -> bool {
    let broken_off = |error: &std::io::Error| {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Other, TimedOut, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | TimedOut | Other)
    };
    match error {
        // Another program has just given the same bytes their name.
        ApiError::IoError(error) => broken_off(error) || error.kind() == ErrorKind::AlreadyExists,
        ApiError::RequestError(error) => match &**error {
            ureq::Error::StatusCode(status) => matches!(status, 408 | 429 | 500..),
            ureq::Error::Io(error) => broken_off(error),
            ureq::Error::Timeout(_) => true,
            _ => false,
        },
        _ => false,
    }
}

fn lock(path: &Path) -> std::io::Result<fs::File> {
    let lock = fs::File::create(path)?;
    if lock.file().try_lock().is_err() {
        tracing::info!("waiting for another process, which is downloading the same file");
        lock.file().lock()?;
    }
    Ok(lock)
}

/// Returns the bytes that have arrived of a file of this size, in a state with which the library goes on.
fn prepare(blob: &Path, size: u64) -> std::io::Result<u64> {
    if let Some(folder) = blob.parent() {
        fs::create_dir_all(folder)?;
    }
    // The library's, which other programs hold while they append to the file.
    let _lock = lock(&blob.with_extension("lock"))?;
    let part = blob.with_extension("part");
    let Ok(found) = fs::metadata(&part).map(|metadata| metadata.len()) else { return Ok(0) };
    if found < size {
        return Ok(found);
    }
    // The last byte of a whole file is fetched again; more bytes than the file has are others.
    let kept = if found == size { size.saturating_sub(1) } else { 0 };
    fs::OpenOptions::new().write(true).open(&part)?.set_len(kept)?;
    Ok(kept)
}

/// Gives bytes that are in the cache the name that they have at a commit.
fn link(cached: &CacheRepo, metadata: &Metadata, file: &str) -> std::io::Result<PathBuf> {
    let path = cached.pointer_path(metadata.commit_hash()).join(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // From `snapshots/COMMIT/FILE` to `blobs/ETAG`.
    let up = "../".repeat(1 + Path::new(file).components().count());
    match symlink(format!("{up}blobs/{}", metadata.etag()), &path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => cached.create_ref(metadata.commit_hash())?,
    }
    Ok(path)
}

/// Forwards the library's progress to ours.
struct Watched<'a>(&'a mut dyn Progress);

impl hf_hub::api::Progress for Watched<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.0.start(size as u64);
    }

    fn update(&mut self, size: usize) {
        self.0.advance(size as u64);
    }

    fn finish(&mut self) {}
}
