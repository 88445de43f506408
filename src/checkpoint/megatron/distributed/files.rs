//! The files with the items of a distributed checkpoint (`__0_0.distcp`), each item an archive of one tensor.

use std::path::{Path, PathBuf};

use super::error::DistributedError;
use super::tiles;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::torch_file::{Item, Part, Reading, TorchFile};
use crate::checkpoint::unchanged;
use crate::files::FileStat;
use crate::tensor::DType;

#[derive(Debug)]
pub(super) struct ItemFiles {
    /// `None` for a file that is not there.
    files: Vec<(PathBuf, Option<FileStat>)>,
}

impl ItemFiles {
    /// Files of a folder. Messages name the file that names them.
    pub(super) fn new(folder: &Path, names: &[String], metadata: &Path) -> Result<Self, CheckpointError> {
        let file = |name: &String| {
            if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with("..") {
                let (path, name) = (metadata.to_owned(), name.clone());
                return Err(DistributedError::FileName { path, name }.into());
            }
            let path = folder.join(name);
            let stat = if path.exists() { Some(FileStat::of(&path)?) } else { None };
            Ok((path, stat))
        };
        Ok(Self { files: names.iter().map(file).collect::<Result<_, CheckpointError>>()? })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|(_, stat)| Some(stat.as_ref()?.bytes())).fold(0, u64::saturating_add)
    }

    pub(super) fn path(&self, number: usize) -> &Path {
        &self.files[number].0
    }

    pub(super) fn check_unchanged(&self, number: usize) -> Result<(), CheckpointError> {
        match &self.files[number] {
            (path, Some(stat)) => unchanged::check(path, stat),
            _ => Ok(()),
        }
    }

    /// Checks that a file has the bytes of a part, and that they may be its.
    pub(super) fn check(&self, metadata: &Path, name: &str, dtype: DType, part: &Part) -> Result<(), DistributedError> {
        let shown = || tiles::shown(&tiles::region(part));
        let Some(Item { file, offset, length, transforms }) = &part.item else {
            // A part without elements is not written.
            if part.sizes.contains(&0) {
                return Ok(());
            }
            let (path, name, part) = (metadata.to_owned(), name.to_owned(), shown());
            return Err(DistributedError::MissingPart { path, name, part });
        };
        let (offset, length) = (*offset, *length);
        let (path, stat) = &self.files[*file];
        let (path, name) = (|| path.clone(), || name.to_owned());
        let Some(stat) = stat else { return Err(DistributedError::MissingFile { path: path(), name: name() }) };
        let bytes = stat.bytes();
        if offset.checked_add(length).is_none_or(|end| end > bytes) {
            return Err(DistributedError::Beyond { path: path(), name: name(), offset, length, bytes });
        }
        if let Some(transform) = transforms.first().cloned() {
            return Err(DistributedError::Transformed { path: path(), name: name(), transform });
        }
        let mut extents = part.sizes.iter();
        let own = extents.try_fold(dtype.size() as u64, |bytes, &extent| bytes.checked_mul(extent as u64));
        if own.is_none_or(|own| own > length) {
            return Err(DistributedError::Small { path: path(), name: name(), part: shown(), offset, length });
        }
        Ok(())
    }

    /// Reads a part piece by piece; `take` gets each with its place in the part's bytes.
    pub(super) fn read(
        &self,
        name: &str,
        dtype: DType,
        part: &Part,
        reading: &Reading,
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), CheckpointError> {
        let Some(Item { file, offset, length, .. }) = part.item else { return Ok(()) };
        let path = self.path(file);
        let item =
            TorchFile::open_item(path, offset..offset.saturating_add(length), name).map_err(|error| match error {
                CheckpointError::Archive { path, reason } => {
                    DistributedError::Item { path, name: name.to_owned(), offset, reason }.into()
                }
                error => error,
            })?;
        let form = |dtype: DType, shape: &[usize]| format!("{dtype} {shape:?}");
        let found = item.form(name);
        if !found.as_ref().is_some_and(|form| form.dtype == dtype && form.shape == part.sizes) {
            let found = found.map_or_else(|| "an unknown type".to_owned(), |found| form(found.dtype, &found.shape));
            let (path, name, expected) = (path.to_owned(), name.to_owned(), form(dtype, &part.sizes));
            return Err(DistributedError::Form { path, name, offset, expected, found }.into());
        }
        match item.reading(reading.clone()).read_pieces(name, take)? {
            Some(index) => {
                let (path, name) = (path.to_owned(), name.to_owned());
                Err(CheckpointError::NonFinite { path, tp_rank: 0, name, index })
            }
            None => Ok(()),
        }
    }
}
