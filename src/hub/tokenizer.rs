//! Finding a checkpoint's tokenizer.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::fetch::Progress;
use super::file::{HubFile, RepoKind};
use super::settings::Hub;

/// Names under which a tokenizer lies in a folder.
const NAMES: [&str; 2] = ["tokenizer.json", "20B_tokenizer.json"];

/// Where to look for a tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerRequest<'a> {
    /// Given by the user: a file, a folder that holds one, or a name on the Hub.
    pub given: Option<&'a Path>,
    /// The folder of the model's files.
    pub folder: &'a Path,
    /// The file that the model's own configuration names, as a path on the machine that trained.
    pub configured: Option<&'a str>,
}

/// A tokenizer's file and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerPlace {
    /// The `tokenizer.json`.
    pub path: PathBuf,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Given,
    Beside,
    Configured,
    /// With [`super::Found::described`].
    Hub(String),
}

impl fmt::Display for TokenizerPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match &self.origin {
            Origin::Given => Ok(()),
            Origin::Beside => f.write_str(" (beside the checkpoint)"),
            Origin::Configured => f.write_str(" (named in the checkpoint's configuration)"),
            Origin::Hub(described) => write!(f, " ({described})"),
        }
    }
}

impl TokenizerRequest<'_> {
    /// The tokenizer given; else the one beside the model or in the folder above, else the one that its configuration
    /// names: at its path, or under its file name in those folders.
    ///
    /// # Errors
    /// [`HubError::NoTokenizer`] where there is none, and the errors of [`Hub::fetch`].
    pub fn find(&self, hub: &Hub, progress: &mut dyn Progress) -> Result<TokenizerPlace, HubError> {
        if let Some(given) = self.given {
            return Self::of_given(given, hub, progress);
        }
        let beside = self.folders().flat_map(|folder| NAMES.map(|name| folder.join(name)));
        let looked: Vec<(PathBuf, Origin)> = beside
            .map(|path| (path, Origin::Beside))
            .chain(self.configured_paths().into_iter().map(|path| (path, Origin::Configured)))
            .collect();
        match looked.iter().find(|(path, _)| path.is_file()) {
            Some((path, origin)) => Ok(TokenizerPlace { path: path.clone(), origin: origin.clone() }),
            None => Err(HubError::NoTokenizer { looked: looked.into_iter().map(|(path, _)| path).collect() }),
        }
    }

    fn of_given(given: &Path, hub: &Hub, progress: &mut dyn Progress) -> Result<TokenizerPlace, HubError> {
        let given_here = |path: PathBuf| TokenizerPlace { path, origin: Origin::Given };
        let named_as_a_file = given.extension().is_some_and(|ending| ending == "json");
        if given.is_dir() && !named_as_a_file {
            let looked = NAMES.map(|name| given.join(name));
            return match looked.iter().find(|path| path.is_file()) {
                Some(path) => Ok(given_here(path.clone())),
                None => Err(HubError::NoTokenizer { looked: looked.to_vec() }),
            };
        }
        // A path that does not exist is reported when it is opened; a name has no file extension and is not relative or rooted.
        let looks_like_a_file = given.exists() || named_as_a_file;
        let named = given.to_str().filter(|_| !looks_like_a_file).and_then(|name| HubFile::named(name, NAMES[0]));
        let Some(file) = named else { return Ok(given_here(given.to_owned())) };
        let found = hub.fetch(RepoKind::Model, &file, progress)?;
        let origin = Origin::Hub(found.described(&given.display().to_string()));
        Ok(TokenizerPlace { path: found.path, origin })
    }

    /// The model's folder and the one above.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        [Some(self.folder), self.folder.parent()].into_iter().flatten()
    }

    fn configured_paths(&self) -> Vec<PathBuf> {
        let Some(configured) = self.configured.map(Path::new) else { return Vec::new() };
        let name = configured.file_name().filter(|name| NAMES.iter().all(|known| name != known));
        let here = name.into_iter().flat_map(|name| self.folders().map(move |folder| folder.join(name)));
        std::iter::once(configured.to_owned()).chain(here).collect()
    }
}
