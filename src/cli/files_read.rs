//! The files that models are read from: whether they are what they were.

use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;

use super::evaluation;
use crate::checkpoint::{self, ModelSource, digest_file};
use crate::eval::Variant;
use crate::files::Identity;
use crate::report::{FileDigest, FileStamp, ModelsRecord};
use crate::samples::{Differences, SampleError};

/// Every file of a run's models, as it was when the process began.
pub(super) struct FilesRead<'a> {
    models: Vec<&'a dyn ModelSource>,
    stamps: Vec<FileStamp>,
}

impl<'a> FilesRead<'a> {
    pub(super) fn new(checkpoint: &'a dyn ModelSource, variants: &'a [Variant]) -> Result<Self, SampleError> {
        let candidates = variants.iter().filter_map(Variant::candidate_model);
        let models: Vec<_> = std::iter::once(checkpoint).chain(candidates).collect();
        let stamps =
            models.iter().flat_map(|model| files(*model)).map(|path| stamp(&path)).collect::<Result<_, _>>()?;
        Ok(Self { models, stamps })
    }

    pub(super) fn stamps(&self) -> &[FileStamp] {
        &self.stamps
    }

    /// The digests of the checkpoint's files, sorted by name. Reads all of them.
    pub(super) fn digests_of_checkpoint(&self) -> Result<Vec<FileDigest>, SampleError> {
        let digests = self.models.first().map(|model| digests(*model)).transpose()?;
        Ok(evaluation::digests(&digests.unwrap_or_default()))
    }

    /// What is not as a journal has it. Files that have been moved or touched are hashed; else nothing is read.
    pub(super) fn differences(
        &self,
        stamps: &[FileStamp],
        models: &ModelsRecord,
    ) -> Result<Option<Differences>, SampleError> {
        if stamps == self.stamps {
            return Ok(None);
        }
        let candidates = models.models.iter().filter_map(|model| model.candidate.as_ref()?.digests.as_ref());
        let recorded = models.checkpoint.digests.iter().chain(candidates);
        for (model, recorded) in self.models.iter().zip(recorded) {
            let found = digests(*model)?;
            for at in 0..found.len().max(recorded.len()) {
                let (recorded, found) = (recorded.get(at), found.get(at));
                let recorded_sum = recorded.map_or("absent", |digest| digest.blake3.as_str());
                let found_sum = found.map_or("absent", |digest| digest.blake3.as_str());
                if recorded_sum != found_sum {
                    let name = |digest: &FileDigest| digest.file.clone();
                    let file = recorded.map(name).or(found.map(|digest| digest.file.clone())).unwrap_or_default();
                    return Ok(Some(Differences::of(&file, recorded_sum, found_sum)));
                }
            }
        }
        Ok(None)
    }
}

/// The digests of a model's files, sorted by name, as the engine gives them.
fn digests(model: &dyn ModelSource) -> Result<Vec<checkpoint::FileDigest>, SampleError> {
    let mut found = files(model).par_iter().map(|path| digest_file(path)).collect::<Result<Vec<_>, _>>()?;
    found.sort_by(|left, right| left.file.cmp(&right.file));
    Ok(found)
}

/// A model's files, each once.
fn files(model: &dyn ModelSource) -> Vec<PathBuf> {
    let mut files: Vec<_> = model.stage_ids().into_iter().flat_map(|id| model.stage_files(id)).collect();
    files.sort();
    files.dedup();
    files
}

fn stamp(path: &Path) -> Result<FileStamp, SampleError> {
    let look = Identity::of(path)?;
    Ok(FileStamp {
        path: fs::canonicalize(path)?,
        bytes: look.bytes(),
        modified: look.modified_nanoseconds(),
        inode: look.inode(),
    })
}
