//! Finding a checkpoint's tokenizer.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::fetch::Progress;
use super::file::{HubFile, RepoKind};
use super::settings::Hub;

/// Names under which a tokenizer lies in a folder.
const NAMES: [&str; 2] = ["tokenizer.json", "20B_tokenizer.json"];

/// gpt-neox's classes whose files are read.
const HUGGING_FACE: &str = "HFTokenizer";
const GPT2_BPE: &str = "GPT2BPETokenizer";

/// The tokenizer that a model's own configuration names.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConfiguredTokenizer<'a> {
    /// gpt-neox's name of its class (`tokenizer_type`); absent where it has none.
    pub kind: Option<&'a str>,
    /// Its file, as a path on the machine that trained.
    pub vocab_file: Option<&'a str>,
    /// The merges of `GPT2BPETokenizer`, likewise.
    pub merge_file: Option<&'a str>,
}

/// Where to look for a tokenizer.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerRequest<'a> {
    /// Given by the user: a file, a folder that holds one, or a name on the Hub.
    pub given: Option<&'a Path>,
    /// The folder of the model's files.
    pub folder: &'a Path,
    /// What the model's own configuration names.
    pub configured: ConfiguredTokenizer<'a>,
}

/// A tokenizer's file and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerPlace {
    /// The `tokenizer.json`, or a `vocab.json`.
    pub path: PathBuf,
    /// The `merges.txt` of a `vocab.json`.
    pub merges: Option<PathBuf>,
    /// What to know before it is used.
    pub warnings: Vec<String>,
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

impl TokenizerPlace {
    fn new(path: PathBuf, origin: Origin) -> Self {
        let merges = merges_beside(&path);
        Self { path, merges, warnings: Vec::new(), origin }
    }
}

/// The merges that lie beside a `vocab.json` or `gpt2-vocab.json`.
fn merges_beside(vocabulary: &Path) -> Option<PathBuf> {
    let prefix = vocabulary.file_name()?.to_str()?.strip_suffix("vocab.json")?;
    Some(vocabulary.with_file_name(format!("{prefix}merges.txt"))).filter(|path| path.is_file())
}

impl TokenizerRequest<'_> {
    /// The tokenizer given; else the one that the model's configuration names: at its path, or under its file name beside the
    /// model or in the folder above; else one of a usual name in those folders.
    ///
    /// # Errors
    /// [`HubError::NoTokenizer`] where there is none, and the errors of [`Hub::fetch`].
    pub fn find(&self, hub: &Hub, progress: &mut dyn Progress) -> Result<TokenizerPlace, HubError> {
        if let Some(given) = self.given {
            return Self::of_given(given, hub, progress);
        }
        let configured = self.configured_paths();
        let usual: Vec<_> = self.folders().flat_map(|folder| NAMES.map(|name| folder.join(name))).collect();
        let beside = usual.iter().find(|path| path.is_file());
        if let Some(mut place) = self.configured_place(&configured) {
            if let Some(other) = beside.filter(|other| !same_contents(other, &place.path)) {
                let (path, other) = (place.path.display(), other.display());
                place.warnings.push(format!("tokenizer: {path} is configured, and taken; {other} is another one"));
            }
            return Ok(place);
        }
        let Some(path) = beside else {
            let looked = usual.into_iter().chain(configured).collect();
            return Err(HubError::NoTokenizer { looked, kind: self.configured.kind.map(str::to_owned) });
        };
        let mut place = TokenizerPlace::new(path.clone(), Origin::Beside);
        let ConfiguredTokenizer { kind, vocab_file, .. } = self.configured;
        let of_hugging_face = kind.is_none_or(|kind| kind == HUGGING_FACE);
        if vocab_file.is_some() || !of_hugging_face {
            let file = vocab_file.map(|file| format!(" {file}")).unwrap_or_default();
            let named = format!("{}{file}", kind.unwrap_or(HUGGING_FACE));
            let why = if of_hugging_face { ", which is not there" } else { "" };
            place
                .warnings
                .push(format!("tokenizer: the configuration names {named}{why}; {} is taken", path.display()));
        }
        Ok(place)
    }

    /// The configured tokenizer, if its files are there and of a kind that is read.
    fn configured_place(&self, paths: &[PathBuf]) -> Option<TokenizerPlace> {
        let path = paths.iter().find(|path| path.is_file())?;
        let mut place = TokenizerPlace::new(path.clone(), Origin::Configured);
        match self.configured.kind {
            None | Some(HUGGING_FACE) => {
                place.merges = None;
                Some(place)
            }
            Some(GPT2_BPE) => {
                let merges = self.configured.merge_file.map(|file| self.places_of(file)).unwrap_or_default();
                place.merges = merges.into_iter().find(|path| path.is_file()).or(place.merges);
                place.merges.is_some().then_some(place)
            }
            Some(_) => None,
        }
    }

    fn of_given(given: &Path, hub: &Hub, progress: &mut dyn Progress) -> Result<TokenizerPlace, HubError> {
        let given_here = |path: PathBuf| TokenizerPlace::new(path, Origin::Given);
        let named_as_a_file = given.extension().is_some_and(|ending| ending == "json");
        if given.is_dir() && !named_as_a_file {
            let looked = NAMES.map(|name| given.join(name));
            return match looked.iter().find(|path| path.is_file()) {
                Some(path) => Ok(given_here(path.clone())),
                None => Err(HubError::NoTokenizer { looked: looked.to_vec(), kind: None }),
            };
        }
        // A path that does not exist is reported when it is opened; a name has no file extension and is not relative or rooted.
        let looks_like_a_file = given.exists() || named_as_a_file;
        let named = given.to_str().filter(|_| !looks_like_a_file).and_then(|name| HubFile::named(name, NAMES[0]));
        let Some(file) = named else { return Ok(given_here(given.to_owned())) };
        let found = hub.fetch(RepoKind::Model, &file, progress)?;
        let origin = Origin::Hub(found.described(&given.display().to_string()));
        Ok(TokenizerPlace::new(found.path, origin))
    }

    /// The model's folder and the one above.
    fn folders(&self) -> impl Iterator<Item = &Path> {
        [Some(self.folder), self.folder.parent()].into_iter().flatten()
    }

    fn configured_paths(&self) -> Vec<PathBuf> {
        let ConfiguredTokenizer { kind, vocab_file, .. } = self.configured;
        let mut paths = vocab_file.map(|file| self.places_of(file)).unwrap_or_default();
        if kind == Some(GPT2_BPE) {
            paths.extend(self.folders().map(|folder| folder.join("vocab.json")));
        }
        paths
    }

    /// Where a file that the configuration names may be: at its path, or under its name in the model's folders.
    fn places_of(&self, file: &str) -> Vec<PathBuf> {
        let file = Path::new(file);
        let here = file.file_name().into_iter().flat_map(|name| self.folders().map(move |folder| folder.join(name)));
        std::iter::once(file.to_owned()).chain(here).collect()
    }
}

fn same_contents(left: &Path, right: &Path) -> bool {
    let contents = |path: &Path| fs_err::read(path).ok();
    fs_err::canonicalize(left).ok() == fs_err::canonicalize(right).ok() || contents(left) == contents(right)
}
