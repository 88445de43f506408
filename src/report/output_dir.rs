//! The output directory, its files' names, and how a file is written. The directory is tried out before anything is
//! evaluated, and every file is there whole or not at all.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::error::ReportError;
use super::rows::ModelRow;
use crate::files;

pub(super) const SAMPLES: &str = "samples";
pub(super) const PLOTS: &str = "plots";
/// Folder of the files for lm-evaluation-harness's tools.
pub(super) const LM_EVAL: &str = "lm-eval";
pub(super) const REPORT: &str = "report.json";
pub(super) const EXPLANATION: &str = "explanation.json";
pub(super) const PASSAGES: &str = "passages.jsonl";

/// A directory that [`prepare_output`] has found writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDir {
    root: PathBuf,
}

impl OutputDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The file `report.json`.
    pub fn report_json(&self) -> PathBuf {
        self.root.join(REPORT)
    }

    /// The file `report.md`.
    pub fn report_markdown(&self) -> PathBuf {
        self.root.join("report.md")
    }

    /// The file `report.html`.
    pub fn report_html(&self) -> PathBuf {
        self.root.join("report.html")
    }
}

/// Creates the directory and writes a temporary file into each of its folders: a run that cannot save its results must
/// fail before it computes them.
///
/// # Errors
/// [`ReportError::NotWritable`] names the directory and the cause.
pub fn prepare_output(dir: &Path) -> Result<OutputDir, ReportError> {
    for folder in [dir.to_owned(), dir.join(SAMPLES), dir.join(PLOTS), dir.join(LM_EVAL)] {
        let not_writable = |source| ReportError::NotWritable { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(not_writable)?;
        let mut probe = files::temporary_sibling(&folder.join("report")).map_err(not_writable)?;
        probe.write_all(b"kintsugi\n").map_err(not_writable)?;
    }
    Ok(OutputDir { root: dir.to_owned() })
}

/// Writes to a temporary file beside `path`, syncs it and gives it its name.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    files::write_atomically(path, bytes).map_err(|source| ReportError::Write { path: path.to_owned(), source })
}

/// Names of sample files: those of the models, made safe as file names, and numbered where that makes them equal.
#[derive(Debug, Default)]
pub(super) struct SampleFiles {
    taken: HashSet<String>,
}

impl SampleFiles {
    /// The baseline's file, whatever its row is called.
    pub(super) fn baseline(&mut self) -> String {
        self.variant("baseline")
    }

    pub(super) fn variant(&mut self, name: &str) -> String {
        let safe = file_stem(name);
        let mut stem = safe.clone();
        let mut number = 2;
        // Lower case, because some file systems ignore case.
        while !self.taken.insert(stem.to_lowercase()) {
            stem = format!("{safe}-{number}");
            number += 1;
        }
        format!("{SAMPLES}/{stem}.jsonl")
    }
}

/// A model's part of file names: that of its samples, which no other model has.
pub(super) fn stem_of(row: &ModelRow) -> String {
    let stem = Path::new(&row.samples).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    file_stem(&stem.unwrap_or_else(|| row.name.clone()))
}

/// Letters, digits, `.`, `_`, `+` and `-` stay; anything else becomes `-`. Never empty, hidden or a parent directory.
fn file_stem(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '-' }).take(100).collect();
    let stem = safe.trim_start_matches(['.', '-']);
    if stem.is_empty() { "model".to_owned() } else { stem.to_owned() }
}
