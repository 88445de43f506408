//! Gates on samples of lm-evaluation-harness: any backend, any log-likelihood task, several tasks, and what does not go together.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

const DOCUMENTS: usize = 600;

fn gate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    let Output { status, stdout, stderr } = command.env_remove("COLUMNS").arg("gate").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A line of `samples_*.jsonl`, the harness's fields for all tasks.
fn line(doc_id: usize, responses: &Value, metrics: &Value) -> Value {
    let mut line = json!({
        "doc_id": doc_id, "doc": {"text": format!("document {doc_id}")}, "target": " x", "arguments": {},
        "resps": [responses], "filtered_resps": responses, "filter": "none", "metrics": ["acc"],
        "doc_hash": format!("{:064x}", 7919 * doc_id), "prompt_hash": format!("{doc_id:064x}"), "target_hash": "aa",
    });
    for (name, value) in metrics.as_object().unwrap() {
        line[name] = value.clone();
    }
    line
}

/// A task such as LAMBADA: one continuation, of which `lost` more are wrong.
fn one_continuation(lost: usize, fall: f64) -> Vec<Value> {
    let of = |doc_id: usize| {
        let is_right = doc_id % 10 < 7 && doc_id >= lost;
        let loglikelihood = -(f64::from(u32::try_from(doc_id % 17).unwrap())) / 4.0 - fall;
        let answer = if is_right { "True" } else { "False" };
        let metrics = json!({"perplexity": loglikelihood, "acc": u8::from(is_right)});
        line(doc_id, &json!([[loglikelihood.to_string(), answer]]), &metrics)
    };
    (0..DOCUMENTS).map(of).collect()
}

/// A task such as `HellaSwag`: four continuations, and `acc` alone.
fn multiple_choice(lost: usize) -> Vec<Value> {
    let of = |doc_id: usize| {
        let is_right = doc_id % 10 < 5 && doc_id >= lost;
        let responses = json!([["-1.0", "False"], ["-2.0", "False"], ["-3.0", "True"], ["-4.0", "False"]]);
        line(doc_id, &responses, &json!({"acc": f64::from(u8::from(is_right)), "acc_norm": 1.0}))
    };
    (0..DOCUMENTS).map(of).collect()
}

fn write(folder: &Path, name: &str, lines: &[Value]) -> PathBuf {
    fs_err::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    let text: Vec<_> = lines.iter().map(Value::to_string).collect();
    fs_err::write(&path, text.join("\n")).unwrap();
    path
}

/// A folder as `--output_path` leaves it.
fn output(root: &TempDir, model: &str, tasks: &[(&str, Vec<Value>)], shots: u8) -> String {
    let folder = root.path().join(model).join("org__model");
    for (task, lines) in tasks {
        write(&folder, &format!("samples_{task}_2026-11-27T02-04-54.179686.jsonl"), lines);
    }
    let shots: serde_json::Map<_, _> = tasks.iter().map(|(task, _)| ((*task).to_owned(), shots.into())).collect();
    let results = json!({"results": {}, "n-shot": shots, "chat_template_sha": null});
    fs_err::write(folder.join("results_2026-11-27T02-04-54.179686.json"), results.to_string()).unwrap();
    root.path().join(model).display().to_string()
}

#[test]
fn several_tasks_of_several_models_are_judged_together() {
    let root = tempfile::tempdir().unwrap();
    let before =
        output(&root, "base", &[("lambada_openai", one_continuation(0, 0.0)), ("hellaswag", multiple_choice(0))], 0);
    let same =
        output(&root, "same", &[("lambada_openai", one_continuation(0, 1e-4)), ("hellaswag", multiple_choice(0))], 0);
    let worse =
        output(&root, "worse", &[("lambada_openai", one_continuation(60, 0.3)), ("hellaswag", multiple_choice(90))], 0);
    let (code, out, err) = gate(&["--baseline", &before, "--model", &same]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("gate passed: 3 of 3 limits proven"), "{out}");
    assert!(out.contains("note: `same` in hellaswag: perplexity increase: not checked"), "{out}");
    let (code, out, _) = gate(&["--baseline", &before, "--model", &same, "--model", &format!("bad={worse}")]);
    assert_eq!(code, Some(1), "{out}");
    let of_bad: Vec<_> = out.lines().filter(|line| line.contains(" bad ") && line.contains("BEYOND")).collect();
    assert_eq!(of_bad.len(), 3, "{out}");
    assert!(of_bad.iter().any(|line| line.starts_with("hellaswag")), "{out}");
    // A limit that one of the tasks has is enough; one that none has cannot be told.
    let with_perplexity = ["--baseline", &before, "--model", &same, "--max-ppl-increase", "1%"];
    assert_eq!(gate(&with_perplexity).0, Some(0));
    let (code, _, err) = gate(&["--baseline", &before, "--model", &same, "--max-kl", "1"]);
    assert_eq!((code, err.contains("KL divergence: no sample has")), (Some(2), true), "{err}");
}

#[test]
fn documents_are_paired_by_their_hash_whatever_their_order() {
    let root = tempfile::tempdir().unwrap();
    let before = write(root.path(), "samples_t_2026-11-27T01.jsonl", &one_continuation(0, 0.0));
    let mut reversed = one_continuation(0, 0.0);
    reversed.reverse();
    let count = reversed.len();
    for (doc_id, line) in reversed.iter_mut().enumerate() {
        line["doc_id"] = json!(doc_id % count);
    }
    let after = write(&root.path().join("m"), "samples_t_2026-11-27T02.jsonl", &reversed);
    let (before, after) = (before.display().to_string(), after.display().to_string());
    let (code, out, err) =
        gate(&["--baseline", &before, "--model", &after, "--expect-exact", "--max-ppl-increase", "0.01%"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("m      perplexity increase") && out.contains("+0.000 %"), "{out}");
}

#[test]
fn a_model_whose_accuracy_alone_is_known_does_not_pass_undecided() {
    let root = tempfile::tempdir().unwrap();
    let before = output(&root, "base", &[("hellaswag", multiple_choice(0).split_off(400))], 0);
    let after = output(&root, "same", &[("hellaswag", multiple_choice(0).split_off(400))], 0);
    let (code, out, err) = gate(&["--baseline", &before, "--model", &after]);
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(out.contains("339 more passages like these would decide"), "{out}");
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let lines = || one_continuation(0, 0.0);
    let before = output(&root, "base", &[("lambada_openai", lines())], 0);
    let refused = |after: &str, words: &str| {
        let (code, out, err) = gate(&["--baseline", &before, "--model", after]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(words) && err.contains("hint: "), "{err}");
    };
    let changed = |model: &str, field: &str| {
        let mut lines = lines();
        lines[41][field] = json!("other");
        output(&root, model, &[("lambada_openai", lines)], 0)
    };
    refused(&changed("document", "doc_hash"), "document of doc_id 41: expected ");
    refused(&changed("prompt", "prompt_hash"), "prompt of doc_id 41: expected ");
    refused(&changed("target", "target_hash"), "target of doc_id 41: expected aa, found other");
    let shots = output(&root, "shots", &[("lambada_openai", lines())], 5);
    refused(&shots, "lambada_openai: few-shot examples: 0 in the baseline, 5 in `shots`");
    let fewer = output(&root, "fewer", &[("lambada_openai", lines().split_off(1))], 0);
    refused(&fewer, "number of documents: expected 600, found 599");
    let other = output(&root, "other", &[("lambada_standard", lines())], 0);
    refused(&other, "lambada_standard: no samples of this task from the baseline");
    refused(&root.path().display().to_string(), "samples of several models, expected one");
    let empty = root.path().join("empty");
    fs_err::create_dir(&empty).unwrap();
    refused(&empty.display().to_string(), "no samples_*.jsonl in it");
    let generated = vec![line(0, &json!(["42"]), &json!({"exact_match": 1.0}))];
    let generated = output(&root, "generated", &[("lambada_openai", generated)], 0);
    refused(&generated, "doc_id 0: neither `acc` nor a log-likelihood");
    let garbage = write(&root.path().join("garbage"), "samples_lambada_openai_1.jsonl", &[json!([1, 2])]);
    let (code, _, err) = gate(&["--baseline", &before, "--model", garbage.to_str().unwrap()]);
    assert_eq!((code, err.contains("line 1 is not a sample")), (Some(2), true), "{err}");
}

#[test]
fn whole_texts_count_by_their_words() {
    let texts = |fall: f64| -> Vec<Value> {
        let of = |doc_id: usize| {
            let words = 50 + 13 * (doc_id % 7);
            let sum = -(3.0 + fall) * f64::from(u32::try_from(words).unwrap());
            line(doc_id, &json!([sum.to_string()]), &json!({"word_perplexity": [sum, words], "acc": null}))
        };
        (0..60).map(of).collect()
    };
    let root = tempfile::tempdir().unwrap();
    let before = output(&root, "base", &[("wikitext", texts(0.0))], 0);
    let after = output(&root, "after", &[("wikitext", texts(0.02))], 0);
    let (code, out, err) = gate(&["--baseline", &before, "--model", &after, "--max-ppl-increase", "1%"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("+2.020 %"), "{out}");
}
