//! What a report says of the program and of the model's files.

use std::path::{Path, PathBuf};

use super::libtorch_version::libtorch_version;
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

/// This program, the commit it was built from and the libtorch that computes, which need not be the one it was built for.
pub fn versions() -> Versions {
    let commit = env!("KINTSUGI_GIT_COMMIT");
    Versions {
        kintsugi: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: (commit != "unknown").then(|| commit.to_owned()),
        libtorch: libtorch(loaded_libtorch().as_deref()),
    }
}

/// The folder of the libtorch that the loader has found for this process; `None` where it is part of the executable.
pub(crate) fn loaded_libtorch() -> Option<PathBuf> {
    libraries(&fs_err::read_to_string("/proc/self/maps").unwrap_or_default())
}

fn libraries(maps: &str) -> Option<PathBuf> {
    let mut mapped = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    mapped.find(|path| path.ends_with("libtorch_cpu.so"))?.parent().map(Path::to_owned)
}

fn libtorch(loaded: Option<&Path>) -> String {
    match loaded {
        Some(libraries) => libtorch_version(libraries).unwrap_or_else(|| "unknown".to_owned()),
        None => env!("KINTSUGI_LIBTORCH_VERSION").to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_libtorch_that_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("lib");
        let maps = format!(
            "7f00-7f01 r-xp 00000000 08:01 42    /usr/lib/libc.so.6\n7f02-7f03 rw-p 00000000 00:00 0 \n\
             7f04-7f05 r--p 00000000 08:01 43    {}/libtorch_cpu.so\n",
            place.display()
        );
        let found = libraries(&maps);
        assert_eq!(found.as_deref(), Some(place.as_path()));
        assert_eq!(libtorch(found.as_deref()), "unknown");
        fs_err::write(folder.path().join("version.py"), "__version__ = '2.11.7+cpu'\n").unwrap();
        assert_eq!(libtorch(found.as_deref()), "2.11.7+cpu");
        assert_eq!(
            libtorch(libraries("7f00-7f01 r-xp 0 08:01 42 /usr/lib/libc.so.6").as_deref()),
            env!("KINTSUGI_LIBTORCH_VERSION")
        );
    }
}
