//! Every input that fuzzing started from or found, through the entry points that are fuzzed: on stable, in seconds.

#[path = "../../fuzz/entry_points.rs"]
#[allow(unreachable_pub, reason = "shared with the fuzz targets")]
mod entry_points;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use entry_points::ENTRY_POINTS;
use fs_err as fs;

/// The largest input that is recorded; together they shall not weigh on the repository.
const MAX_BYTES: u64 = 32 << 10;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// File names without their ending.
fn stems(folder: &Path) -> BTreeSet<String> {
    files_in(folder).iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn every_recorded_input_is_survived() {
    for (target, entry_point) in ENTRY_POINTS {
        let inputs =
            [files_in(&fuzz().join("corpus").join(target)), files_in(&fuzz().join("regressions").join(target))];
        assert!(!inputs[0].is_empty(), "no seeds for {target}");
        for path in inputs.concat() {
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() as u64 <= MAX_BYTES, "{} is too large to keep", path.display());
            // Shown where the reader panics.
            eprintln!("{}", path.display());
            entry_point(&bytes);
            // Files are cut short in all kinds of places.
            for length in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
                entry_point(&bytes[..length]);
            }
        }
    }
}

#[test]
fn every_entry_point_is_fuzzed() {
    let mut names: BTreeSet<_> = ENTRY_POINTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    if !cfg!(feature = "libtorch") {
        names.extend(["passages", "task"].map(str::to_owned));
    }
    assert_eq!(stems(&fuzz().join("fuzz_targets")), names);
    let folders = stems(&fuzz().join("corpus")).into_iter().chain(stems(&fuzz().join("regressions")));
    assert!(folders.into_iter().all(|folder| names.contains(&folder)), "inputs for no entry point");
}
