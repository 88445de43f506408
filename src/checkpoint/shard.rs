//! One `.pt` file. The only place that knows pytorch-reader: pickles are parsed, never executed, classes it does not
//! know stay opaque, and a tensor's bytes are read when asked for, through whatever offset, stride and shared storage
//! the file gives it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use pytorch_reader::{DType as FileDType, PickleValue, PytorchError, PytorchReader, Tensor};

use super::{CheckpointError, archive};
use crate::files::Identity;
use crate::tensor::{DType, HostTensor};

/// An opened `.pt` file: names, types and shapes are known, no tensor is read yet.
pub struct Shard {
    path: PathBuf,
    identity: Identity,
    tensors: HashMap<String, Tensor>,
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
        let identity = archive::check(path)?;
        Self::from_reader(path, identity, PytorchReader::new(path))
    }

    /// Opens the dictionary of tensors that a file holds under `key`.
    ///
    /// # Errors
    /// As [`Shard::open`]; also when there is no such key or it holds `None`.
    pub fn open_key(path: &Path, key: &str) -> Result<Self, CheckpointError> {
        let identity = archive::check(path)?;
        let reader = PytorchReader::with_top_level_key(path, key);
        if reader.is_err() && matches!(read_value(path, key), Ok(None)) {
            return Err(CheckpointError::NoModel { path: path.to_owned() });
        }
        Self::from_reader(path, identity, reader)
    }

    fn from_reader(
        path: &Path,
        identity: Identity,
        reader: Result<PytorchReader, PytorchError>,
    ) -> Result<Self, CheckpointError> {
        let reader = reader.map_err(|source| CheckpointError::Damaged { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), identity, tensors: reader.into_tensors() })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What tells whether the file is still the one that was opened.
    #[must_use]
    pub fn identity(&self) -> Identity {
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
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() })?;
        let dtype = self.host_dtype(name, tensor)?;
        let bytes = tensor.read().map_err(|source| {
            let (path, name) = (self.path.clone(), name.to_owned());
            // The words of the zip archive's reader, which has no kind of its own for it.
            if source.to_string().ends_with("Invalid checksum") {
                CheckpointError::Checksum { path, name }
            } else {
                CheckpointError::Unreadable { path, name, source }
            }
        })?;
        HostTensor::new(dtype, tensor.shape().to_vec(), bytes).map_err(|source| CheckpointError::Tensor {
            path: self.path.clone(),
            name: name.to_owned(),
            source,
        })
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
