//! Reading the tensors of an opened file: as runs of it where they are, and otherwise as pytorch-reader does.

use std::collections::{HashMap, HashSet};

use fs_err::File;
use fs_err::os::unix::fs::FileExt as _;

use super::place::Place;
use super::places::places;
use super::run::{Run, RunReader, Runs, Seen};
use super::stored::Stored;
use super::{Root, TorchFile};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::read_digests::PIECE_BYTES;
use crate::files;
use crate::tensor::{DType, HostTensor, first_non_finite};

/// Tensors of at most this many bytes are read both ways when the runs of a file are found: norms and biases, a small part
/// of any file.
const COMPARED_BYTES: usize = 64 << 10;

impl TorchFile {
    /// The checksum that the file has of a tensor's bytes, where it has one.
    pub(in crate::checkpoint) fn checksum(&self, name: &str) -> Option<u32> {
        self.run(name)?.1.crc32
    }

    /// Reads one tensor, contiguous and row-major whatever its strides in the file.
    pub fn read(&self, name: &str) -> Result<HostTensor, CheckpointError> {
        Ok(self.read_and_search(name)?.0)
    }

    /// As [`TorchFile::read`]; also returns the row-major index of its first NaN or infinity, if it has one.
    pub fn read_and_search(&self, name: &str) -> Result<(HostTensor, Option<usize>), CheckpointError> {
        let (tensor, dtype) = self.find(name)?;
        let of_tensor = |bytes, pool| {
            HostTensor::of_pool(dtype, tensor.shape().to_vec(), bytes, pool).map_err(|source| {
                let (path, name) = (self.path.clone(), name.to_owned());
                CheckpointError::Tensor { path, name, source }
            })
        };
        let Some((file, run)) = self.run(name) else {
            let read = of_tensor(tensor.read().map_err(|source| self.unreadable(name, source))?, None)?;
            let non_finite = read.first_non_finite();
            return Ok((read, non_finite));
        };
        let (pool, count) = (self.reading.pool.clone(), tensor.byte_len());
        let mut bytes = pool.as_ref().map_or_else(|| vec![0; count], |pool| pool.take(count));
        let mut reader = self.reader(file, run);
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (piece, further) = rest.split_at_mut(rest.len().min(reader.next_bytes()));
            reader.read(piece).map_err(|source| self.unreadable(name, source))?;
            rest = further;
        }
        let non_finite = self.checked(name, reader)?;
        Ok((of_tensor(bytes, pool)?, non_finite))
    }

    /// Reads one tensor piece by piece, in order, and has `take` each with its place in the tensor's bytes, row-major: of one
    /// that is one run of the file there is a piece in memory at a time. Returns what [`TorchFile::read_and_search`] does beside
    /// the tensor.
    pub(in crate::checkpoint) fn read_pieces(
        &self,
        name: &str,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<Option<usize>, CheckpointError> {
        let (tensor, dtype) = self.find(name)?;
        let Some((file, run)) = self.run(name) else {
            let bytes = tensor.read().map_err(|source| self.unreadable(name, source))?;
            take(0, &bytes);
            return Ok(first_non_finite(dtype, &bytes));
        };
        let mut reader = self.reader(file, run);
        let (count, mut at) = (tensor.byte_len(), 0);
        let mut buffer = vec![0; count.min(PIECE_BYTES)];
        while at < count {
            let piece = &mut buffer[..reader.next_bytes().min(count - at)];
            reader.read(piece).map_err(|source| self.unreadable(name, source))?;
            take(at, piece);
            at += piece.len();
        }
        self.checked(name, reader)
    }

    fn find(&self, name: &str) -> Result<(&Stored, DType), CheckpointError> {
        let missing = || CheckpointError::MissingTensor { path: self.path.clone(), name: name.to_owned() };
        let tensor = self.tensors.get(name).ok_or_else(missing)?;
        Ok((tensor, self.host_dtype(name, tensor)?))
    }

    fn run(&self, name: &str) -> Option<(&File, &Run)> {
        let Runs { file, places } = self.runs.get_or_init(|| self.find_runs()).as_ref()?;
        Some((file, places.get(name)?))
    }

    fn reader<'a>(&'a self, file: &'a File, run: &'a Run) -> RunReader<'a> {
        let digest = self.reading.digests.as_ref().and_then(|digests| digests.of(&self.path));
        RunReader::new(file, run, digest)
    }

    /// What a reader has found in a run that it has read.
    fn checked(&self, name: &str, reader: RunReader<'_>) -> Result<Option<usize>, CheckpointError> {
        match reader.finish() {
            Seen { fits_checksum: true, non_finite } => Ok(non_finite),
            _ => Err(CheckpointError::Checksum { path: self.path.clone(), name: name.to_owned() }),
        }
    }

    /// Finds the tensors that are one run of the file. `None` for a file that is not an archive, or whose pickle holds
    /// anything but tensors.
    pub(super) fn find_runs(&self) -> Option<Runs> {
        let Root::Flat(key) = &self.root else { return self.nested_runs() };
        let (file, pickle, folder) = self.entries.read_pickle(&self.path)?;
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
    pub(super) fn runs(&self, folder: &str, places: HashMap<String, Place>) -> HashMap<String, Run> {
        let run = |place: Place| Run::of(self.entries.get(&format!("{folder}{}", place.storage))?, place);
        places.into_iter().filter_map(|(name, place)| Some((name, run(place)?))).collect()
    }

    /// Compares the runs with pytorch-reader's understanding of the file and keeps those that are proven. A small one is
    /// read both ways; one difference and none of the file is trusted. A large one must be the only tensor of its storage
    /// and fill it, so that its offset can only be 0. All others are left to pytorch-reader.
    pub(super) fn check_runs(&self, file: &File, mut runs: HashMap<String, Run>) -> Option<HashMap<String, Run>> {
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

    pub(super) fn host_dtype(&self, name: &str, tensor: &Stored) -> Result<DType, CheckpointError> {
        // A stride of 0 makes any number of elements from one.
        let (bytes, file_bytes) = (tensor.byte_len() as u64, self.identity.bytes());
        if bytes > file_bytes {
            let (path, name) = (self.path.clone(), name.to_owned());
            return Err(CheckpointError::LargerThanFile { path, name, bytes, file_bytes });
        }
        tensor.dtype().ok_or_else(|| CheckpointError::ElementType { path: self.path.clone(), name: name.to_owned() })
    }
}
