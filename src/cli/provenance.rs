//! What reports say about the checkpoint that they speak of.

use std::path::Path;

use crate::checkpoint::ModelSource;
use crate::report::{CheckpointInfo, FileDigest};

/// Provenance of a model in `given`; `digests` of its files where they were computed.
pub(super) fn checkpoint_info(
    model: &dyn ModelSource,
    given: &Path,
    digests: Option<Vec<FileDigest>>,
) -> CheckpointInfo {
    let file_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let canonical = given.canonicalize().unwrap_or_else(|_| given.to_owned());
    let (parameter_count, bytes) = model.size();
    CheckpointInfo {
        path: given.display().to_string(),
        name: file_name(&canonical).or_else(|| file_name(model.folder())).unwrap_or_default(),
        iteration: model.iteration().unwrap_or(0),
        tp_size: model.tp_size(),
        layout: model.layout_name().to_owned(),
        dtype: model.dtype().to_string(),
        parameter_count,
        bytes,
        architecture: model.architecture().summary(),
        digests,
    }
}
