//! Joining the shards of a run: every passage once, or an error that says which one is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{ModelsRecord, Records};
use crate::report::RunShard;
use crate::run::error::RunError;
use crate::run::key::{Differences, RunKey};

/// Joins what several processes have recorded of one run, each with the place of its journal. The result does not depend on
/// their order.
pub(crate) fn combine(mut parts: Vec<(PathBuf, Records)>) -> Result<Records, RunError> {
    // The first shard's command line and path of the checkpoint stand for all.
    parts.sort_by_key(|(path, records)| (records.run.shard.map(|shard| shard.index), path.clone()));
    let (Some((first_path, first)), Some(models)) =
        (parts.first().cloned(), parts.iter().find_map(|(_, records)| records.models.clone()))
    else {
        return Err(RunError::NothingComputed);
    };
    for (path, part) in &parts {
        check_same_run(&first, (path, part))?;
        if let Some(other) = &part.models {
            check_same_models(&models, (path, other))?;
        }
    }
    let mut owners: BTreeMap<usize, &Path> = BTreeMap::new();
    for (path, part) in &parts {
        for chunk in part.slices.iter().flat_map(|slice| &slice.chunks) {
            if let Some(other) = owners.insert(chunk.number, path) {
                let passages = listed(first.run.chunks.get(chunk.number).into_iter().flatten());
                return Err(RunError::Duplicate { passages, first: other.to_owned(), second: path.clone() });
            }
        }
    }
    let missing: Vec<usize> = (0..first.run.chunks.len()).filter(|chunk| !owners.contains_key(chunk)).collect();
    let stopped = parts.len() == 1 && first.looks()?.is_some_and(|looks| looks.decided());
    if !missing.is_empty() && !stopped {
        let passages = listed(missing.iter().flat_map(|&chunk| &first.run.chunks[chunk]));
        return Err(RunError::Gap { passages, because: why_missing(&parts, &missing) });
    }
    let joined = Some(parts.len()).filter(|_| first.run.shard.is_some());
    let seconds = parts.iter().map(|(_, part)| part.seconds).fold(0.0, f64::max);
    let started = parts.iter().map(|(_, part)| part.run.started).min().unwrap_or(first.run.started);
    let mut run = first.run;
    (run.shard, run.started) = (None, started);
    tracing::debug!("joined {} journals, the first {}", parts.len(), first_path.display());
    let slices = parts.into_iter().flat_map(|(_, part)| part.slices).collect();
    Ok(Records { run, models: Some(models), slices, joined, seconds })
}

fn check_same_run(first: &Records, (path, part): (&Path, &Records)) -> Result<(), RunError> {
    let differences = RunKey::differences(&part.run.key, &first.run.key).or_else(|| {
        let plans = (&part.run.chunks, &first.run.chunks);
        (plans.0 != plans.1).then(|| {
            Differences::of("plan", format!("{} chunks", plans.0.len()), format!("{} other chunks", plans.1.len()))
        })
    });
    match differences {
        None => Ok(()),
        Some(differences) => Err(RunError::DifferentRun { path: path.to_owned(), differences }),
    }
}

/// The same files make the same models.
fn check_same_models(models: &ModelsRecord, (path, other): (&Path, &ModelsRecord)) -> Result<(), RunError> {
    match Differences::of_files(other.digests(), models.digests()) {
        None => Ok(()),
        Some(differences) => Err(RunError::DifferentRun { path: path.to_owned(), differences }),
    }
}

/// Which shards were not given, or are not finished.
fn why_missing(parts: &[(PathBuf, Records)], missing: &[usize]) -> String {
    let Some(RunShard { count, .. }) = parts.iter().find_map(|(_, part)| part.run.shard) else {
        return "the run is not finished".to_owned();
    };
    let mut reasons = Vec::new();
    for index in 1..=count {
        let of_shard = |part: &Records| part.run.shard == Some(RunShard { index, count });
        let lacking = missing.iter().filter(|&&chunk| chunk % count == index - 1).count();
        match parts.iter().find(|(_, part)| of_shard(part)) {
            _ if lacking == 0 => {}
            None => reasons.push(format!("shard {index}/{count} was not given")),
            Some((path, part)) => {
                let done = part.done().len();
                let all = done + lacking;
                reasons.push(format!("shard {index}/{count} has {done} of {all} chunks ({})", path.display()));
            }
        }
    }
    reasons.join("; ")
}

/// `17, 40, 41 and 12 more`.
fn listed<'a>(doc_ids: impl Iterator<Item = &'a usize>) -> String {
    let mut doc_ids: Vec<_> = doc_ids.copied().collect();
    doc_ids.sort_unstable();
    let shown: Vec<_> = doc_ids.iter().take(10).map(ToString::to_string).collect();
    match doc_ids.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
