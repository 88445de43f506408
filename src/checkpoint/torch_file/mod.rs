//! One `.pt` file. The only place that knows pytorch-reader: pickles are parsed, never executed, classes it does not
//! know stay opaque. A tensor's bytes are read when asked for, through whatever offset, stride and shared storage the
//! file gives it; those that are one run of the file are read once, piece by piece, and each piece is hashed, compared with
//! the file's checksum and searched for NaN while it is in the core's cache.

mod archive;
mod places;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fs_err::File;
use fs_err::os::unix::fs::FileExt as _;
use pytorch_reader::{DType as FileDType, PickleValue, PytorchError, PytorchReader, Tensor};

use self::archive::{Entries, Entry};
use self::places::{Place, places};
use super::CheckpointError;
use super::read_digests::{PIECE_BYTES, ReadDigests};
use crate::files::{self, FileStat};
use crate::tensor::{DType, HostTensor, Pool, first_non_finite};

/// An opened `.pt` file: names, types and shapes are known, no tensor is read yet.
pub struct Shard {
    path: PathBuf,
    /// The dictionary's key in the file, unless it is the file's root.
    key: Option<String>,
    identity: FileStat,
    entries: Entries,
    tensors: HashMap<String, Tensor>,
    runs: OnceLock<Option<Runs>>,
    reading: Reading,
}

/// What happens to what is read, beside being returned.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Where tensors have their memory from.
    pub pool: Option<Arc<Pool>>,
    /// What hashes the files.
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
    /// Of exactly these bytes, where the file has one.
    crc32: Option<u32>,
}

/// Form of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorForm {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Shard({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

impl Shard {
    /// Opens a file whose root is a dictionary of tensors.
    ///
    /// # Errors
    /// The file cannot be read or is not what `torch.save` writes.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_reader(path, None, archive::check(path)?, PytorchReader::new(path))
    }

    /// Opens the dictionary of tensors that a file holds under `key`.
    ///
    /// # Errors
    /// As [`Shard::open`]; also when there is no such key or it holds `None`.
    pub fn open_key(path: &Path, key: &str) -> Result<Self, CheckpointError> {
        let checked = archive::check(path)?;
        let reader = PytorchReader::with_top_level_key(path, key);
        if reader.is_err() && matches!(read_value(path, key), Ok(None)) {
            return Err(CheckpointError::NoModel { path: path.to_owned() });
        }
        Self::from_reader(path, Some(key.to_owned()), checked, reader)
    }

    fn from_reader(
        path: &Path,
        key: Option<String>,
        (identity, entries): (FileStat, Entries),
        reader: Result<PytorchReader, PytorchError>,
    ) -> Result<Self, CheckpointError> {
        let reader = reader.map_err(|source| CheckpointError::Damaged { path: path.to_owned(), source })?;
        let (path, tensors) = (path.to_owned(), reader.into_tensors());
        Ok(Self { path, key, identity, entries, tensors, runs: OnceLock::new(), reading: Reading::default() })
    }

    /// The same file, read otherwise.
    #[must_use]
    pub fn reading(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells whether the file is still the one that was opened.
    #[must_use]
    pub fn identity(&self) -> FileStat {
        self.identity
    }

    /// Names and forms of all tensors, sorted by name.
    ///
    /// # Errors
    /// A tensor of a type that no model parameter has, or of more bytes than the file.
    pub fn forms(&self) -> Result<BTreeMap<String, TensorForm>, CheckpointError> {
        self.tensors
            .iter()
            .map(|(name, tensor)| {
                let dtype = self.host_dtype(name, tensor)?;
                Ok((name.clone(), TensorForm { dtype, shape: tensor.shape().to_vec() }))
            })
            .collect()
    }

    /// Whether the file holds a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Reads one tensor, contiguous and row-major whatever its strides in the file.
    ///
    /// # Errors
    /// There is no such tensor, it has more bytes than the file, or they cannot be read.
    pub fn read(&self, name: &str) -> Result<HostTensor, CheckpointError> {
        Ok(self.read_and_search(name)?.0)
    }

    /// As [`Shard::read`]; also tells the row-major index of its first NaN or infinity, if it has one.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub fn read_and_search(&self, name: &str) -> Result<(HostTensor, Option<usize>), CheckpointError> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() })?;
        let dtype = self.host_dtype(name, tensor)?;
        let runs = self.runs.get_or_init(|| self.find_runs()).as_ref();
        let run = runs.and_then(|runs| Some((&runs.file, runs.places.get(name)?)));
        // Where both do not understand the same, the reader is right.
        let run = run.filter(|(_, run)| run.place.dtype == dtype && run.place.shape == tensor.shape());
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

    /// Reads a run of the file piece by piece.
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

    /// Finds the tensors that are one run of the file; `None` where that cannot be told of any.
    fn find_runs(&self) -> Option<Runs> {
        let file = files::open(&self.path).ok()?;
        let (Entry { start, bytes, .. }, folder) = self.entries.pickle()?;
        let mut pickle = vec![0; usize::try_from(bytes).ok()?];
        file.read_exact_at(&mut pickle, start).ok()?;
        let run = |place: Place| {
            let entry = self.entries.get(&format!("{folder}{}", place.storage))?;
            let size = place.dtype.size() as u64;
            let count = place.shape.iter().try_fold(1, |count: u64, &extent| count.checked_mul(extent as u64))?;
            let (first, bytes) = (place.first.checked_mul(size)?, count.checked_mul(size)?);
            let start = entry.start.checked_add(first)?;
            let inside = bytes > 0 && first.checked_add(bytes)? <= entry.bytes;
            // Pieces then begin with an element.
            let whole_elements = start % size == 0;
            let crc32 = Some(entry.crc32).filter(|&crc32| crc32 != 0 && bytes == entry.bytes);
            (inside && whole_elements).then_some(Run { start, place, crc32 })
        };
        let places = places(&pickle, self.key.as_deref())?;
        Some(Runs { file, places: places.into_iter().filter_map(|(name, place)| Some((name, run(place)?))).collect() })
    }

    fn unreadable(&self, name: &str, source: std::io::Error) -> CheckpointError {
        let (path, name) = (self.path.clone(), name.to_owned());
        // The words of the zip archive's reader, which has no kind of its own for it.
        if source.to_string().ends_with("Invalid checksum") {
            CheckpointError::Checksum { path, name }
        } else {
            CheckpointError::Unreadable { path, name, source }
        }
    }

    fn host_dtype(&self, name: &str, tensor: &Tensor) -> Result<DType, CheckpointError> {
        // A stride of 0 makes any number of elements out of one.
        let (bytes, file_bytes) = (tensor.byte_len() as u64, self.identity.bytes());
        if bytes > file_bytes {
            let (path, name) = (self.path.clone(), name.to_owned());
            return Err(CheckpointError::LargerThanFile { path, name, bytes, file_bytes });
        }
        Ok(match tensor.dtype() {
            FileDType::F64 => DType::F64,
            FileDType::F32 => DType::F32,
            FileDType::F16 => DType::F16,
            FileDType::BF16 => DType::BF16,
            FileDType::I64 => DType::I64,
            FileDType::I32 => DType::I32,
            FileDType::I16 => DType::I16,
            FileDType::I8 => DType::I8,
            FileDType::U8 | FileDType::Bool => DType::U8,
            FileDType::U64 | FileDType::U32 | FileDType::U16 => {
                let (path, name) = (self.path.clone(), name.to_owned());
                return Err(CheckpointError::ElementType { path, name });
            }
        })
    }
}

/// Reads a plain value (no tensors) that a file holds under `key`; `None` if the file has no such key.
///
/// # Errors
/// The file cannot be read or is not what `torch.save` writes.
pub(super) fn read_value(path: &Path, key: &str) -> Result<Option<PickleValue>, CheckpointError> {
    archive::check(path)?;
    match PytorchReader::read_pickle_data(path, Some(key)) {
        Ok(PickleValue::None) | Err(PytorchError::KeyNotFound(_)) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(CheckpointError::Damaged { path: path.to_owned(), source }),
    }
}
