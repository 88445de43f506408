//! A report with the samples that it was made of, and its models paired for judging.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::GateError;
use crate::limits::PairedOutcomes;
use crate::limits::{Comparison, Comparisons, Noise, Reference};
use crate::limits::{Gates, Limits, Policy};
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
    fn row(&self, name: &str) -> Option<&ModelRow> {
        std::iter::once(&self.report.baseline)
            .chain(self.report.variants.iter().map(|row| &row.model))
            .find(|row| row.is_called(name))
    }

    /// The samples of a model by `doc_id`.
    fn samples(&self, row: &ModelRow) -> Result<BTreeMap<usize, Sample>, GateError> {
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

    fn is_exact(&self, row: &ModelRow) -> bool {
        self.report.variants.iter().any(|variant| variant.model.name == row.name && variant.is_exact())
    }

    /// What rounding makes of a loss, by the report's noise floor.
    fn noise(&self, baseline: &BTreeMap<usize, Sample>, significance: f64) -> Result<Noise, GateError> {
        let Some(floor) = &self.report.noise_floor else { return Ok(Noise::default()) };
        let again = self.samples(&floor.model)?;
        Ok(Noise::measured(baseline.values(), again.values(), self.report.task.rolling, significance)?)
    }

    /// Pairs every model with the baseline, and with the model of the same name in an earlier report. `only` names the models;
    /// where it is empty, all that no gate skips. A model that is named is judged: it is neither skipped nor advisory.
    pub(crate) fn compare(
        &self,
        earlier: Option<&Self>,
        gates: &Gates,
        only: &[String],
    ) -> Result<Comparisons, GateError> {
        let task = &self.report.task.name;
        let baseline = self.samples(&self.report.baseline)?;
        let noise = self.noise(&baseline, gates.significance)?;
        let mut found = Comparisons::default();
        for (title, row, limits) in self.chosen(earlier.is_some(), gates, only)? {
            let samples = self.samples(row)?;
            let mut add = |reference, source: &Self, before: &BTreeMap<usize, Sample>| {
                let doc_ids = self.order(&samples)?;
                let outcomes = source.paired(before, &samples, &doc_ids, reference)?;
                let (task, model) = (task.clone(), title.clone());
                let noise = match reference {
                    Reference::Baseline => noise.of_model(self.is_exact(row), &self.report.run.dtype),
                    Reference::Earlier => Noise::default(),
                };
                found.comparisons.push(Comparison { task, model, reference, limits, outcomes, noise, doc_ids });
                Ok::<(), GateError>(())
            };
            if row.name != self.report.baseline.name {
                add(Reference::Baseline, self, &baseline)?;
            }
            let Some(earlier) = earlier else { continue };
            match row.names().find_map(|name| earlier.row(name)) {
                Some(row) => add(Reference::Earlier, earlier, &earlier.samples(row)?)?,
                None => found.remarks.push(format!("`{title}` is not in {}: new", earlier.path.display())),
            }
        }
        if let Some(until) = &self.report.run.until_decided {
            found.seen_of = Some(until.of);
            found.remarks.push("the report stopped by its verdicts: they are those of confidence sequences".to_owned());
        } else if self.report.partial {
            found.remarks.push("the report covers only a part of the passages".to_owned());
        }
        Ok(found)
    }

    /// The rows to judge, with the names that they are shown by and their limits.
    fn chosen(
        &self,
        has_earlier: bool,
        gates: &Gates,
        only: &[String],
    ) -> Result<Vec<(String, &ModelRow, Limits)>, GateError> {
        let path = || self.path.clone();
        let task = &self.report.task.name;
        let variants = || self.report.variants.iter().map(|row| &row.model);
        let mut rows = Vec::new();
        for name in only {
            let row = self.row(name).ok_or_else(|| {
                let known = variants().flat_map(ModelRow::names).collect::<Vec<_>>().join(", ");
                GateError::NoSuchModel { path: path(), name: name.clone(), known }
            })?;
            rows.push((name.clone(), row, named(gates.of(task, name))));
        }
        if only.is_empty() {
            let all = variants().map(|row| (row.title(), row, gates.of_any(task, row.names())));
            rows.extend(all.filter(|(.., limits)| !limits.skip));
        }
        let baseline = &self.report.baseline;
        // A changed baseline means that the evaluation has changed.
        if has_earlier && !rows.iter().any(|(_, row, _)| row.name == baseline.name) {
            rows.insert(0, (baseline.name.clone(), baseline, gates.of(task, &baseline.name)));
        }
        if rows.is_empty() {
            let reason = "it has no merges, or all of them are skipped".to_owned();
            return Err(GateError::NothingToJudge { path: path(), reason });
        }
        Ok(rows)
    }

    /// The passages of a model in the order in which they were seen, where that matters.
    fn order(&self, samples: &BTreeMap<usize, Sample>) -> Result<Vec<usize>, GateError> {
        let Some(until) = &self.report.run.until_decided else { return Ok(samples.keys().copied().collect()) };
        if until.order.len() == samples.len() && until.order.iter().all(|doc_id| samples.contains_key(doc_id)) {
            return Ok(until.order.clone());
        }
        let (expected, found) = (until.order.len().to_string(), samples.len().to_string());
        let what = "passages of the order in which they were seen".to_owned();
        Err(GateError::OtherPassages { path: self.path.clone(), what, expected, found })
    }

    /// Pairs samples of this report with a model's by passage, in this order.
    fn paired(
        &self,
        before: &BTreeMap<usize, Sample>,
        samples: &BTreeMap<usize, Sample>,
        order: &[usize],
        reference: Reference,
    ) -> Result<PairedOutcomes, GateError> {
        let other = |what: String, expected: String, found: String| GateError::OtherPassages {
            path: self.path.clone(),
            what,
            expected,
            found,
        };
        if before.len() != samples.len() {
            return Err(other("number of passages".to_owned(), samples.len().to_string(), before.len().to_string()));
        }
        let mut pairs = Vec::with_capacity(samples.len());
        for doc_id in order {
            let (Some(before), Some(sample)) = (before.get(doc_id), samples.get(doc_id)) else {
                return Err(other(format!("passage {doc_id}"), "there".to_owned(), "missing".to_owned()));
            };
            let (tokens, tokens_before) = (sample.tokens.len().to_string(), before.tokens.len().to_string());
            for (what, expected, found) in [
                ("prompt", &sample.prompt_hash, &before.prompt_hash),
                ("target", &sample.target_hash, &before.target_hash),
                ("number of target tokens", &tokens, &tokens_before),
            ] {
                if expected != found {
                    return Err(other(format!("{what} of passage {doc_id}"), expected.clone(), found.clone()));
                }
            }
            pairs.push((before, sample));
        }
        Ok(PairedOutcomes::of_samples(&pairs, self.report.task.rolling, reference == Reference::Baseline))
    }
}

/// The limits of a model that was asked for.
fn named(limits: Limits) -> Limits {
    Limits { policy: limits.policy.filter(|policy| *policy != Policy::Advisory), ..limits }
}
