//! One `.pt` file. Only this module uses pytorch-reader: pickles are parsed, never executed, and unknown classes stay
//! opaque. A tensor's bytes are read when asked for, through any offset, stride and shared storage.

mod archive;
mod metadata;
mod nested;
mod pickle;
mod place;
mod places;
mod plain;
mod read;
mod run;
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
mod tests;
mod value;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pytorch_reader::{PickleValue, PytorchError, PytorchReader};
use serde_json::{Map, Value};

use self::archive::Entries;
pub(super) use self::metadata::{Item, Metadata, Part, SavedTensor};
use self::place::Place;
use self::run::Runs;
use self::stored::Stored;
use super::error::{CheckpointError, is_unknown_object};
use super::read_digests::ReadDigests;
use crate::config::Precision;
use crate::files::FileStat;
use crate::tensor::{DType, Pool};

/// An opened `.pt` file: names, types and shapes are known, no tensor is read yet. Clones share all that.
#[derive(Clone)]
pub struct TorchFile {
    path: PathBuf,
    root: Root,
    identity: FileStat,
    entries: Arc<Entries>,
    tensors: Arc<HashMap<String, Stored>>,
    runs: Arc<OnceLock<Option<Runs>>>,
    reading: Reading,
}

/// Which dictionary of a file holds its tensors.
#[derive(Debug, Clone)]
enum Root {
    /// The file's own, or the one under a key.
    Flat(Option<String>),
    /// Nested ones.
    Nested,
}

#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub pool: Option<Arc<Pool>>,
    pub digests: Option<Arc<ReadDigests>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorForm {
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

impl TensorForm {
    /// The number format of a model whose word embedding this is.
    pub(super) fn precision(&self) -> Precision {
        match self.dtype {
            DType::F16 => Precision::Fp16,
            DType::BF16 => Precision::Bf16,
            _ => Precision::Fp32,
        }
    }
}

impl std::fmt::Debug for TorchFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TorchFile({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

impl TorchFile {
    /// Opens a file whose root is a dictionary of tensors.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_at(path, None)
    }

    /// Opens the dictionary of tensors that a file holds under `key`.
    pub fn open_key(path: &Path, key: &str) -> Result<Self, CheckpointError> {
        Self::open_at(path, Some(key))
    }

    /// Opens the state dictionary of a whole model: under `module`, as the training engine writes it, or the file's root, as
    /// DeepSpeed's `zero_to_fp32.py` does.
    pub fn open_model(path: &Path) -> Result<Self, CheckpointError> {
        match Self::open_key(path, "module") {
            Err(CheckpointError::NoModel { path }) => match Self::open(&path) {
                Ok(file) if file.tensors.keys().any(|name| is_model_name(name)) => Ok(file),
                _ => Err(CheckpointError::NoModel { path }),
            },
            opened => opened,
        }
    }

    fn open_at(path: &Path, key: Option<&str>) -> Result<Self, CheckpointError> {
        let (identity, entries) = archive::check(path)?;
        let reader = match key {
            None => PytorchReader::new(path),
            Some(key) => PytorchReader::with_top_level_key(path, key),
        };
        let tensors = match reader {
            Ok(reader) => {
                let tensors = reader.into_tensors().into_iter();
                tensors.map(|(name, tensor)| (name, Stored::Read(tensor))).collect()
            }
            Err(_) if key.is_some_and(|key| matches!(read_value(path, key), Ok(None))) => {
                return Err(CheckpointError::NoModel { path: path.to_owned() });
            }
            Err(source) => {
                let unknown = matches!(&source, PytorchError::Pickle(error) if is_unknown_object(error));
                unknown
                    .then(|| placed(path, &entries, key))
                    .flatten()
                    .ok_or_else(|| CheckpointError::Damaged { path: path.to_owned(), source })?
            }
        };
        Ok(Self::new(path, Root::Flat(key.map(str::to_owned)), identity, entries, tensors))
    }

    /// Opens a file whose dictionaries are nested, in either of torch.save's formats. The tensors in the outermost
    /// dictionary's entries that `holds_tensors` accepts are named by their keys, joined by dots; what else it holds under the
    /// keys that `holds_values` accepts is returned as plain values.
    pub(super) fn open_nested(
        path: &Path,
        holds_tensors: &dyn Fn(&str) -> bool,
        holds_values: &dyn Fn(&str) -> bool,
    ) -> Result<(Self, Map<String, Value>), CheckpointError> {
        let (identity, entries) = archive::check(path)?;
        let nested::Contents { tensors, values } =
            nested::read(path, &identity, &entries, holds_tensors, holds_values)?;
        Ok((Self::new(path, Root::Nested, identity, entries, tensors), values))
    }

    /// Opens an item of a distributed checkpoint: these bytes of a file are an archive that holds one tensor and no
    /// dictionary. The tensor gets this name.
    pub(super) fn open_item(path: &Path, range: Range<u64>, name: &str) -> Result<Self, CheckpointError> {
        let identity = FileStat::of(path)?;
        let entries = archive::check_within(path, range.clone())?;
        let tensors = HashMap::from([(name.to_owned(), nested::read_item(path, range, &entries)?)]);
        Ok(Self::new(path, Root::Nested, identity, entries, tensors))
    }

    fn new(path: &Path, root: Root, identity: FileStat, entries: Entries, tensors: HashMap<String, Stored>) -> Self {
        let (entries, tensors) = (Arc::new(entries), Arc::new(tensors));
        Self {
            path: path.to_owned(),
            root,
            identity,
            entries,
            tensors,
            runs: Arc::default(),
            reading: Reading::default(),
        }
    }

    pub fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> FileStat {
        self.identity
    }

    /// Names and forms of all tensors, sorted by name.
    pub fn forms(&self) -> Result<BTreeMap<String, TensorForm>, CheckpointError> {
        self.tensors
            .iter()
            .map(|(name, tensor)| {
                let dtype = self.host_dtype(name, tensor)?;
                Ok((name.clone(), TensorForm { dtype, shape: tensor.shape().to_vec() }))
            })
            .collect()
    }

    /// The form of one tensor; `None` where there is none, or one of a type that no parameter has.
    pub(super) fn form(&self, name: &str) -> Option<TensorForm> {
        let tensor = self.tensors.get(name)?;
        Some(TensorForm { dtype: tensor.dtype()?, shape: tensor.shape().to_vec() })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// Whether a tensor of this name belongs to the state dictionary of a whole model of gpt-neox.
pub(super) fn is_model_name(name: &str) -> bool {
    name.strip_prefix("module.").unwrap_or(name).starts_with("sequential.")
}

/// The tensors of an archive whose pickle holds objects that pytorch-reader does not accept.
fn placed(path: &Path, entries: &Entries, key: Option<&str>) -> Option<HashMap<String, Stored>> {
    let (_, pickle, folder) = entries.read_pickle(path)?;
    let stored = |place: Option<Place>| match place {
        None => Some(Stored::Unknown),
        Some(place) => {
            let entry = entries.get(&format!("{folder}{}", place.storage))?;
            Some(Stored::Placed { path: path.to_owned(), entry, place })
        }
    };
    let tensors = places::tensors(&pickle, key)?.into_iter();
    // A storage that is missing is a damaged file.
    tensors.map(|(name, place)| Some((name, stored(place)?))).collect()
}

/// Reads a plain value (no tensors) that a file holds under `key`; `None` if the file has no such key.
pub(super) fn read_value(path: &Path, key: &str) -> Result<Option<PickleValue>, CheckpointError> {
    let (_, entries) = archive::check(path)?;
    match PytorchReader::read_pickle_data(path, Some(key)) {
        Ok(PickleValue::None) | Err(PytorchError::KeyNotFound(_)) => Ok(None),
        Ok(value) => Ok(Some(value)),
        // Other objects in the pickle do not matter.
        Err(PytorchError::Pickle(source)) if is_unknown_object(&source) => match entries.read_pickle(path) {
            Some((_, pickle, _)) if places::is_read(&pickle) => Ok(places::plain_value(&pickle, key)),
            _ => Err(CheckpointError::Damaged { path: path.to_owned(), source: source.into() }),
        },
        Err(source) => Err(CheckpointError::Damaged { path: path.to_owned(), source }),
    }
}
