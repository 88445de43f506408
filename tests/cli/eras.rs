//! Merges that cannot exist, the unmerged model alone, and what is said about gpt-neox's versions.

use kintsugi::tensor::{DType, HostTensor};

use super::*;
use crate::common::edit_layer_file;

/// The tiny model with a norm over the heads of each rank.
fn with_query_key_norm() -> Inputs {
    let inputs = Inputs::new();
    inputs.files.edit_config(|raw| drop(raw.insert("use_qk_layernorm".to_owned(), json!(true))));
    for (stage, tp_rank) in [(2, 0), (2, 1), (3, 0), (3, 1)] {
        edit_layer_file(&inputs.files.layer_file(stage, tp_rank), |tensors| {
            let gain = HostTensor::from_f64(DType::F32, vec![4, 8], &[1.5; 32]).unwrap();
            let bias = HostTensor::from_f64(DType::F32, vec![4, 8], &[0.1; 32]).unwrap();
            tensors.insert("attention.qk_layernorm.weight".to_owned(), gain);
            tensors.insert("attention.qk_layernorm.bias".to_owned(), bias);
        });
    }
    inputs
}

#[test]
fn a_merge_that_cannot_exist_is_refused() {
    let inputs = with_query_key_norm();
    assert_eq!(
        inputs.complaint_of_all(&["--strategy", "fold"]),
        "error: strategy `fold`: no exact merge exists: qk_layernorm takes its statistics over the heads of one rank, so no \
         one-rank model equals this one\nhint: `kintsugi eval` evaluates the unmerged model; --allow-inexact merges anyway \
         and reports the loss\n"
    );
}

#[test]
#[cfg(feature = "libtorch")]
fn a_merge_that_cannot_be_exact_says_so_where_it_was_asked_for() {
    let inputs = with_query_key_norm();
    let output = run(&mut inputs.compare(&["--strategy", "fold", "--allow-inexact"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("attention.qk_layernorm (2 layers): qk_layernorm takes its statistics"), "{stdout}");
}

#[test]
#[cfg(feature = "libtorch")]
fn eval_evaluates_the_unmerged_model_alone() {
    let inputs = with_query_key_norm();
    let out = inputs.path("out");
    let mut command = kintsugi();
    command.arg("eval").arg(inputs.files.path()).arg("--data").arg(inputs.path("passages.jsonl"));
    command.args(["--device", "cpu"]).arg("--tokenizer").arg(inputs.path("tokenizer.json"));
    let output = run(command.arg("--output-dir").arg(&out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("baseline") && stdout.contains("baseline has accuracy"), "{stdout}");
    assert!(!stdout.contains("fold") && !stdout.contains("noise floor"), "{stdout}");
    let report = kintsugi::report::read_json(&out.join("report.json")).unwrap();
    assert!(report.variants.is_empty());
    let samples = fs::read_to_string(out.join("samples/baseline.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 3);
}

#[test]
fn eras_and_quirks_that_nobody_knows_are_refused_with_those_that_are_known() {
    let inputs = Inputs::new();
    let said = |further: &[&str]| inputs.complaint_of_all(further);
    let stderr = said(&["--era", "yesterday"]);
    assert!(stderr.contains("`yesterday`: expected a date such as 2022-12-10 or one of branch-2021, "), "{stderr}");
    let stderr = said(&["--quirk", "norm-tying=maybe"]);
    assert!(stderr.contains("`maybe`: norm-tying is one of as-configured, inverted"), "{stderr}");
}

#[test]
fn inspect_says_what_depends_on_the_version_and_why() {
    let inputs = Inputs::new();
    let said = |further: &[&str]| {
        let output = run(kintsugi().arg("inspect").arg(inputs.files.path()).args(further));
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(said(&[]).contains("norm-tying=as-configured (default); --era and --quirk change it"), "{}", said(&[]));
    let inverted = said(&["--era", "2022-12-10"]);
    assert!(inverted.contains("norm-tying=inverted (--era 2022-12-10)"), "{inverted}");
    assert!(inverted.contains("shared with attention"), "{inverted}");
    let asked = said(&["--era", "tied-inverted", "--quirk", "norm-tying=as-configured"]);
    assert!(asked.contains("norm-tying=as-configured (--quirk)"), "{asked}");
}
