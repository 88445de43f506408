//! One `.pt` file. Only this module uses pytorch-reader: pickles are parsed, never executed, and unknown classes stay
//! opaque. A tensor's bytes are read when asked for, through any offset, stride and shared storage. A tensor that is one
//! run of the file is read once, piece by piece, and each piece is hashed, compared with the file's checksum and searched
//! for NaN while it is in the core's cache.

mod archive;
mod nested;
mod pickle;
mod place;
mod places;
mod plain;
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
mod tests;
mod value;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fs_err::File;
use fs_err::os::unix::fs::FileExt as _;
use pytorch_reader::{PickleValue, PytorchError, PytorchReader};
use serde_json::{Map, Value};

use self::archive::{Entries, Entry};
use self::place::Place;
use self::places::places;
use self::stored::Stored;
use super::error::{CheckpointError, is_unknown_object};
use super::read_digests::{PIECE_BYTES, ReadDigests};
use crate::config::Precision;
use crate::files::{self, FileStat};
use crate::tensor::{DType, HostTensor, Pool, first_non_finite};

/// Tensors of at most this many bytes are read both ways when the runs of a file are found: norms and biases, a small part
/// of any file.
const COMPARED_BYTES: usize = 64 << 10;

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

/// Tensors that are one run of the file each.
struct Runs {
    file: File,
    places: HashMap<String, Run>,
}

struct Run {
    start: u64,
    place: Place,
    fills_storage: bool,
    /// Of exactly these bytes, where the file has one.
    crc32: Option<u32>,
}

impl Run {
    /// A place as a run of the file; `None` where it reaches beyond its storage.
    fn of(entry: Entry, place: Place) -> Option<Self> {
        let size = place.dtype.size() as u64;
        let count = place.shape.iter().try_fold(1, |count: u64, &extent| count.checked_mul(extent as u64))?;
        let (first, bytes) = (place.first.checked_mul(size)?, count.checked_mul(size)?);
        let start = entry.start.checked_add(first)?;
        let inside = bytes > 0 && first.checked_add(bytes)? <= entry.bytes;
        // Pieces then begin with an element.
        let whole_elements = start % size == 0;
        let fills_storage = bytes == entry.bytes;
        let crc32 = Some(entry.crc32).filter(|&crc32| crc32 != 0 && fills_storage);
        (inside && whole_elements).then_some(Self { start, place, fills_storage, crc32 })
    }
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

    /// The checksum that the file has of a tensor's bytes, where it has one.
    pub(super) fn checksum(&self, name: &str) -> Option<u32> {
        self.runs.get_or_init(|| self.find_runs()).as_ref()?.places.get(name)?.crc32
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads one tensor, contiguous and row-major whatever its strides in the file.
    pub fn read(&self, name: &str) -> Result<HostTensor, CheckpointError> {
        Ok(self.read_and_search(name)?.0)
    }

    /// As [`TorchFile::read`]; also returns the row-major index of its first NaN or infinity, if it has one.
    pub fn read_and_search(&self, name: &str) -> Result<(HostTensor, Option<usize>), CheckpointError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() })?;
        let dtype = self.host_dtype(name, tensor)?;
        let runs = self.runs.get_or_init(|| self.find_runs()).as_ref();
        let run = runs.and_then(|runs| Some((&runs.file, runs.places.get(name)?)));
        let (bytes, non_finite) = match run {
            Some((file, run)) => {
                let (bytes, non_finite) = self.read_run(file, run, name, tensor.byte_len())?;
                (bytes, Some(non_finite))
            }
            None => (tensor.read().map_err(|source| self.unreadable(name, source))?, None),
        };
        let pool = self.reading.pool.clone().filter(|_| run.is_some());
        let read = HostTensor::of_pool(dtype, tensor.shape().to_vec(), bytes, pool).map_err(|source| {
            let (path, name) = (self.path.clone(), name.to_owned());
            CheckpointError::Tensor { path, name, source }
        })?;
        let non_finite = non_finite.unwrap_or_else(|| read.first_non_finite());
        Ok((read, non_finite))
    }

    fn read_run(
        &self,
        file: &File,
        run: &Run,
        name: &str,
        count: usize,
    ) -> Result<(Vec<u8>, Option<usize>), CheckpointError> {
        let mut bytes = self.reading.pool.as_ref().map_or_else(|| vec![0; count], |pool| pool.take(count));
        let digest = self.reading.digests.as_ref().and_then(|digests| digests.of(&self.path));
        let (dtype, mut crc32, mut non_finite) = (run.place.dtype, crc32fast::Hasher::new(), None);
        let (mut at, mut rest) = (run.start, &mut bytes[..]);
        while !rest.is_empty() {
            let into_piece = usize::try_from(at % PIECE_BYTES as u64).unwrap_or(0);
            let (piece, further) = rest.split_at_mut(rest.len().min(PIECE_BYTES - into_piece));
            file.read_exact_at(piece, at).map_err(|source| self.unreadable(name, source))?;
            if let Some(digest) = digest {
                digest.see(at, piece);
            }
            if run.crc32.is_some() {
                crc32.update(piece);
            }
            if non_finite.is_none() {
                let before = usize::try_from(at - run.start).unwrap_or(usize::MAX) / dtype.size();
                non_finite = first_non_finite(dtype, piece).map(|index| before + index);
            }
            at += piece.len() as u64;
            rest = further;
        }
        match run.crc32 {
            Some(expected) if expected != crc32.finalize() => {
                Err(CheckpointError::Checksum { path: self.path.clone(), name: name.to_owned() })
            }
            _ => Ok((bytes, non_finite)),
        }
    }

    /// Finds the tensors that are one run of the file. `None` for a file that is not an archive, or whose pickle holds
    /// anything but tensors.
    fn find_runs(&self) -> Option<Runs> {
        let Root::Flat(key) = &self.root else { return self.nested_runs() };
        let (file, pickle, folder) = read_pickle(&self.path, &self.entries)?;
        let places = self.check_runs(&file, self.runs(&folder, places(&pickle, key.as_deref())?))?;
        Some(Runs { file, places })
    }

    /// The runs of a file that pytorch-reader has not read: there is one understanding of it.
    fn nested_runs(&self) -> Option<Runs> {
        let run = |stored: &Stored| match stored {
            Stored::Placed { entry, place, .. } if place.dtype.is_float() && place.is_run() => {
                Run::of(*entry, place.clone())
            }
            _ => None,
        };
        let places = self.tensors.iter().filter_map(|(name, stored)| Some((name.clone(), run(stored)?)));
        Some(Runs { file: files::open(&self.path).ok()?, places: places.collect() })
    }

    /// The places as runs of the file, by name, as far as they are inside it.
    fn runs(&self, folder: &str, places: HashMap<String, Place>) -> HashMap<String, Run> {
        let run = |place: Place| Run::of(self.entries.get(&format!("{folder}{}", place.storage))?, place);
        places.into_iter().filter_map(|(name, place)| Some((name, run(place)?))).collect()
    }

    /// Compares the runs with pytorch-reader's understanding of the file and keeps those that are proven. A small one is
    /// read both ways; one difference and none of the file is trusted. A large one must be the only tensor of its storage
    /// and fill it, so that its offset can only be 0. All others are left to pytorch-reader.
    fn check_runs(&self, file: &File, mut runs: HashMap<String, Run>) -> Option<HashMap<String, Run>> {
        let mut tensors_of_storage: HashMap<&str, usize> = HashMap::new();
        for run in runs.values() {
            *tensors_of_storage.entry(&run.place.storage).or_default() += 1;
        }
        let mut proven = HashSet::new();
        for (name, run) in &runs {
            let Some(tensor) = self.tensors.get(name) else { continue };
            if tensor.dtype() != Some(run.place.dtype) || tensor.shape() != run.place.shape {
                return None;
            }
            if tensor.byte_len() > COMPARED_BYTES {
                if run.fills_storage && tensors_of_storage[run.place.storage.as_str()] == 1 {
                    proven.insert(name.clone());
                }
                continue;
            }
            // A tensor that cannot be read is reported when it is asked for.
            let Ok(expected) = tensor.read() else { continue };
            let mut bytes = vec![0; expected.len()];
            if file.read_exact_at(&mut bytes, run.start).is_err() || bytes != expected {
                return None;
            }
            proven.insert(name.clone());
        }
        runs.retain(|name, _| proven.contains(name.as_str()));
        Some(runs)
    }

    fn unreadable(&self, name: &str, source: std::io::Error) -> CheckpointError {
        let (path, name) = (self.path.clone(), name.to_owned());
        // The zip archive's reader has no error kind of its own for it.
        if source.to_string().ends_with("Invalid checksum") {
            CheckpointError::Checksum { path, name }
        } else {
            CheckpointError::Unreadable { path, name, source }
        }
    }

    fn host_dtype(&self, name: &str, tensor: &Stored) -> Result<DType, CheckpointError> {
        // A stride of 0 makes any number of elements from one.
        let (bytes, file_bytes) = (tensor.byte_len() as u64, self.identity.bytes());
        if bytes > file_bytes {
            let (path, name) = (self.path.clone(), name.to_owned());
            return Err(CheckpointError::LargerThanFile { path, name, bytes, file_bytes });
        }
        tensor.dtype().ok_or_else(|| CheckpointError::ElementType { path: self.path.clone(), name: name.to_owned() })
    }
}

/// Whether a tensor of this name belongs to the state dictionary of a whole model of gpt-neox.
pub(super) fn is_model_name(name: &str) -> bool {
    name.strip_prefix("module.").unwrap_or(name).starts_with("sequential.")
}

fn read_pickle(path: &Path, entries: &Entries) -> Option<(File, Vec<u8>, String)> {
    let file = files::open(path).ok()?;
    let (Entry { start, bytes, .. }, folder) = entries.pickle()?;
    let mut pickle = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut pickle, start).ok()?;
    Some((file, pickle, folder))
}

/// The tensors of an archive whose pickle holds objects that pytorch-reader does not accept.
fn placed(path: &Path, entries: &Entries, key: Option<&str>) -> Option<HashMap<String, Stored>> {
    let (_, pickle, folder) = read_pickle(path, entries)?;
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
        Err(PytorchError::Pickle(source)) if is_unknown_object(&source) => match read_pickle(path, &entries) {
            Some((_, pickle, _)) if places::is_read(&pickle) => Ok(places::plain_value(&pickle, key)),
            _ => Err(CheckpointError::Damaged { path: path.to_owned(), source: source.into() }),
        },
        Err(source) => Err(CheckpointError::Damaged { path: path.to_owned(), source }),
    }
}
