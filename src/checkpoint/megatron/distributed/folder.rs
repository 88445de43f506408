//! Where a distributed checkpoint is, and which format it has (Megatron-LM `megatron/training/checkpointing.py`,
//! `_get_checkpoint_format`).

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use super::super::error::MegatronError;
use super::super::layout::{steps, tracked};
use super::error::DistributedError;
use crate::checkpoint::error::CheckpointError;
use crate::files;

pub(super) const METADATA: &str = ".metadata";
pub(super) const COMMON: &str = "common.pt";
const FORMAT: &str = "metadata.json";
const BACKEND: &str = "sharded_backend";
const MAX_FORMAT_BYTES: u64 = 1 << 20;

/// Where other programs put the folder that Megatron calls a step: NeMo, and verl in its actor's folder or in that of a step.
const INNER: [&str; 3] = ["weights", "dist_ckpt", "actor/dist_ckpt"];

/// The step that `path` is or holds, or that its tracker names; `None` where there is no distributed checkpoint.
pub(super) fn find(path: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    if let Some(found) = at_or_in(path) {
        return Ok(Some(found));
    }
    if let Some(step) = tracked(path)? {
        return Ok(at_or_in(&step));
    }
    let steps: Vec<String> = steps(path)?.into_iter().filter(|step| at_or_in(&path.join(step)).is_some()).collect();
    if steps.is_empty() {
        return Ok(None);
    }
    Err(MegatronError::NoTracker { folder: path.to_owned(), steps }.into())
}

fn at_or_in(path: &Path) -> Option<PathBuf> {
    let inner = INNER.iter().map(|inner| path.join(inner));
    std::iter::once(path.to_owned()).chain(inner).find(|folder| is_distributed(folder))
}

fn is_distributed(folder: &Path) -> bool {
    let has_items = || {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".distcp"))
    };
    folder.join(METADATA).is_file() || backend(folder).is_some() || has_items()
}

/// What `metadata.json` says, if it is Megatron's.
fn backend(folder: &Path) -> Option<String> {
    let text = files::read_to_string(&folder.join(FORMAT), MAX_FORMAT_BYTES).ok()?;
    let format: Value = serde_json::from_str(&text).ok()?;
    format.get(BACKEND)?.as_str().map(str::to_owned)
}

/// Refuses other formats than torch_dist, as far as files and their names show them.
pub(super) fn check(folder: &Path) -> Result<(), DistributedError> {
    if let Some(found) = backend(folder).filter(|backend| backend != "torch_dist") {
        return Err(DistributedError::Backend { path: folder.join(FORMAT), found });
    }
    let path = folder.join(METADATA);
    if path.is_file() { Ok(()) } else { Err(DistributedError::NotFinished { path }) }
}

/// Refuses PyTorch's own format, which lacks `metadata.json`, and Megatron-FSDP's, by the names of their tensors.
pub(super) fn check_names<'a>(folder: &Path, mut names: impl Iterator<Item = &'a str>) -> Result<(), DistributedError> {
    let of_fsdp = names.any(|name| name.starts_with("model.module."));
    let found = match (of_fsdp, backend(folder)) {
        (true, _) => "fsdp_dtensor (Megatron-FSDP)",
        (false, None) => "torch_dcp (PyTorch's own, without Megatron's metadata.json)",
        (false, Some(_)) => return Ok(()),
    };
    Err(DistributedError::Format { folder: folder.to_owned(), found })
}
