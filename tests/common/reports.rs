//! Reports of made-up samples, on disk as `--output-dir` leaves them.

use std::path::Path;

use kintsugi::report::{self, ModelRecord, ModelRole, Report, ReportInput};
use kintsugi::samples::{Sample, TokenScore, write_jsonl};
use kintsugi::stats::PairedBootstrap;
use serde_json::json;

/// One sample a passage: its log-likelihood and whether it is greedy.
pub fn samples(passages: impl IntoIterator<Item = (f64, bool)>) -> Vec<Sample> {
    let sample = |(doc_id, (loglikelihood, is_greedy)): (usize, (f64, bool))| Sample {
        doc_id,
        target: format!(" word{doc_id}"),
        loglikelihood,
        is_greedy,
        tokens: vec![TokenScore {
            id: 5,
            greedy_id: if is_greedy { 5 } else { 6 },
            logprob: loglikelihood,
            kl: None,
            top: Vec::new(),
        }],
        prompt_hash: format!("{doc_id:064x}"),
        target_hash: format!("{:064x}", doc_id + 1000),
    };
    passages.into_iter().enumerate().map(sample).collect()
}

/// The same with a KL divergence at every target token.
pub fn diverging(mut samples: Vec<Sample>, divergence: impl Fn(usize) -> f64) -> Vec<Sample> {
    for sample in &mut samples {
        for token in &mut sample.tokens {
            token.kl = Some(divergence(sample.doc_id));
        }
    }
    samples
}

/// Writes an output directory with a baseline and variants, one of which may be the `noise floor`; returns the directory's path
/// as text.
pub fn write_report(directory: &Path, baseline: Vec<Sample>, variants: Vec<(&str, Vec<Sample>)>) -> String {
    let count = baseline.len();
    let model = |name: &str| match name {
        "baseline" => ModelRecord::new(name, ModelRole::Baseline),
        "noise floor" => ModelRecord::new(name, ModelRole::NoiseFloor),
        _ => ModelRecord::new(name, ModelRole::Variant),
    };
    let (names, of_variants): (Vec<_>, Vec<_>) = variants.into_iter().unzip();
    let run = json!({
        "argv": [], "started": "2026-11-23T08:30:00Z", "seconds": 1.0, "device": "cpu", "dtype": "f32", "threads": 1,
        "versions": {"kintsugi": "0.1.0", "libtorch": "2.11.0"}, "chunk_tokens": 1024, "slices": 1, "tokens": 1,
        "tokens_per_second": 1.0,
    });
    let checkpoint = json!({
        "path": "c", "name": "c", "iteration": 1, "tp_size": 2, "layout": "layer files", "dtype": "f32",
        "parameter_count": 1, "bytes": 4, "architecture": {},
    });
    let task = json!({
        "name": "t", "version": 1.0,
        "data": {"file": "d", "sha256": "0", "identity": "d"},
        "passages": {"original": count, "effective": count},
        "tokenizer": {"file": "t", "sha256": "0"}, "splitting": "s", "truncated_count": 0,
    });
    let input = ReportInput {
        limits: ("built-in".into(), kintsugi::limits::Gates::built_in().unwrap()),
        run: serde_json::from_value(run).unwrap(),
        checkpoint: serde_json::from_value(checkpoint).unwrap(),
        task: serde_json::from_value(task).unwrap(),
        models: std::iter::once("baseline").chain(names).map(model).collect(),
        samples: std::iter::once(baseline).chain(of_variants).collect(),
        divergence: Vec::new(),
        drift: Vec::new(),
        findings: Vec::new(),
        bootstrap: PairedBootstrap { replicate_count: 1000, ..PairedBootstrap::default() },
    };
    let report = Report::new(&input).unwrap();
    report::prepare_output(directory).unwrap();
    for (row, samples) in report.models().zip(&input.samples) {
        write_jsonl(&directory.join(&row.samples), samples).unwrap();
    }
    report::write_json(&directory.join("report.json"), &report).unwrap();
    directory.display().to_string()
}
