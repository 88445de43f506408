//! The files that a run's models are read from: whether they are what they were.

use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;

use super::error::RunError;
use super::key::Differences;
use super::provenance;
use super::records::{FileStamp, ModelsRecord};
use crate::checkpoint::{ModelSource, digest_file};
use crate::eval::Variant;
use crate::files::FileStat;
use crate::report::FileDigest;

/// Every file of a run's models, as it was when the process began.
pub(super) struct InputFiles<'a> {
    models: Vec<&'a dyn ModelSource>,
    pub stamps: Vec<FileStamp>,
}

impl<'a> InputFiles<'a> {
    pub(super) fn new(source: &'a dyn ModelSource, variants: &'a [Variant]) -> Result<Self, RunError> {
        let models: Vec<_> =
            std::iter::once(source).chain(variants.iter().filter_map(Variant::candidate_model)).collect();
        let stamps =
            models.iter().flat_map(|model| files(*model)).map(|path| stamp(&path)).collect::<Result<_, _>>()?;
        Ok(Self { models, stamps })
    }

    /// How they differ from what a journal records. Files that have been moved or touched are hashed; else nothing is read.
    pub(super) fn differences(
        &self,
        stamps: &[FileStamp],
        models: &ModelsRecord,
    ) -> Result<Option<Differences>, RunError> {
        if stamps == self.stamps {
            return Ok(None);
        }
        let candidates = models.models.iter().filter_map(|model| model.candidate.as_ref()?.digests.as_ref());
        let recorded = models.checkpoint.digests.iter().chain(candidates);
        for (model, recorded) in self.models.iter().zip(recorded) {
            let found = digests(*model)?;
            if let Some(differences) = Differences::of_files(recorded.iter(), found.iter()) {
                return Ok(Some(differences));
            }
        }
        Ok(None)
    }
}

/// The digests of a model's files, sorted by name, as the engine gives them.
fn digests(model: &dyn ModelSource) -> Result<Vec<FileDigest>, RunError> {
    let found = files(model).par_iter().map(|path| digest_file(path)).collect::<Result<Vec<_>, _>>()?;
    let mut found = provenance::digests(&found);
    found.sort_by(|left, right| left.file.cmp(&right.file));
    Ok(found)
}

fn files(model: &dyn ModelSource) -> Vec<PathBuf> {
    let mut files: Vec<_> = model.stage_ids().into_iter().flat_map(|id| model.stage_files(id)).collect();
    files.sort();
    files.dedup();
    files
}

fn stamp(path: &Path) -> Result<FileStamp, RunError> {
    let stat = FileStat::of(path)?;
    Ok(FileStamp {
        path: fs::canonicalize(path)?,
        bytes: stat.bytes(),
        modified: stat.modified_nanoseconds(),
        inode: stat.inode(),
    })
}
