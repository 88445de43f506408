//! What reports say about the checkpoint that they speak of.

use std::path::Path;

use super::args::ModelArgs;
use crate::checkpoint::{Checkpoint, Layout};
use crate::report::{CheckpointInfo, FileDigest};

/// Provenance of a checkpoint; `digests` of its files where they were computed.
pub(super) fn checkpoint_info(
    checkpoint: &Checkpoint,
    model: &ModelArgs,
    digests: Option<Vec<FileDigest>>,
) -> CheckpointInfo {
    let folder = checkpoint.folder();
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let step = file_name(folder).unwrap_or_default();
    let iteration = checkpoint.client().iteration.or_else(|| step.strip_prefix("global_step")?.parse().ok());
    let canonical = model.checkpoint.canonicalize().unwrap_or_else(|_| model.checkpoint.clone());
    let (parameter_count, bytes) = checkpoint.size();
    CheckpointInfo {
        path: model.checkpoint.display().to_string(),
        name: file_name(&canonical).unwrap_or(step),
        iteration: iteration.unwrap_or(0),
        tp_size: checkpoint.tp_size(),
        layout: layout_name(checkpoint.layout()).to_owned(),
        dtype: checkpoint.dtype().to_string(),
        parameter_count,
        bytes,
        architecture: checkpoint.architecture().summary(),
        digests,
    }
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::LayerFiles => "layer-files",
        Layout::RankFiles => "rank-files",
    }
}
