//! What a report says of the program and of the model's files.

use std::path::Path;

use crate::checkpoint::ModelSource;
use crate::report::{CheckpointInfo, FileDigest, Versions};

/// Provenance of a model in `given`; `digests` of its files where they were computed.
pub fn checkpoint_info(model: &dyn ModelSource, given: &Path, digests: Option<Vec<FileDigest>>) -> CheckpointInfo {
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

#[cfg(feature = "libtorch")]
pub(super) fn digests(digests: &[crate::checkpoint::FileDigest]) -> Vec<FileDigest> {
    let convert = |digest: &crate::checkpoint::FileDigest| FileDigest {
        file: digest.file.clone(),
        blake3: digest.blake3.clone(),
        bytes: digest.bytes,
    };
    digests.iter().map(convert).collect()
}

/// This program, the commit it was built from and the libtorch it was built for.
pub fn versions() -> Versions {
    let commit = env!("KINTSUGI_GIT_COMMIT");
    Versions {
        kintsugi: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: (commit != "unknown").then(|| commit.to_owned()),
        libtorch: env!("KINTSUGI_LIBTORCH_VERSION").to_owned(),
    }
}
