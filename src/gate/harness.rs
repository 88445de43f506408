//! Models that lm-evaluation-harness evaluated, with any backend, paired document by document.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;

use rayon::prelude::*;

use super::GateError;
use super::harness_samples::{HarnessSample, TaskSamples, read};
use crate::limits::Gates;
use crate::limits::PairedOutcomes;
use crate::limits::{Comparison, Comparisons, Noise, Reference};

/// Samples files and folders of one model.
pub(crate) type OfModel = (String, Vec<PathBuf>);

/// Pairs every model with the baseline, in every task of the baseline.
///
/// # Errors
/// A task that a model lacks or has besides, other documents, prompts, targets, few-shot examples or templates, each by name.
pub(crate) fn compare_samples(
    baseline: &[PathBuf],
    models: &[OfModel],
    gates: &Gates,
) -> Result<Comparisons, GateError> {
    let (before, after) = rayon::join(
        || read_all(baseline),
        || models.par_iter().map(|(name, paths)| Ok((name, read_all(paths)?))).collect::<Result<Vec<_>, GateError>>(),
    );
    let before = before?;
    let mut found = Comparisons::default();
    for (name, tasks) in after? {
        if let Some(task) = tasks.keys().find(|task| !before.contains_key(*task)) {
            return Err(missing(task, "the baseline"));
        }
        for (task, of_baseline) in &before {
            let limits = gates.of(task, name);
            if limits.skip {
                continue;
            }
            let of_model = tasks.get(task).ok_or_else(|| missing(task, &format!("`{name}`")))?;
            check_settings(task, name, of_baseline, of_model)?;
            let pairs = paired(of_baseline, of_model)?;
            let (task, model) = (task.clone(), name.clone());
            let (outcomes, doc_ids) = (outcomes(&pairs), pairs.iter().map(|(before, _)| before.doc_id).collect());
            found.comparisons.push(Comparison {
                task,
                model,
                reference: Reference::Baseline,
                limits,
                outcomes,
                noise: Noise::default(),
                doc_ids,
            });
        }
    }
    Ok(found)
}

fn read_all(paths: &[PathBuf]) -> Result<BTreeMap<String, TaskSamples>, GateError> {
    let mut tasks: BTreeMap<String, TaskSamples> = BTreeMap::new();
    for path in paths {
        for (task, samples) in read(path)? {
            if let Some(known) = tasks.insert(task.clone(), samples) {
                let what = format!("samples of {task} also in {}", known.path.display());
                return Err(GateError::NotHarness { path: path.clone(), what });
            }
        }
    }
    Ok(tasks)
}

fn missing(task: &str, from: &str) -> GateError {
    GateError::NotHarness { path: PathBuf::from(task), what: format!("no samples of this task from {from}") }
}

fn check_settings(task: &str, name: &str, baseline: &TaskSamples, model: &TaskSamples) -> Result<(), GateError> {
    for (what, expected) in &baseline.settings {
        let Some(found) = model.settings.get(what).filter(|found| *found != expected) else { continue };
        let (task, name, baseline, model) = (task.to_owned(), name.to_owned(), expected.clone(), found.clone());
        return Err(GateError::OtherSettings { task, name, what, baseline, model });
    }
    Ok(())
}

/// Pairs of the same document, in the order of the baseline's `doc_id`; documents that occur more than once in the order of
/// theirs.
fn paired<'a>(
    baseline: &'a TaskSamples,
    model: &'a TaskSamples,
) -> Result<Vec<(&'a HarnessSample, &'a HarnessSample)>, GateError> {
    let other = |what: String, expected: &str, found: &str| GateError::OtherPassages {
        path: model.path.clone(),
        what,
        expected: expected.to_owned(),
        found: found.to_owned(),
    };
    let (before, after) = (&baseline.samples, &model.samples);
    if before.len() != after.len() {
        return Err(other("number of documents".to_owned(), &before.len().to_string(), &after.len().to_string()));
    }
    let mut by_hash: HashMap<&str, VecDeque<&HarnessSample>> = HashMap::with_capacity(after.len());
    for sample in in_order(after) {
        by_hash.entry(&sample.doc_hash).or_default().push_back(sample);
    }
    let mut pairs = Vec::with_capacity(before.len());
    for before in in_order(before) {
        let place = |what: &str| format!("{what} of doc_id {}", before.doc_id);
        let Some(after) = by_hash.get_mut(before.doc_hash.as_str()).and_then(VecDeque::pop_front) else {
            return Err(other(place("document"), &before.doc_hash, "no such document"));
        };
        for (what, expected, found) in
            [("prompt", &before.prompt_hash, &after.prompt_hash), ("target", &before.target_hash, &after.target_hash)]
        {
            if expected != found {
                return Err(other(place(what), expected, found));
            }
        }
        pairs.push((before, after));
    }
    Ok(pairs)
}

fn in_order(samples: &[HarnessSample]) -> Vec<&HarnessSample> {
    let mut sorted: Vec<_> = samples.iter().collect();
    sorted.sort_by_key(|sample| sample.doc_id);
    sorted
}

fn outcomes(pairs: &[(&HarnessSample, &HarnessSample)]) -> PairedOutcomes {
    let answers: Option<Vec<_>> = pairs.iter().map(|(before, after)| before.is_right.zip(after.is_right)).collect();
    let outcomes = PairedOutcomes::of_answers(&answers.unwrap_or_default());
    let fall = |(before, after): &(&HarnessSample, &HarnessSample)| Some(before.loglikelihood? - after.loglikelihood?);
    match pairs.iter().map(fall).collect() {
        Some(falls) => outcomes.with_falls(falls, pairs.iter().map(|(before, _)| before.words).collect()),
        None => outcomes,
    }
}
