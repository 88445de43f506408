//! A file by its name: from the cache, else downloaded.

use std::path::PathBuf;

use hf_hub::Cache;

use super::checksum;
use super::error::HubError;
use super::file::{HubFile, RepoKind};
use super::settings::Hub;

/// A file that was found, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it lies on this machine.
    pub path: PathBuf,
    pub downloaded: bool,
}

impl Found {
    /// Under what name it was found, and where.
    pub fn described(&self, name: &str) -> String {
        let source = if self.downloaded { "downloaded" } else { "from the Hugging Face cache" };
        format!("{name}, {source}")
    }
}

/// Receives the progress of a download.
pub trait Progress {
    /// The download of so many bytes in all begins, or continues after an interruption.
    fn start(&mut self, bytes: u64);
    /// So many more bytes have arrived.
    fn advance(&mut self, bytes: u64);
}

impl Progress for () {
    fn start(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

impl HubFile {
    /// Refuses a name that cannot be on the Hub, or would leave the cache's folder.
    ///
    /// # Errors
    /// [`HubError::InvalidName`].
    pub fn check(&self) -> Result<(), HubError> {
        match self.misnamed() {
            None => Ok(()),
            Some((what, name)) => Err(HubError::InvalidName { what, name: name.to_owned() }),
        }
    }
}

impl Hub {
    /// The file: from the cache where it is there, else downloaded into the cache. Its bytes are those that the Hub's
    /// checksum is of.
    ///
    /// # Errors
    /// A name that cannot be, a file that is not there or may not be read, no connection, bytes that are not those of the
    /// checksum, and a file that is not in the cache where nothing may be downloaded.
    pub fn fetch(&self, kind: RepoKind, file: &HubFile, progress: &mut dyn Progress) -> Result<Found, HubError> {
        file.check()?;
        if let Some(path) = self.cached(kind, file) {
            checksum::check(&path)?;
            return Ok(Found { path, downloaded: false });
        }
        if self.offline {
            return Err(HubError::Offline { file: file.clone(), cache: self.cache.clone() });
        }
        self.download(kind, file, progress).map(|path| Found { path, downloaded: true })
    }

    /// The file's place in the cache, if it is there.
    pub(super) fn cached(&self, kind: RepoKind, file: &HubFile) -> Option<PathBuf> {
        let repo = Cache::new(self.cache.clone()).repo(repo(kind, file));
        // A commit is its own reference.
        let is_commit = file.revision.len() == 40 && file.revision.bytes().all(|byte| byte.is_ascii_hexdigit());
        let of_commit = is_commit.then(|| repo.pointer_path(&file.revision).join(&file.file));
        of_commit.filter(|path| path.exists()).or_else(|| repo.get(&file.file))
    }

    #[cfg(not(feature = "hub"))]
    fn download(&self, _: RepoKind, file: &HubFile, _: &mut dyn Progress) -> Result<PathBuf, HubError> {
        Err(HubError::BuiltWithout { file: file.clone(), cache: self.cache.clone() })
    }
}

/// The repository as the library takes it.
pub(super) fn repo(kind: RepoKind, file: &HubFile) -> hf_hub::Repo {
    let kind = match kind {
        RepoKind::Model => hf_hub::RepoType::Model,
        RepoKind::Dataset => hf_hub::RepoType::Dataset,
    };
    hf_hub::Repo::with_revision(file.repo.clone(), kind, file.revision.clone())
}
