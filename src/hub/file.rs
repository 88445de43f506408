//! Names of files on the Hub.

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

/// transformers' name of a model's configuration.
pub(super) const CONFIG_FILE: &str = "config.json";

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
    pub file: String,
}

fn main_branch() -> String {
    "main".to_owned()
}

impl HubFile {
    /// A file of a repository that is named `NAME`, `OWNER/NAME` or either with `@REVISION`; nothing where the name cannot
    /// be a repository's.
    pub fn named(name: &str, file: &str) -> Option<Self> {
        let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
        let named = Self { repo: repo.to_owned(), revision: revision.to_owned(), file: file.to_owned() };
        named.misnamed().is_none().then_some(named)
    }

    /// The part that cannot be on the Hub, or would leave the cache's folder: `repository`, `revision` or `file`, and its name.
    pub(super) fn misnamed(&self) -> Option<(&'static str, &str)> {
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
        let all = [
            ("repository", &self.repo, repo_fits),
            ("revision", &self.revision, inside(&self.revision)),
            ("file", &self.file, inside(&self.file)),
        ];
        all.into_iter().find(|(.., fits)| !fits).map(|(what, name, _)| (what, name.as_str()))
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repo, revision, file } = self;
        write!(f, "{file} of {repo}")?;
        if revision == "main" { Ok(()) } else { write!(f, " at {revision}") }
    }
}
