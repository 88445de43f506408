//! Samples as lm-evaluation-harness writes them, `samples_TASK_DATE.jsonl`, with the settings in `results_DATE.json` beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::GateError;
use crate::files;
use crate::samples::read_jsonl;

/// Folders below the one given: `OUTPUT/MODEL/samples_*.jsonl` is the harness's own layout.
const DEEPEST: usize = 2;

const MAX_RESULTS_BYTES: u64 = 256 << 20;

/// A line of a samples file, as far as a verdict needs it.
#[derive(Deserialize)]
struct Line {
    doc_id: usize,
    doc_hash: String,
    prompt_hash: String,
    target_hash: String,
    #[serde(default)]
    filter: String,
    #[serde(default)]
    filtered_resps: Value,
    #[serde(default)]
    acc: Value,
    #[serde(default)]
    word_perplexity: Value,
}

/// The outcome of a document.
pub(super) struct HarnessSample {
    pub doc_id: usize,
    pub doc_hash: String,
    pub prompt_hash: String,
    pub target_hash: String,
    /// `acc`, or whether greedy decoding gives the target; absent for whole texts.
    pub is_right: Option<bool>,
    /// Of the target, where the task has only one continuation, or of the whole text.
    pub loglikelihood: Option<f64>,
    /// Of a whole text: its words.
    pub words: Option<usize>,
}

/// What a model did on a task.
pub(super) struct TaskSamples {
    pub path: PathBuf,
    pub samples: Vec<HarnessSample>,
    /// What must be the same for two models: few-shot examples, the task's version, templates.
    pub settings: BTreeMap<&'static str, String>,
}

/// The samples of one model by task: of a file, or of all files in a folder, the latest of each task.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TaskSamples>, GateError> {
    let mut tasks = BTreeMap::new();
    for (task, file) in sample_files(path)? {
        let settings = settings(&file, &task)?;
        let mut by_filter: BTreeMap<String, Vec<HarnessSample>> = BTreeMap::new();
        for line in read_jsonl::<Line>(&file)? {
            by_filter.entry(line.filter.clone()).or_default().push(line.sample(&file)?);
        }
        let several = by_filter.len() > 1;
        for (filter, samples) in by_filter {
            let name = if several { format!("{task} ({filter})") } else { task.clone() };
            tasks.insert(name, TaskSamples { path: file.clone(), samples, settings: settings.clone() });
        }
    }
    Ok(tasks)
}

impl Line {
    fn sample(self, path: &Path) -> Result<HarnessSample, GateError> {
        let responses = self.filtered_resps.as_array().map_or(&[][..], Vec::as_slice);
        let pair = match responses {
            [Value::Array(pair)] if pair.len() == 2 => number(&pair[0]).zip(truth(&pair[1])),
            _ => None,
        };
        let whole_text = match self.word_perplexity.as_array().map(Vec::as_slice) {
            Some([loglikelihood, words]) => number(loglikelihood).zip(words.as_u64()),
            _ => None,
        };
        let is_right = truth(&self.acc).or(pair.map(|(_, is_greedy)| is_greedy));
        let loglikelihood = pair.map(|(loglikelihood, _)| loglikelihood).or(whole_text.map(|(sum, _)| sum));
        if is_right.is_none() && loglikelihood.is_none() {
            let what = format!("doc_id {}: neither `acc` nor a log-likelihood: not a log-likelihood task", self.doc_id);
            return Err(GateError::NotHarness { path: path.to_owned(), what });
        }
        let Self { doc_id, doc_hash, prompt_hash, target_hash, .. } = self;
        let words = whole_text.and_then(|(_, words)| usize::try_from(words).ok());
        Ok(HarnessSample { doc_id, doc_hash, prompt_hash, target_hash, is_right, loglikelihood, words })
    }
}

/// A number, also as text: the harness saves responses as Python prints them.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) if text == "True" => Some(true),
        Value::String(text) if text == "False" => Some(false),
        _ => number(value).and_then(|number| match number {
            0.0 => Some(false),
            1.0 => Some(true),
            _ => None,
        }),
    }
}

/// The latest samples file of every task.
fn sample_files(path: &Path) -> Result<BTreeMap<String, PathBuf>, GateError> {
    if !path.is_dir() {
        return Ok(BTreeMap::from([(task_of(path).0, path.to_owned())]));
    }
    let mut found = Vec::new();
    collect(path, DEEPEST, &mut found)?;
    // The date in a name sorts as text.
    found.sort_by_key(|file| task_of(file));
    let mut folders: Vec<&Path> = found.iter().filter_map(|file| file.parent()).collect();
    folders.sort_unstable();
    folders.dedup();
    let refused = |what: String| GateError::NotHarness { path: path.to_owned(), what };
    match folders[..] {
        [] => Err(refused("no samples_*.jsonl in it".to_owned())),
        [_] => Ok(found.into_iter().map(|file| (task_of(&file).0, file)).collect()),
        _ => {
            let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            Err(refused(format!("samples of several models, expected one: {}", names.join(", "))))
        }
    }
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), GateError> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if name.starts_with("samples_") && path.extension().is_some_and(|ending| ending == "jsonl") {
            found.push(path);
        }
    }
    Ok(())
}

/// Task and date in the name of a samples file; any other name is the task's.
fn task_of(path: &Path) -> (String, String) {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match stem.strip_prefix("samples_").and_then(|rest| rest.rsplit_once('_')) {
        Some((task, date)) if date.starts_with(|first: char| first.is_ascii_digit()) => {
            (task.to_owned(), date.to_owned())
        }
        _ => (stem.to_owned(), String::new()),
    }
}

/// The settings that the latest results file beside the samples states.
fn settings(samples: &Path, task: &str) -> Result<BTreeMap<&'static str, String>, GateError> {
    let folder = samples.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut latest: Option<PathBuf> = None;
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_results = name.starts_with("results_") && path.extension().is_some_and(|ending| ending == "json");
        if is_results && latest.as_ref().is_none_or(|known| *known < path) {
            latest = Some(path);
        }
    }
    let Some(path) = latest else { return Ok(BTreeMap::new()) };
    let results: Value = serde_json::from_str(&files::read_to_string(&path, MAX_RESULTS_BYTES)?)
        .map_err(|error| GateError::NotHarness { path: path.clone(), what: format!("not JSON: {error}") })?;
    let of_task = [("few-shot examples", "n-shot"), ("version of the task", "versions")];
    let of_all = [("chat template", "chat_template_sha"), ("system instruction", "system_instruction_sha")];
    let stated = of_task
        .map(|(what, key)| (what, results.get(key).and_then(|tasks| tasks.get(task))))
        .into_iter()
        .chain(of_all.map(|(what, key)| (what, results.get(key))));
    Ok(stated.filter_map(|(what, value)| Some((what, value?.to_string()))).collect())
}
