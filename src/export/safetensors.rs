//! Safetensors files, written front to back: eight bytes of length, a JSON header that names every tensor with its
//! place, then the tensors without gaps (<https://huggingface.co/docs/safetensors>).

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::ExportError;
use super::direct::Disk;
use super::output_file::OutputFile;
use super::sharded_tensor::ByteSpan;
use crate::tensor::DType;

/// The header is padded so that the tensors begin at a multiple of this, in bytes.
const ALIGNMENT: usize = 8;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorHeader {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorHeader {
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().map(|&extent| extent as u64).product::<u64>() * self.dtype.size() as u64
    }
}

/// A file that is being written. It leaves nothing behind unless it is published.
pub(super) struct SafetensorsFile {
    path: PathBuf,
    out: OutputFile,
    expected: Vec<u64>,
    written: usize,
}

impl SafetensorsFile {
    /// Starts a file; the tensors are to be pushed next, in this order.
    pub(super) fn create(path: &Path, tensors: &[TensorHeader], disk: &Disk) -> Result<Self, ExportError> {
        let expected: Vec<u64> = tensors.iter().map(TensorHeader::bytes).collect();
        let mut out = OutputFile::create(path, expected.iter().sum(), true, disk)?;
        let header = header(tensors);
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(ExportError::at(path))?;
        out.write_all(&header).map_err(ExportError::at(path))?;
        Ok(Self { path: path.to_owned(), out, expected, written: 0 })
    }

    /// Writes the next tensor from parts that lie one behind another in it.
    pub(super) fn push(&mut self, spans: &[ByteSpan]) -> Result<(), ExportError> {
        let found: u64 = spans.iter().map(|span| span.bytes().len() as u64).sum();
        let expected = self.expected.get(self.written).copied().unwrap_or(0);
        if found != expected {
            let (path, tensor) = (self.path.clone(), self.written);
            return Err(ExportError::TensorBytes { path, tensor, expected, found });
        }
        self.written += 1;
        spans.iter().try_for_each(|span| self.out.write_all(span.bytes())).map_err(ExportError::at(&self.path))
    }

    /// Completes the file, which is then to be published.
    pub(super) fn close(self) -> Result<OutputFile, ExportError> {
        if self.written != self.expected.len() {
            let (path, expected) = (self.path, self.expected.len());
            return Err(ExportError::StorageCount { path, expected, found: self.written });
        }
        Ok(self.out)
    }
}

fn header(tensors: &[TensorHeader]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes();
        let entry = json!({
            "dtype": tensor.dtype.name().to_uppercase(),
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        entries.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    header
}
