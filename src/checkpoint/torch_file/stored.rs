//! A tensor of a file, as pytorch-reader has it, or by its place where pytorch-reader does not accept the file's pickle.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use pytorch_reader::{DType as FileDType, Tensor};

use super::archive::Entry;
use super::place::Place;
use crate::files;
use crate::tensor::DType;

#[derive(Debug)]
pub(super) enum Stored {
    Read(Tensor),
    Placed { path: PathBuf, entry: Entry, place: Place },
    Unknown,
}

impl Stored {
    /// `None` for types that no model parameter has.
    pub(super) fn dtype(&self) -> Option<DType> {
        Some(match self {
            Self::Placed { place, .. } => place.dtype,
            Self::Unknown => return None,
            Self::Read(tensor) => match tensor.dtype() {
                FileDType::F64 => DType::F64,
                FileDType::F32 => DType::F32,
                FileDType::F16 => DType::F16,
                FileDType::BF16 => DType::BF16,
                FileDType::I64 => DType::I64,
                FileDType::I32 => DType::I32,
                FileDType::I16 => DType::I16,
                FileDType::I8 => DType::I8,
                FileDType::U8 | FileDType::Bool => DType::U8,
                FileDType::U64 | FileDType::U32 | FileDType::U16 => return None,
            },
        })
    }

    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Read(tensor) => tensor.shape(),
            Self::Placed { place, .. } => &place.shape,
            Self::Unknown => &[],
        }
    }

    /// Bytes of all elements; saturates.
    pub(super) fn byte_len(&self) -> usize {
        match self {
            Self::Read(tensor) => tensor.byte_len(),
            Self::Placed { place, .. } => {
                place.shape.iter().fold(place.dtype.size(), |bytes, &size| bytes.saturating_mul(size))
            }
            Self::Unknown => 0,
        }
    }

    pub(super) fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Read(tensor) => tensor.read(),
            Self::Placed { path, entry, place } => {
                let outside = || Error::new(ErrorKind::UnexpectedEof, "the tensor reaches beyond its storage");
                let Some(extent) = place.extent() else { return Ok(Vec::new()) };
                let size = place.dtype.size() as u64;
                let start = place.first.checked_mul(size).ok_or_else(outside)?;
                let bytes = extent.checked_mul(size).ok_or_else(outside)?;
                if start.checked_add(bytes).is_none_or(|end| end > entry.bytes) {
                    return Err(outside());
                }
                let mut window = vec![0; usize::try_from(bytes).map_err(|_| outside())?];
                files::open(path)?.file().read_exact_at(&mut window, entry.start + start)?;
                Ok(if place.is_run() { window } else { gather(&window, place) })
            }
            Self::Unknown => Err(Error::new(ErrorKind::Unsupported, "unsupported element type")),
        }
    }
}

/// The elements of a strided tensor, whose first is the first of the window.
fn gather(window: &[u8], place: &Place) -> Vec<u8> {
    let size = place.dtype.size();
    let mut offsets = vec![0_usize];
    for (&extent, &stride) in place.shape.iter().zip(&place.strides) {
        let stride = usize::try_from(stride).unwrap_or(0) * size;
        offsets = offsets.iter().flat_map(|offset| (0..extent).map(move |index| offset + index * stride)).collect();
    }
    offsets.into_iter().flat_map(|offset| window[offset..offset + size].iter().copied()).collect()
}
