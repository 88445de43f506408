//! Files of the Hugging Face Hub by name: from its cache on this machine, else by download. The environment is the one that
//! `huggingface_hub` reads (`HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`), and so is the cache, so
//! that what Python has fetched is not fetched again. Here too: where a checkpoint's tokenizer lies.

mod checksum;
#[cfg(feature = "hub")]
mod download;
mod error;
mod settings;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::fmt;
use std::path::{Component, Path, PathBuf};

use hf_hub::Cache;
use serde::{Deserialize, Serialize};

pub use error::HubError;
pub use settings::Hub;
pub use tokenizer::{TokenizerPlace, TokenizerRequest};

/// The kind of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoKind {
    /// Weights and tokenizers.
    Model,
    /// Data.
    Dataset,
}

/// A file in a repository of the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// The repository: `OWNER/NAME`, or `NAME` alone.
    pub repo: String,
    /// Branch, tag or commit.
    #[serde(default = "main_branch")]
    pub revision: String,
    /// Path of the file in the repository.
    pub file: String,
}

/// A file that was found, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it lies on this machine.
    pub path: PathBuf,
    /// Whether it had to be downloaded.
    pub downloaded: bool,
}

impl Found {
    /// Under what name it was found, and where.
    #[must_use]
    pub fn described(&self, name: &str) -> String {
        let source = if self.downloaded { "downloaded" } else { "from the Hugging Face cache" };
        format!("{name}, {source}")
    }
}

/// Somebody who watches a download.
pub trait Progress {
    /// It begins, or goes on after an interruption, and is so many bytes in all.
    fn start(&mut self, bytes: u64);
    /// So many bytes more are there.
    fn advance(&mut self, bytes: u64);
}

impl Progress for () {
    fn start(&mut self, _bytes: u64) {}
    fn advance(&mut self, _bytes: u64) {}
}

fn main_branch() -> String {
    "main".to_owned()
}

impl HubFile {
    /// A file of a repository that is named `NAME`, `OWNER/NAME` or either with `@REVISION`; nothing where the name cannot
    /// be a repository's.
    #[must_use]
    pub fn named(name: &str, file: &str) -> Option<Self> {
        let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
        let named = Self { repo: repo.to_owned(), revision: revision.to_owned(), file: file.to_owned() };
        named.check().is_ok().then_some(named)
    }

    /// Refuses what cannot be on the Hub, or would leave the cache's folder.
    ///
    /// # Errors
    /// [`HubError::InvalidName`].
    pub fn check(&self) -> Result<(), HubError> {
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            part.chars().all(allowed) && part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        };
        let inside = |path: &str| {
            let mut components = Path::new(path).components();
            !path.is_empty() && components.all(|part| matches!(part, Component::Normal(_)))
        };
        let repo_fits =
            self.repo.split('/').count() <= 2 && self.repo.split('/').all(plain) && !self.repo.contains("--");
        let all = [("repository", &self.repo, repo_fits), ("revision", &self.revision, inside(&self.revision))];
        for (what, name, fits) in all.into_iter().chain([("file", &self.file, inside(&self.file))]) {
            if !fits {
                return Err(HubError::InvalidName { what, name: name.clone() });
            }
        }
        Ok(())
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, revision, file } = self;
        write!(f, "{file} of {repo}")?;
        if revision == "main" { Ok(()) } else { write!(f, " at {revision}") }
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
    fn cached(&self, kind: RepoKind, file: &HubFile) -> Option<PathBuf> {
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
fn repo(kind: RepoKind, file: &HubFile) -> hf_hub::Repo {
    let kind = match kind {
        RepoKind::Model => hf_hub::RepoType::Model,
        RepoKind::Dataset => hf_hub::RepoType::Dataset,
    };
    hf_hub::Repo::with_revision(file.repo.clone(), kind, file.revision.clone())
}
