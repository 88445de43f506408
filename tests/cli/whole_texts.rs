//! Every token of whole texts, in rolling windows.

use super::*;

/// `compare` of the bundled checkpoint on some data by `text_perplexity`.
fn compare(data: &Path, out: &Path) -> Output {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo");
    let mut command = kintsugi();
    command.arg("compare").arg(demo.join("checkpoint")).arg("--tokenizer").arg(demo.join("tokenizer.json"));
    command.args(["--task", "text_perplexity", "--strategy", "merge20b", "--strategy", "fold", "--device", "cpu"]);
    command.args(["--threads", "2", "--bootstrap-replicates", "200", "--data"]).arg(data).arg("--output-dir").arg(out);
    run(&mut command)
}

fn passages() -> Vec<String> {
    let data = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo/passages.jsonl")).unwrap();
    let text =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    data.lines().map(text).collect()
}

fn scores(out: &Path, model: &str) -> serde_json::Value {
    let mut files = fs::read_dir(out.join("lm-eval").join(model)).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "samples of windows are none of the harness's");
    let results: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    results["results"]["text_perplexity"].clone()
}

/// lm-evaluation-harness 0.4.13 with transformers 5.23 on the fold of the same checkpoint in float32
/// (`evals/verify/lm_eval_rolling.py`), which is the unmerged model.
#[test]
fn perplexities_of_a_text_file_are_those_of_the_harness() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("long.txt"), folder.path().join("out"));
    fs::write(&data, passages()[..60].join("\n") + "\n").unwrap();
    let output = compare(&data, &out);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let baseline = scores(&out, "baseline");
    for (metric, expected) in
        [("word_perplexity", 8.334_292_183), ("byte_perplexity", 1.470_105_987), ("bits_per_byte", 0.555_920_169)]
    {
        let found = baseline[format!("{metric},none")].as_f64().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-6, "{metric}: {found}, the harness has {expected}");
    }
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with("text_perplexity (26 passages)"), "{stdout}");
    assert!(stdout.contains("one text of 2411 words, 13267 bytes and 3235 tokens in 26 windows"), "{stdout}");
    let report = kintsugi::report::read_json(&out.join("report.json")).unwrap();
    assert!((report.baseline.perplexity - 8.334_292_183).abs() < 1e-5, "the perplexity of the report is per word");
    let ratio = report.variants[0].loss.perplexity_ratio;
    let gate = run(kintsugi().arg("gate").arg(&out).args(["--max-ppl-increase", "1%", "--model", "merge20b"]));
    let found = format!("{:+.3} %", (ratio - 1.0) * 100.0).replace('-', "−");
    assert!(text(&gate.stdout).contains(&found), "{found}: {}", text(&gate.stdout));
    // So few windows prove nothing of a mean.
    assert_eq!(gate.status.code(), Some(3));
    assert!(text(&gate.stdout).contains("fewer than 30"), "{}", text(&gate.stdout));
    // Next tokens: those that `fold` answers otherwise are fewer than those of `merge20b`, whose norms differ.
    let changed = |at: usize| report.variants[at].loss.baseline_only + report.variants[at].loss.variant_only;
    assert!(report.variants[1].model.name == "fold" && changed(1) < changed(0), "{} {}", changed(0), changed(1));
    assert!(report.variants[0].loss.perplexity_ratio_interval.unwrap().upper < 1.0, "a difference of 0.07 % is seen");
}

#[test]
fn lines_of_jsonl_are_texts_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("texts.jsonl"), folder.path().join("out"));
    let lines =
        passages()[..3].iter().fold(String::new(), |all, text| all + &json!({ "text": text }).to_string() + "\n");
    fs::write(&data, lines).unwrap();
    let output = compare(&data, &out);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("3 texts of "), "{}", text(&output.stdout));
}

#[test]
fn a_tokenizer_without_a_token_to_begin_with_is_refused() {
    let inputs = Inputs::new();
    let complaint = inputs.complaint(&["--task", "text_perplexity"]);
    assert!(
        complaint.contains("the tokenizer defines no BOS or EOS token (looked for <|endoftext|>)\nhint: "),
        "{complaint}"
    );
    inputs.write("tokenizer_config.json", json!({ "bos_token": { "content": "w5" } }).to_string());
    assert!(run(&mut inputs.compare(&["--task", "text_perplexity"])).status.success());
    let task = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/text_perplexity.yml")).unwrap();
    let task = inputs.write("task.yml", format!("{task}prefix_token: w9\n"));
    assert!(run(&mut inputs.compare(&["--task", task.to_str().unwrap()])).status.success());
}
