//! Tensors whose elements lie one behind another in the file.

use std::collections::HashMap;

use fs_err::File;

use super::archive::Entry;
use super::place::Place;

/// Tensors that are one run of the file each.
pub(super) struct Runs {
    pub file: File,
    pub places: HashMap<String, Run>,
}

pub(super) struct Run {
    pub start: u64,
    pub place: Place,
    pub fills_storage: bool,
    /// Of exactly these bytes, where the file has one.
    pub crc32: Option<u32>,
}

impl Run {
    /// A place as a run of the file; `None` where it reaches beyond its storage.
    pub(super) fn of(entry: Entry, place: Place) -> Option<Self> {
        let size = place.dtype.size() as u64;
        let count = place.shape.iter().try_fold(1, |count: u64, &extent| count.checked_mul(extent as u64))?;
        let (first, bytes) = (place.first.checked_mul(size)?, count.checked_mul(size)?);
        let start = entry.start.checked_add(first)?;
        let inside = bytes > 0 && first.checked_add(bytes)? <= entry.bytes;
        let fills_storage = bytes == entry.bytes;
        let crc32 = Some(entry.crc32).filter(|&crc32| crc32 != 0 && fills_storage);
        inside.then_some(Self { start, place, fills_storage, crc32 })
    }
}
