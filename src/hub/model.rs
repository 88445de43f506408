//! A whole model by its name: the folder of its files, as transformers has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hf_hub::Cache;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::checksum;
use super::error::HubError;
use super::fetch::{Found, Progress, repo};
use super::file::{CONFIG_FILE, HubFile, RepoKind};
use super::settings::Hub;
use crate::files;

/// transformers' names of a model's weights: of one file, and of the index of several, in the order in which it looks for
/// them.
pub const WEIGHT_FILES: [(&str, &str); 2] =
    [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

/// Either is a tokenizer.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "vocab.json"];

/// What may lie beside them.
const FURTHER: [&str; 4] = ["merges.txt", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

/// An index names every tensor in a line.
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// Files that hold weights of other formats, by their ending.
const OTHER_WEIGHTS: [&str; 8] = ["gguf", "h5", "msgpack", "onnx", "ot", "pt", "pth", "safetensors"];

/// What a repository holds at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: String,
    pub files: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, Value>,
}

impl HubFile {
    /// The configuration of the model that a path names which is not there: `OWNER/NAME`, or either `OWNER/NAME` or `NAME`
    /// with `@REVISION`, or a name in the cache. Nothing for what can only be meant as a path: a file by its ending, a
    /// step of a checkpoint, a place in a folder that is here, a single word.
    fn model(given: &Path, hub: &Hub) -> Option<Self> {
        let text = given.to_str().filter(|_| !given.exists())?;
        let model = Self::named(text, CONFIG_FILE)?;
        let (owner, name) =
            model.repo.split_once('/').map_or((None, &*model.repo), |(owner, name)| (Some(owner), name));
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let of_a_file = ["safetensors", "bin", "pt", "pth", "json", "yml", "yaml"].contains(&ending);
        if of_a_file || name.starts_with("global_step") {
            return None;
        }
        let unmistakable = text.contains('@') || hub.snapshot(&model).is_some();
        (unmistakable || owner.is_some_and(|owner| !Path::new(owner).exists())).then_some(model)
    }
}

impl Hub {
    /// The folder of the model that a path names which is not there; nothing where it is, or can only be meant as a path.
    ///
    /// # Errors
    /// As [`Hub::fetch_model`]; where there is no such model either, [`HubError::NeitherPathNorModel`].
    pub fn model_at(&self, given: &Path, progress: &mut dyn Progress) -> Result<Option<Found>, HubError> {
        let Some(model) = HubFile::model(given, self) else { return Ok(None) };
        match self.fetch_model(&model, progress) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_of_model() => {
                Err(HubError::NeitherPathNorModel { path: given.to_owned(), source: Box::new(error) })
            }
            Err(error) => Err(error),
        }
    }

    /// The folder of a model's files, of which `model` is the configuration: from the cache where configuration, weights and
    /// tokenizer are there, else what is missing is downloaded into the cache, all of one commit. The weights are the first
    /// of [`WEIGHT_FILES`] that the repository has; a tokenizer and its settings come along where there are any. The bytes of
    /// every file are those that the Hub's checksum is of.
    ///
    /// # Errors
    /// As [`Hub::fetch`]; a repository without weights that are read, or with an index of weights that is none.
    pub fn fetch_model(&self, model: &HubFile, progress: &mut dyn Progress) -> Result<Found, HubError> {
        model.check()?;
        let cached = match self.cached_model(model) {
            Err(missing) if self.offline => return Err(missing),
            Ok((folder, weights)) if self.offline || has_tokenizer(&folder) => return checked(folder, &weights),
            cached => cached,
        };
        // With the weights at hand only their tokenizer is missing: of the same commit, whatever the branch has now.
        let commit = cached.as_ref().ok().and_then(|(folder, _)| folder.file_name());
        let revision = commit.map_or_else(|| model.revision.clone(), |commit| commit.to_string_lossy().into_owned());
        match (self.complete(&HubFile { revision, ..model.clone() }, progress), cached) {
            (Err(HubError::Download { .. } | HubError::BuiltWithout { .. }), Ok((folder, weights))) => {
                checked(folder, &weights)
            }
            (Err(error), _) => Err(error),
            (Ok((found, commit)), _) => {
                self.remember(model, &commit)?;
                Ok(found)
            }
        }
    }

    /// The folder of a model in the cache, of which at least the configuration is there.
    fn snapshot(&self, model: &HubFile) -> Option<PathBuf> {
        Some(self.cached(RepoKind::Model, model)?.parent()?.to_owned())
    }

    /// The folder of a model in the cache and its weights with their index; the error of the file that is missing.
    fn cached_model(&self, model: &HubFile) -> Result<(PathBuf, BTreeSet<String>), HubError> {
        let missing = |name: &str| HubError::Offline {
            file: HubFile { file: name.to_owned(), ..model.clone() },
            cache: self.cache.clone(),
        };
        let folder = self.snapshot(model).ok_or_else(|| missing(CONFIG_FILE))?;
        let has = |name: &str| folder.join(name).is_file();
        let there = WEIGHT_FILES.iter().find(|(single, index)| has(single) || has(index));
        let (single, index) = there.ok_or_else(|| missing(WEIGHT_FILES[0].0))?;
        let weights = if has(single) {
            BTreeSet::from([(*single).to_owned()])
        } else {
            shards(&folder.join(index))?.into_iter().chain([(*index).to_owned()]).collect()
        };
        match weights.iter().find(|name| !has(name)) {
            None => Ok((folder, weights)),
            Some(name) => Err(missing(name)),
        }
    }

    /// Fetches what is missing of a model, the weights last; returns also the commit.
    fn complete(&self, model: &HubFile, progress: &mut dyn Progress) -> Result<(Found, String), HubError> {
        let listing = self.list(model)?;
        let has = |name: &str| listing.files.iter().any(|file| file == name);
        let mut found = Found { path: PathBuf::new(), downloaded: false };
        let mut fetch = |name: &str| {
            let file = HubFile { file: name.to_owned(), revision: listing.commit.clone(), ..model.clone() };
            let Found { path, downloaded } = self.fetch(RepoKind::Model, &file, progress)?;
            found.downloaded |= downloaded;
            Ok::<_, HubError>(path)
        };
        let config = fetch(CONFIG_FILE)?;
        let Some(&(single, index)) = WEIGHT_FILES.iter().find(|(single, index)| has(single) || has(index)) else {
            return Err(no_weights(model, &listing.files));
        };
        for name in TOKENIZERS.into_iter().chain(FURTHER).filter(|name| has(name)) {
            fetch(name)?;
        }
        let weights = if has(single) { BTreeSet::from([single.to_owned()]) } else { shards(&fetch(index)?)? };
        for name in &weights {
            fetch(name)?;
        }
        found.path = config.parent().map(Path::to_owned).unwrap_or_default();
        Ok((found, listing.commit))
    }

    /// Remembers in the cache at which commit a branch or tag stands.
    fn remember(&self, model: &HubFile, commit: &str) -> Result<(), HubError> {
        let path = self.cache.clone();
        let cached = Cache::new(self.cache.clone()).repo(repo(RepoKind::Model, model));
        cached.create_ref(commit).map_err(|source| HubError::Read { path, source })
    }

    #[cfg(not(feature = "hub"))]
    fn list(&self, model: &HubFile) -> Result<Listing, HubError> {
        Err(HubError::BuiltWithout { file: model.clone(), cache: self.cache.clone() })
    }
}

fn has_tokenizer(folder: &Path) -> bool {
    TOKENIZERS.iter().any(|name| folder.join(name).is_file())
}

/// A folder of the cache, once every file in it that a model is read from has the bytes of its checksum.
fn checked(folder: PathBuf, weights: &BTreeSet<String>) -> Result<Found, HubError> {
    let names = weights.iter().map(String::as_str).chain([CONFIG_FILE]).chain(TOKENIZERS).chain(FURTHER);
    let paths: Vec<_> = names.map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
    paths.par_iter().try_for_each(|path| checksum::check(path))?;
    Ok(Found { path: folder, downloaded: false })
}

/// The files that an index of weights names.
fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let text =
        files::read(index, MAX_INDEX_BYTES).map_err(|source| HubError::Read { path: index.to_owned(), source })?;
    let broken = |message: String| HubError::Index { path: index.to_owned(), message };
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let name = |(tensor, file): (&String, &Value)| match file.as_str() {
        Some(file) => Ok(file.to_owned()),
        None => Err(broken(format!("`{tensor}` is in no file by name"))),
    };
    let shards = weight_map.iter().map(name).collect::<Result<BTreeSet<_>, _>>()?;
    if shards.is_empty() { Err(broken("`weight_map` is empty".to_owned())) } else { Ok(shards) }
}

fn no_weights(model: &HubFile, files: &[String]) -> HubError {
    let is_weights = |file: &&String| {
        let ending = Path::new(file).extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| OTHER_WEIGHTS.contains(&ending))
    };
    let found = files.iter().filter(is_weights).take(3).cloned().collect();
    HubError::NoWeights { repo: model.repo.clone(), revision: model.revision.clone(), found }
}
