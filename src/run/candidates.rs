//! Candidates: merges by other tools, judged beside the strategies.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::caller::Caller;
use super::named_path::NamedPath;
use super::provenance::digests;
use super::reading::ReadingOptions;
use super::resolve::model_path;
use crate::checkpoint::{Checkpoint, ModelSource, OpenOptions, STORED_ONCE, open_model};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::eval::{SliceOutcome, Variant};
use crate::merge::{Strategy, effective_differences};
use crate::report::{CandidateInfo, ModelRecord, ModelRole, SettingDifference};

#[derive(Debug, Clone)]
pub(super) struct Candidate {
    name: String,
    path: PathBuf,
    model: Arc<dyn ModelSource>,
}

/// Opens them all. A candidate in gpt-neox's format is read like the checkpoint: it is of the same version.
pub(super) fn open(
    requested: &[NamedPath],
    reading: &ReadingOptions,
    strategies: &[Strategy],
    caller: &dyn Caller,
) -> Result<Vec<Candidate>> {
    let mut taken: HashSet<String> = strategies.iter().map(|strategy| strategy.name.clone()).collect();
    taken.extend(["baseline".to_owned(), "noise floor".to_owned()]);
    let neox = OpenOptions { quirks: reading.open_options().quirks, ..OpenOptions::default() };
    let mut candidates = Vec::new();
    for candidate in requested {
        let (name, path) = (candidate.name(), candidate.path().to_owned());
        if !taken.insert(name.clone()) {
            let path = path.display();
            return Err(Error::usage(format!("--candidate {path}: another row is called `{name}`; give NAME=DIR")));
        }
        let model = open_one(&path, &neox, caller).map_err(|error| error.context(format!("candidate `{name}`")))?;
        candidates.push(Candidate { name, path, model: Arc::from(model) });
    }
    Ok(candidates)
}

/// Opens one, by its path or its name on the Hub; `neox` is how gpt-neox's files are read.
fn open_one(given: &Path, neox: &OpenOptions, caller: &dyn Caller) -> Result<Box<dyn ModelSource>> {
    let path = model_path(given, &mut *caller.download())?;
    let options = if Checkpoint::is_at(&path) { neox } else { &OpenOptions::default() };
    Ok(open_model(&path, options)?)
}

impl Candidate {
    pub(super) fn variant(&self) -> Variant {
        Variant::candidate(self.name.clone(), Arc::clone(&self.model))
    }

    /// Its record, before its files are read: how it differs from the checkpoint's architecture.
    pub(super) fn record(&self, checkpoint: &Architecture) -> ModelRecord {
        let architecture = self.model.architecture();
        let settings: Vec<_> = effective_differences(checkpoint, architecture)
            .into_iter()
            .map(|(setting, checkpoint, candidate)| SettingDifference { setting, checkpoint, candidate })
            .collect();
        let findings = settings.iter().map(|SettingDifference { setting, checkpoint, candidate }| {
            format!("WARNING: {}: {setting} is {candidate}, the checkpoint's is {checkpoint}", self.name)
        });
        let mut findings: Vec<_> = findings.collect();
        let (ours, theirs) = (checkpoint.padded_vocab_size, architecture.padded_vocab_size);
        if ours != theirs {
            findings.push(format!(
                "{}: its vocabulary has {theirs} rows, the checkpoint's {ours}: its probabilities are over its own, and KL is \
                 over the {} tokens that both have, renormalised",
                self.name,
                ours.min(theirs)
            ));
        }
        if self.model.stored_once() {
            findings.push(format!("{}: {STORED_ONCE}", self.name));
        }
        ModelRecord {
            description: format!("Made by another tool: {}.", self.model.describe()),
            source: self.path.display().to_string(),
            candidate: Some(CandidateInfo {
                path: self.path.display().to_string(),
                format: self.model.describe(),
                dtype: self.model.dtype().to_string(),
                vocab_size: theirs,
                settings,
                ..CandidateInfo::default()
            }),
            findings,
            ..ModelRecord::new(&self.name, ModelRole::Variant)
        }
    }
}

/// Adds to a candidate's record what reading its files has shown; `variant` is its place among the variants.
pub(super) fn complete(record: &mut ModelRecord, slice: &SliceOutcome, variant: usize) {
    let Some(mut info) = record.candidate.take() else { return };
    info.digests = slice.candidate_digests.get(&variant).map(|found| digests(found));
    if let Some(analysis) = slice.candidate_analyses.get(&variant) {
        let conclusion = analysis.conclude();
        info = info.with_parameters(&conclusion);
        // Warnings first, then what it is, then what follows from its vocabulary.
        let place = record.findings.iter().position(|finding| !finding.starts_with("WARNING"));
        let summary = format!("{} ({}): {}", record.name, info.format, conclusion.summary());
        record.findings.insert(place.unwrap_or(record.findings.len()), summary);
        let warnings = conclusion.warnings().into_iter().map(|warning| format!("WARNING: {}: {warning}", record.name));
        record.findings.splice(0..0, warnings.collect::<Vec<_>>());
    }
    record.candidate = Some(info);
}
