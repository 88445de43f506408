//! The version of a libtorch, by the files beside it. The build script reads it too.

use std::path::Path;

/// The version of the libtorch in this folder of libraries: an archive says it in `build-version`, a wheel in `version.py`.
pub(crate) fn libtorch_version(libraries: &Path) -> Option<String> {
    let root = libraries.parent()?;
    if let Ok(text) = std::fs::read_to_string(root.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = std::fs::read_to_string(root.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split('\'').nth(1).map(str::to_owned)
}
