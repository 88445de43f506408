//! What was written is opened again, as any reader would, before it gets its name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use super::ExportError;
use crate::checkpoint::{CheckpointError, FileDigest, TensorForm};

/// Opens it without the reader's warnings: they were given when the source was opened.
pub(super) fn reopen<M>(folder: &Path, open: impl FnOnce() -> Result<M, CheckpointError>) -> Result<M, ExportError> {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), open)
        .map_err(|source| ExportError::Reopened { path: folder.to_owned(), reason: source.to_string() })
}

/// Every tensor is there in its form, and no other one is.
pub(super) fn compare<K: Ord + Debug>(
    folder: &Path,
    expected: &BTreeMap<K, TensorForm>,
    found: &BTreeMap<K, TensorForm>,
) -> Result<(), ExportError> {
    let differs = |name: &&K| expected.get(*name) != found.get(*name);
    match expected.keys().chain(found.keys()).find(differs) {
        None => Ok(()),
        Some(name) => {
            let text = |form: Option<&TensorForm>| {
                form.map_or_else(|| "nothing".to_owned(), |form| format!("{:?} of {}", form.shape, form.dtype))
            };
            let (expected, found) = (text(expected.get(name)), text(found.get(name)));
            let reason = format!("tensor {name:?}: expected {expected}, found {found}");
            Err(ExportError::Reopened { path: folder.to_owned(), reason })
        }
    }
}

/// Every file has the size that was written.
pub(super) fn check_sizes(folder: &Path, files: &[FileDigest]) -> Result<(), ExportError> {
    for FileDigest { file, bytes: expected, .. } in files {
        let path = folder.join(file);
        let found = fs_err::metadata(&path).map_err(ExportError::at(&path))?.len();
        if found != *expected {
            return Err(ExportError::Reopened { path, reason: format!("expected {expected} bytes, found {found}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn what_is_missing_more_or_of_another_form_is_found() {
        let form = |rows| TensorForm { dtype: DType::F32, shape: vec![rows, 2] };
        let planned = BTreeMap::from([("a", form(1)), ("b", form(2))]);
        let complaint = |found: &[(&'static str, TensorForm)]| {
            let found = found.iter().cloned().collect();
            compare(Path::new("out"), &planned, &found).map_err(|error| error.to_string()).unwrap_err()
        };
        assert!(compare(Path::new("out"), &planned, &planned.clone()).is_ok());
        assert!(complaint(&[("a", form(1))]).ends_with("tensor \"b\": expected [2, 2] of f32, found nothing"));
        assert!(complaint(&[("a", form(1)), ("b", form(3))]).ends_with("found [3, 2] of f32"));
        let more = complaint(&[("a", form(1)), ("b", form(2)), ("c", form(1))]);
        assert!(more.ends_with("tensor \"c\": expected nothing, found [1, 2] of f32"), "{more}");
        let half = TensorForm { dtype: DType::F16, ..form(1) };
        assert!(complaint(&[("a", half), ("b", form(2))]).ends_with("found [1, 2] of f16"));
    }

    #[test]
    fn a_file_that_lost_its_end_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("weights"), "1234").unwrap();
        let file = |bytes| FileDigest { file: "weights".to_owned(), blake3: String::new(), bytes };
        assert!(check_sizes(folder.path(), &[file(4)]).is_ok());
        let error = check_sizes(folder.path(), &[file(5)]).unwrap_err();
        assert!(error.to_string().ends_with("expected 5 bytes, found 4"), "{error}");
    }
}
