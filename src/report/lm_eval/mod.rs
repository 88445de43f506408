//! Results and samples in lm-evaluation-harness's own schema (0.4), a folder for each model as the harness lays them out, so
//! that its tools read them: `make_table`, `zeno_visualize.py`, comparisons of `results_*.json`. `sample.rs` has the lines
//! of `samples_*.jsonl`.
//!
//! The standard error of the perplexity is `report.json`'s, by the delta method; the harness's own is bootstrapped. So
//! `config.bootstrap_iters` is 0, the harness's value for "no bootstrap", and `metadata.perplexity_stderr` names the method.

mod sample;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::{Value, json};

use super::contents::Report;
use super::error::ReportError;
use super::info::TaskInfo;
use super::json::pretty;
use super::output_dir::{stem_of, write_atomically};
use super::report_files::ReportFiles;
use super::rows::ModelRow;
use crate::samples::{PassageText, Sample, write_jsonl};
use sample::LmEvalSample;

/// The version of lm-evaluation-harness whose schema this is.
const LM_EVAL_VERSION: &str = "0.4.13";

/// Writes `NAME/results_DATE.json` and `NAME/samples_TASK_DATE.jsonl` for every model; the date is
/// the run's, so that writing them again replaces them. Samples need the texts of the passages and are left out without.
///
/// # Errors
/// Nothing to write, a model without samples, or whatever keeps a file from being written.
pub fn write_lm_eval(files: &ReportFiles<'_>, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let report = files.report.ok_or(ReportError::NothingToShow)?;
    let texts: HashMap<usize, &PassageText> = files.passages.iter().map(|text| (text.doc_id, text)).collect();
    let date = report.run.started.strftime("%Y-%m-%dT%H-%M-%S.%6f").to_string();
    // lm-evaluation-harness's `sanitize_task_name`.
    let task = report.task.name.replace(|c: char| !c.is_alphanumeric(), "_");
    let mut written = Vec::new();
    for row in report.models() {
        let samples = files.samples_of(row)?;
        let folder = folder.join(stem_of(row));
        fs::create_dir_all(&folder).map_err(|source| ReportError::NotWritable { path: folder.clone(), source })?;
        // The harness has a line for every text, we have windows of them.
        let lines: Option<Vec<_>> = samples
            .iter()
            .filter(|_| report.task.rolling.is_none())
            .map(|sample| texts.get(&sample.doc_id).map(|text| LmEvalSample::new(sample, text)))
            .collect::<Option<Vec<_>>>()
            .filter(|lines| !lines.is_empty());
        let results = results(report, row, samples, lines.as_deref());
        let file = folder.join(format!("results_{date}.json"));
        if let Some(lines) = lines {
            let samples_file = folder.join(format!("samples_{task}_{date}.jsonl"));
            write_jsonl(&samples_file, &lines)?;
            written.push(samples_file);
        }
        write_atomically(&file, pretty(&results)?.as_bytes())?;
        written.push(file);
    }
    Ok(written)
}

fn results(report: &Report, row: &ModelRow, samples: &[Sample], lines: Option<&[LmEvalSample<'_>]>) -> Value {
    let (task, run, checkpoint) = (&report.task, &report.run, &report.checkpoint);
    let name = task.name.as_str();
    let (scores, better) = scores(report, row, samples);
    let task_hashes = lines.map_or_else(|| json!({}), |lines| json!({ name: sample::task_hash(lines) }));
    json!({
        "results": { name: scores },
        "group_subtasks": {},
        "configs": { name: task_config(task) },
        "versions": { name: task.version },
        "n-shot": { name: 0 },
        "higher_is_better": { name: better },
        "n-samples": { name: match task.rolling {
            Some(text) => json!({ "original": text.texts, "effective": text.texts }),
            None => json!({ "original": task.passages.original, "effective": task.passages.effective }),
        }},
        "config": {
            "model": "kintsugi",
            "model_args": {
                "checkpoint": checkpoint.path,
                "variant": row.name,
                "tensor_parallel": checkpoint.tp_size,
                "iteration": checkpoint.iteration,
            },
            "model_num_parameters": checkpoint.parameter_count,
            "model_dtype": run.dtype,
            "model_revision": format!("global_step{}", checkpoint.iteration),
            "model_sha": "",
            "batch_size": Value::Null,
            "batch_sizes": [],
            "device": run.device,
            "use_cache": Value::Null,
            "limit": run.limit,
            "bootstrap_iters": 0,
            "gen_kwargs": {},
            "random_seed": 0,
            "numpy_seed": 1234,
            "torch_seed": 1234,
            "fewshot_seed": 1234,
        },
        "git_hash": run.versions.git_commit,
        "date": run.started.as_duration().as_secs_f64(),
        "pretty_env_info": format!("kintsugi {}, libtorch {}", run.versions.kintsugi, run.versions.libtorch),
        "transformers_version": Value::Null,
        "lm_eval_version": LM_EVAL_VERSION,
        "upper_git_hash": Value::Null,
        "task_hashes": task_hashes,
        "model_source": "kintsugi",
        "model_name": format!("{}/{}", checkpoint.name, row.name),
        "model_name_sanitized": stem_of(row),
        "system_instruction": Value::Null,
        "system_instruction_sha": Value::Null,
        "fewshot_as_multiturn": Value::Null,
        "chat_template": Value::Null,
        "chat_template_sha": Value::Null,
        "total_evaluation_time_seconds": run.seconds.to_string(),
    })
}

/// The task's numbers, and of which of them more is better.
fn scores(report: &Report, row: &ModelRow, samples: &[Sample]) -> (Value, Value) {
    let name = report.task.name.as_str();
    if let Some(text) = report.task.rolling {
        let loglikelihood: f64 = samples.iter().map(|sample| sample.loglikelihood).sum();
        let scores = json!({
            "name": name,
            "alias": name,
            "sample_len": text.texts,
            "word_perplexity,none": text.word_perplexity(loglikelihood),
            "word_perplexity_stderr,none": "N/A",
            "byte_perplexity,none": text.byte_perplexity(loglikelihood),
            "byte_perplexity_stderr,none": "N/A",
            "bits_per_byte,none": text.bits_per_byte(loglikelihood),
            "bits_per_byte_stderr,none": "N/A",
        });
        return (scores, json!({ "word_perplexity": false, "byte_perplexity": false, "bits_per_byte": false }));
    }
    let or_none = |value: Option<f64>| value.map_or_else(|| json!("N/A"), |value| json!(value));
    let scores = json!({
        "name": name,
        "alias": name,
        "sample_len": row.n,
        "perplexity,none": row.perplexity,
        "perplexity_stderr,none": or_none(row.perplexity_stderr),
        "acc,none": row.acc,
        "acc_stderr,none": or_none(row.acc_stderr),
    });
    (scores, json!({ "perplexity": false, "acc": true }))
}

/// The task's definition as the harness dumps it.
fn task_config(task: &TaskInfo) -> Value {
    let metric = |name: &str, aggregation: &str, higher_is_better: bool| json!({ "metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better });
    let whole_texts = task.rolling.is_some();
    let (context, target, output_type) = if whole_texts {
        ("", "{{text}}", "loglikelihood_rolling")
    } else {
        ("{{text.split(' ')[:-1]|join(' ')}}", "{{' '+text.split(' ')[-1]}}", "loglikelihood")
    };
    let metrics = if whole_texts {
        vec![
            metric("word_perplexity", "weighted_perplexity", false),
            metric("byte_perplexity", "weighted_perplexity", false),
            metric("bits_per_byte", "bits_per_byte", false),
        ]
    } else {
        vec![metric("perplexity", "perplexity", false), metric("acc", "mean", true)]
    };
    let mut config = json!({
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": { "data_files": { "test": task.data.file } },
        "test_split": "test",
        "doc_to_text": context,
        "doc_to_target": target,
        "unsafe_code": false,
        "description": "",
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "num_fewshot": 0,
        "metric_list": metrics,
        "output_type": output_type,
        "repeats": 1,
        "should_decontaminate": !whole_texts,
    });
    config["metadata"] = json!({ "version": task.version, "data_sha256": task.data.sha256 });
    if !whole_texts {
        config["doc_to_decontamination_query"] = json!("{{text}}");
        config["metadata"]["perplexity_stderr"] = json!("delta method");
    }
    config
}
