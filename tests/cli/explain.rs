//! `kintsugi explain` names the culprit.

use std::path::Path;

use crate::common::evaluation::{demo, in_repository, trained_checkpoint};
use assert_cmd::Command;
use serde_json::Value;

fn explain(checkpoint: &Path, more: &[&str]) -> Value {
    let output = Command::cargo_bin("kintsugi")
        .unwrap()
        .arg("explain")
        .arg(checkpoint)
        .args(["--data".as_ref(), in_repository("evals/demo/passages.jsonl").as_os_str()])
        .args(["--task".as_ref(), in_repository("evals/demo/task.yml").as_os_str()])
        .args(["--tokenizer".as_ref(), in_repository("evals/demo/tokenizer.json").as_os_str()])
        .args(["--json", "--quiet", "--device", "cpu"])
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn finding(explanation: &Value, strategy: &str) -> String {
    let findings = explanation["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding.as_str().unwrap().contains(&format!("`{strategy}`")));
    found.unwrap().as_str().unwrap().to_owned()
}

#[test]
fn a_parallel_residual_puts_the_blame_on_the_row_parallel_biases() {
    let explanation = explain(&demo(), &["--limit", "60", "--strategy", "mean", "--strategy", "reduce-aware"]);
    let sentence = finding(&explanation, "mean");
    assert!(sentence.contains("comes from attention.dense.bias + mlp output bias"), "{sentence}");
    assert!(sentence.contains("before the all-reduce"), "{sentence}");
    assert!(sentence.contains("`mean` averages them, which is wrong here"), "{sentence}");
    let biases = &explanation["strategies"][0]["factors"][4];
    assert_eq!(biases["factor"], "attention.dense.bias + mlp output bias");
    assert!(biases["share_pct"].as_f64().unwrap() > 95.0, "{biases}");
    assert!(finding(&explanation, "reduce-aware").contains("norm"));
    // Two ranks: the sum is twice the mean, and nothing else reproduces the model.
    let best = explanation["bias_scales"]
        .as_array()
        .unwrap()
        .iter()
        .min_by(|left, right| kl(&left["effect"]).total_cmp(&kl(&right["effect"])))
        .unwrap();
    assert_eq!(best["scale"], 2.0);
    // The embedding is shared; every layer moves the streams apart.
    let curve: Vec<f64> = serde_json::from_value(explanation["divergence"][0]["relative"].clone()).unwrap();
    assert_eq!(curve.len(), 5);
    assert!(curve[0] == 0.0 && curve[1..].iter().all(|&distance| distance > 1e-3), "{curve:?}");
}

#[test]
fn a_sequential_residual_shows_that_summing_is_wrong() {
    let path = trained_checkpoint("sequential-residual-tied-tp2-drift");
    let explanation = explain(&path, &["--strategy", "merge20b"]);
    let sentence = finding(&explanation, "merge20b");
    assert!(sentence.contains("perplexity 3.094 → 3.2"), "{sentence}");
    assert!(sentence.contains("after the all-reduce"), "{sentence}");
    assert!(sentence.contains("`merge20b` adds them up, which is wrong here"), "{sentence}");
}

fn kl(effect: &Value) -> f64 {
    effect["kl_mean"].as_f64().unwrap()
}

#[test]
fn what_calibrates_is_analysed_with_its_calibration() {
    let path = trained_checkpoint("sequential-residual-tied-tp2-drift");
    let explanation = explain(&path, &["--limit", "60", "--strategy", "fold-calibrated"]);
    for factor in explanation["strategies"][0]["factors"].as_array().unwrap() {
        // Every group is treated as the reference treats it already: nothing is gained by doing so.
        assert!(factor["share_pct"].as_f64().unwrap().abs() < 1e-9, "{factor}");
    }
}

#[test]
fn a_multiple_of_a_norm_is_called_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tripled.yml");
    let rules =
        "name: tripled\nrules: {norm-gain: mean, norm-bias: mean, row-parallel-bias: sum, learned-positions: mean}\n";
    let overrides = "overrides: [{parameters: output.norm.weight, rule: {scale: 3}}]\n";
    fs_err::write(&file, format!("{rules}{overrides}")).unwrap();
    let explanation = explain(&demo(), &["--limit", "20", "--strategy", file.to_str().unwrap()]);
    let sentence = finding(&explanation, "tripled");
    assert!(
        sentence.contains("comes from final norm: `tripled` makes norm.weight 3 times what the model has"),
        "{sentence}"
    );
}
