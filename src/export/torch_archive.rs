//! `.pt` files in the zip format of `torch.save` (torch 1.6 and later): every entry stored, tensors aligned, so that
//! `torch.load` accepts them with `weights_only=True` and with `mmap=True`. The pickle goes first and has the form of
//! every tensor; the elements follow one storage after another, so a writer holds one tensor at a time. The file is
//! written front to back (sizes and checksums follow each entry, as in torch's own files).

use std::collections::HashMap;
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use super::direct::Disk;
use super::output_file::OutputFile;
use super::pickle::{Storage, pickle};
use super::sharded_tensor::ByteSpan;
use super::{ExportError, StoredTensor, Value};
use crate::tensor::{DType, HostTensor};

/// Where torch lays tensors, in bytes (`caffe2/serialize/inline_container.h`, `kFieldAlignment`).
const ALIGNMENT: u16 = 64;

/// Bytes to write at once: the checksum finds them in a core's cache, where copying them has brought them.
const WRITTEN_AT_ONCE: usize = 1 << 18;

/// A `.pt` file that is being written. Nothing is at its path until [`TorchArchive::finish`]; dropped before that, it
/// leaves nothing behind.
pub struct TorchArchive {
    path: PathBuf,
    prefix: String,
    zip: ZipWriter<StreamWriter<OutputFile>>,
    storages: Vec<Storage>,
    written: usize,
}

impl TorchArchive {
    /// Starts a file that holds `root`; its storages are to be pushed next, in the order of their numbers.
    ///
    /// # Errors
    /// `root` has a key twice or its storages are numbered with gaps, or the folder cannot be written to.
    pub fn create(path: &Path, root: &Value) -> Result<Self, ExportError> {
        let disk = Disk::new().map_err(ExportError::at(path))?;
        Self::start(path, root, false, &disk)
    }

    /// As [`TorchArchive::create`]; `hashed` asks for the digest of the file.
    pub(super) fn start(path: &Path, root: &Value, hashed: bool, disk: &Disk) -> Result<Self, ExportError> {
        let (pickled, storages) = pickle(path, root)?;
        let bytes = storages.iter().map(|storage| (storage.element_count * storage.dtype.size()) as u64).sum();
        let zip = ZipWriter::new_stream(OutputFile::create(path, bytes, hashed, disk)?);
        let mut archive = Self { path: path.to_owned(), prefix: entry_prefix(path), zip, storages, written: 0 };
        archive.entry("data.pkl", &pickled)?;
        archive.entry("byteorder", b"little")?;
        Ok(archive)
    }

    /// Writes the next storage.
    ///
    /// # Errors
    /// The tensor is not of the form that `root` announced, all storages are written already, or the disk is full.
    pub fn push(&mut self, tensor: &HostTensor) -> Result<(), ExportError> {
        self.push_spans(tensor.dtype(), &[ByteSpan::whole(tensor.clone())])
    }

    /// Writes the next storage from parts that lie one behind another in it.
    pub(super) fn push_spans(&mut self, dtype: DType, spans: &[ByteSpan]) -> Result<(), ExportError> {
        let bytes: usize = spans.iter().map(|span| span.bytes().len()).sum();
        self.start_storage(dtype, bytes)?;
        spans.iter().try_for_each(|span| self.write(span.bytes()))
    }

    /// Begins the entry of the next storage, if it is of the form that `root` announced.
    fn start_storage(&mut self, found_dtype: DType, bytes: usize) -> Result<(), ExportError> {
        let found_count = bytes / found_dtype.size();
        let storage = self.written;
        let Some(&Storage { dtype, element_count }) = self.storages.get(storage) else {
            let (path, expected) = (self.path.clone(), self.storages.len());
            return Err(ExportError::StorageCount { path, expected, found: storage + 1 });
        };
        if (found_dtype, found_count) != (dtype, element_count) {
            return Err(ExportError::Form {
                path: self.path.clone(),
                storage,
                expected_dtype: dtype,
                expected_count: element_count,
                found_dtype,
                found_count,
            });
        }
        self.written += 1;
        self.start_entry(&format!("data/{storage}"), bytes)
    }

    /// Completes the file, waits until the disk has it and gives it its name, replacing a file of that name.
    ///
    /// # Errors
    /// Storages are missing, or the operating system refuses.
    pub fn finish(self) -> Result<(), ExportError> {
        self.close()?.publish()?;
        Ok(())
    }

    /// Completes the file, which is then to be published.
    pub(super) fn close(mut self) -> Result<OutputFile, ExportError> {
        if self.written != self.storages.len() {
            let (path, expected) = (self.path, self.storages.len());
            return Err(ExportError::StorageCount { path, expected, found: self.written });
        }
        self.entry("version", b"3\n")?;
        Ok(self.zip.finish().map_err(ExportError::at(&self.path))?.into_inner())
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.start_entry(name, bytes.len())?;
        self.write(bytes)
    }

    fn start_entry(&mut self, name: &str, bytes: usize) -> Result<(), ExportError> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(u32::try_from(bytes).is_err());
        self.zip.start_file(format!("{}/{name}", self.prefix), options).map_err(ExportError::at(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let mut pieces = bytes.chunks(WRITTEN_AT_ONCE);
        pieces.try_for_each(|piece| self.zip.write_all(piece)).map_err(ExportError::at(&self.path))
    }
}

/// Writes a file that holds `root`, asking `supply` for each storage when its turn comes.
///
/// # Errors
/// As the methods of [`TorchArchive`]; also what `supply` returns.
pub fn save<E: Into<Box<dyn Error + Send + Sync>>>(
    path: &Path,
    root: &Value,
    mut supply: impl FnMut(usize) -> Result<HostTensor, E>,
) -> Result<(), ExportError> {
    let mut archive = TorchArchive::create(path, root)?;
    for storage in 0..archive.storages.len() {
        let tensor = supply(storage).map_err(|error| ExportError::Supply {
            path: path.to_owned(),
            storage,
            source: error.into(),
        })?;
        archive.push(&tensor)?;
    }
    archive.finish()
}

/// Writes a flat `OrderedDict` of tensors. Clones of one tensor share their storage.
///
/// # Errors
/// As the methods of [`TorchArchive`].
pub fn save_tensors<'a, N: Into<String>>(
    path: &Path,
    tensors: impl IntoIterator<Item = (N, &'a HostTensor)>,
) -> Result<(), ExportError> {
    let mut numbers = HashMap::new();
    let mut distinct = Vec::new();
    let entries = tensors.into_iter().map(|(name, tensor)| {
        let storage = *numbers.entry(tensor.storage_id()).or_insert_with(|| {
            distinct.push(tensor);
            distinct.len() - 1
        });
        let stored = StoredTensor { storage, dtype: tensor.dtype(), shape: tensor.shape().to_vec() };
        (name.into(), Value::Tensor(stored))
    });
    let root = Value::OrderedDict(entries.collect());
    let mut archive = TorchArchive::create(path, &root)?;
    distinct.into_iter().try_for_each(|tensor| archive.push(tensor))?;
    archive.finish()
}

/// The prefix of the entries' names. As `torch.save`: the file's stem, and `archive` where it is not ASCII.
fn entry_prefix(path: &Path) -> String {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some(stem) if stem.is_ascii() => stem.to_owned(),
        _ => "archive".to_owned(),
    }
}
