//! A report with the samples that it was made of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::GateError;
use crate::report::{ModelRow, Report, read_json};
use crate::samples::{Sample, read_jsonl};

pub(crate) struct Evidence {
    pub path: PathBuf,
    pub report: Report,
}

impl Evidence {
    /// Reads `report.json`, or the one in an output directory.
    pub(crate) fn open(path: &Path) -> Result<Self, GateError> {
        let path = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
        let report = read_json(&path)?;
        Ok(Self { path, report })
    }

    /// The row of a model, the baseline included.
    pub(super) fn row(&self, name: &str) -> Option<&ModelRow> {
        std::iter::once(&self.report.baseline)
            .chain(self.report.variants.iter().map(|row| &row.model))
            .find(|row| row.is_called(name))
    }

    pub(super) fn variants(&self) -> impl Iterator<Item = &str> {
        self.report.variants.iter().map(|row| row.model.name.as_str())
    }

    /// The samples of a model by `doc_id`.
    pub(super) fn samples(&self, row: &ModelRow) -> Result<BTreeMap<usize, Sample>, GateError> {
        let file = row.samples_file(self.path.parent().unwrap_or(Path::new("")))?;
        let samples: BTreeMap<usize, Sample> =
            read_jsonl(&file)?.into_iter().map(|sample: Sample| (sample.doc_id, sample)).collect();
        if samples.len() != row.n {
            let what = format!("passages of `{}`", row.name);
            let (expected, found) = (row.n.to_string(), samples.len().to_string());
            return Err(GateError::OtherPassages { path: file, what, expected, found });
        }
        Ok(samples)
    }
}
