//! The files of a Hugging Face directory: one or several, safetensors or pickled, and which tensor is where. Headers are
//! read at once, a tensor's bytes when asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, tensor::Metadata};
use serde::Deserialize;

use super::error::HuggingFaceError;
use super::names::GPT2_PREFIX;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::torch_file::{TensorForm, TorchFile, is_model_name};
use crate::checkpoint::unchanged;
use crate::files::{self, FileStat};
use crate::hub::WEIGHT_FILES;
use crate::tensor::{DType, HostTensor};

const LENGTH_BYTES: u64 = 8;
/// As the safetensors crate has it: no header of a real model comes near.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// An index names every tensor in a line.
const MAX_INDEX_BYTES: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct WeightFiles {
    files: Vec<WeightFile>,
    places: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    file: usize,
    form: TensorForm,
}

#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    identity: FileStat,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Safetensors { metadata: Metadata, data_start: u64 },
    Pickled(TorchFile),
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether a folder holds a configuration or weights under one of transformers' names.
pub(in crate::checkpoint) fn is_hugging_face(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has("config.json") || WEIGHT_FILES.iter().any(|(single, index)| has(single) || has(index))
}

/// Whether the weights of a folder have the names of gpt-neox's modules: the output of `zero_to_fp32.py`.
pub(in crate::checkpoint) fn holds_model_of_neox(folder: &Path) -> bool {
    WeightFiles::open(folder).is_ok_and(|files| files.forms().any(|(name, _)| is_model_name(name)))
}

impl WeightFiles {
    pub(super) fn open(folder: &Path) -> Result<Self, CheckpointError> {
        for (single, index) in WEIGHT_FILES {
            let (single, index) = (folder.join(single), folder.join(index));
            if single.is_file() {
                return Self::gather(vec![WeightFile::open(single)?], None);
            }
            if index.is_file() {
                let places = read_index(&index)?;
                let names: BTreeSet<_> = places.values().collect();
                let files =
                    names.into_iter().map(|name| WeightFile::open(folder.join(name))).collect::<Result<_, _>>()?;
                return Self::gather(files, Some(&places));
            }
        }
        Err(HuggingFaceError::NoWeights { folder: folder.to_owned() }.into())
    }

    /// Tensors of files that are not there yet.
    pub(super) fn of_forms(forms: BTreeMap<String, TensorForm>) -> Self {
        let places = forms.into_iter().map(|(name, form)| (name, Place { file: 0, form }));
        Self { files: Vec::new(), places: places.collect() }
    }

    /// Every tensor with its file; each must be in the file that the index names.
    fn gather(files: Vec<WeightFile>, index: Option<&BTreeMap<String, String>>) -> Result<Self, CheckpointError> {
        let mut places = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for (name, form) in file.forms()? {
                let here = index.is_none_or(|index| index.get(&name).is_some_and(|place| file.path.ends_with(place)));
                if !here {
                    return Err(HuggingFaceError::NotIndexed { path: file.path.clone(), name }.into());
                }
                places.insert(name, Place { file: at, form });
            }
        }
        for (name, place) in index.into_iter().flatten() {
            if let (false, Some(file)) =
                (places.contains_key(name), files.iter().find(|file| file.path.ends_with(place)))
            {
                return Err(CheckpointError::MissingTensor { path: file.path.clone(), name: name.clone() });
            }
        }
        Ok(Self { files, places })
    }

    pub(super) fn forms(&self) -> impl Iterator<Item = (&String, &TensorForm)> {
        self.places.iter().map(|(name, place)| (name, &place.form))
    }

    pub(super) fn form(&self, name: &str) -> Option<&TensorForm> {
        self.places.get(name).map(|place| &place.form)
    }

    /// The name under which a tensor is there: GPT-2's may lack what they begin with.
    pub(super) fn spelled(&self, name: String) -> String {
        match name.strip_prefix(GPT2_PREFIX) {
            Some(bare) if !self.places.contains_key(&name) && self.places.contains_key(bare) => bare.to_owned(),
            _ => name,
        }
    }

    /// The file that holds a tensor; the first file for one that is nowhere.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let file = self.places.get(name).map_or(0, |place| place.file);
        self.files.get(file).map_or_else(PathBuf::new, |file| file.path.clone())
    }

    pub(super) fn read(&self, name: &str) -> Result<HostTensor, CheckpointError> {
        let path = self.path(name);
        let missing = || CheckpointError::MissingTensor { path: path.clone(), name: name.to_owned() };
        let place = self.places.get(name).ok_or_else(missing)?;
        self.files[place.file].read(name, &place.form)
    }

    pub(super) fn check_unchanged(&self, name: &str) -> Result<(), CheckpointError> {
        match self.places.get(name).and_then(|place| self.files.get(place.file)) {
            Some(file) => unchanged::check(&file.path, &file.identity),
            None => Ok(()),
        }
    }
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            let file = TorchFile::open(&path)?;
            return Ok(Self { path, identity: file.identity(), format: Format::Pickled(file) });
        }
        let damaged = |message: String| HuggingFaceError::Damaged { path: path.clone(), message };
        let identity = FileStat::of(&path)?;
        let size = identity.bytes();
        let mut file = files::open(&path)?;
        let mut length = [0_u8; 8];
        if size < LENGTH_BYTES {
            return Err(damaged(SafeTensorError::HeaderTooSmall.to_string()).into());
        }
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES || length > size - LENGTH_BYTES {
            return Err(damaged(format!("a header of {length} bytes does not fit a file of {size}")).into());
        }
        let mut header = Vec::new();
        file.take(length).read_to_end(&mut header)?;
        // Checks that the tensors fill the data without holes and match their shapes.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
        let data_start = LENGTH_BYTES + length;
        let (expected, found) = (metadata.data_len() as u64, size - data_start);
        if expected != found {
            return Err(damaged(format!("the header lists {expected} bytes of tensors, found {found}")).into());
        }
        Ok(Self { path, identity, format: Format::Safetensors { metadata, data_start } })
    }

    fn forms(&self) -> Result<BTreeMap<String, TensorForm>, CheckpointError> {
        match &self.format {
            Format::Pickled(shard) => shard.forms(),
            Format::Safetensors { metadata, .. } => metadata
                .tensors()
                .into_iter()
                .map(|(name, info)| {
                    let Some(dtype) = host_dtype(info.dtype) else {
                        let (path, found) = (self.path.clone(), format!("{:?}", info.dtype));
                        return Err(HuggingFaceError::NotFloat { path, name, found }.into());
                    };
                    Ok((name, TensorForm { dtype, shape: info.shape.clone() }))
                })
                .collect(),
        }
    }

    fn read(&self, name: &str, form: &TensorForm) -> Result<HostTensor, CheckpointError> {
        let (metadata, data_start) = match &self.format {
            Format::Pickled(shard) => return shard.read(name),
            Format::Safetensors { metadata, data_start } => (metadata, data_start),
        };
        let path = &self.path;
        let missing = || CheckpointError::MissingTensor { path: path.clone(), name: name.to_owned() };
        let (start, end) = metadata.info(name).ok_or_else(missing)?.data_offsets;
        let unreadable = |source| {
            let (path, name) = (path.clone(), name.to_owned());
            CheckpointError::Unreadable { path, name, source }
        };
        let mut file = files::open(path)?;
        file.seek(SeekFrom::Start(data_start + start as u64)).map_err(unreadable)?;
        let mut bytes = vec![0_u8; end - start];
        file.read_exact(&mut bytes).map_err(unreadable)?;
        HostTensor::new(form.dtype, form.shape.clone(), bytes).map_err(|source| {
            let (path, name) = (path.clone(), name.to_owned());
            CheckpointError::Tensor { path, name, source }
        })
    }
}

/// Where each tensor is, by an index whose every file lies in the same folder.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, HuggingFaceError> {
    let broken = |message: String| HuggingFaceError::Index { path: path.to_owned(), message };
    let text = files::read(path, MAX_INDEX_BYTES)?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for (name, file) in &weight_map {
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        if !plain || !folder.join(file).is_file() {
            let (name, file) = (name.clone(), file.clone());
            return Err(HuggingFaceError::IndexPlace { path: path.to_owned(), name, file });
        }
    }
    if weight_map.is_empty() {
        return Err(broken("`weight_map` is empty".to_owned()));
    }
    Ok(weight_map)
}

/// `None` for types that no tensor of such a model has: 8-bit floats and smaller, unsigned and complex numbers.
fn host_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => return None,
    })
}
