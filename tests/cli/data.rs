//! Passages, tasks and tokenizers that cannot be used.

use super::*;

type Damage = fn(&Inputs);

const DAMAGES: &[(&str, Damage)] = &[
    ("an empty file", |inputs| inputs.write_data("")),
    ("white space alone", |inputs| inputs.write_data("\n  \n")),
    ("a passage of one word", |inputs| inputs.write_data("w1 w2\nw3\n")),
    ("a line that is no JSON", |inputs| inputs.write_data("{\"text\": \"w1 w2\"}\n{\"text\": \"w1 w2\n")),
    ("a line without a text", |inputs| inputs.write_data("{\"text\": \"w1 w2\"}\n{\"passage\": \"w1 w2\"}\n")),
    ("a text that is a number", |inputs| inputs.write_data("{\"text\": 3}\n")),
    ("broken UTF-8", |inputs| inputs.write_data(b"w1 w2\nw1 \xff\xfe w2\n")),
    ("a gzip file", |inputs| inputs.write_data(b"\x1f\x8b\x08\x00\x00")),
    ("a tokenizer of another vocabulary", |inputs| inputs.write_tokenizer(129)),
    ("a tokenizer that is no JSON", |inputs| drop(inputs.write("tokenizer.json", "vocab: []"))),
    ("a tokenizer that is another JSON", |inputs| drop(inputs.write("tokenizer.json", "{\"w1\": 1}"))),
    ("a tokenizer without tokens", |inputs| inputs.write_tokenizer(0)),
];

#[test]
fn unusable_data_is_refused_with_place_and_cure() {
    let mut all = Complaints::default();
    for (name, damage) in DAMAGES {
        let inputs = Inputs::new();
        damage(&inputs);
        all.add(name, &inputs.complaint(&[]));
    }
    insta::assert_snapshot!("unusable_data", all.0);
}

#[test]
fn the_largest_id_that_fits_is_allowed() {
    let inputs = Inputs::new();
    inputs.write_tokenizer(128);
    assert!(run(&mut inputs.compare(&[])).status.success());
}

#[test]
fn files_that_are_not_there_are_named() {
    let inputs = Inputs::new();
    let missing = inputs.path("nowhere.json");
    let missing = missing.to_str().unwrap();
    let complaint = inputs.complaint(&["--tokenizer", missing]);
    assert!(complaint.contains("INPUT/nowhere.json") && complaint.contains("no such file"), "{complaint}");
    fs::remove_file(inputs.path("passages.jsonl")).unwrap();
    let complaint = inputs.complaint(&[]);
    assert!(complaint.contains("INPUT/passages.jsonl") && complaint.contains("no such file"), "{complaint}");
    // A folder in place of a file.
    fs::create_dir(inputs.path("passages.jsonl")).unwrap();
    let complaint = inputs.complaint(&[]);
    assert!(complaint.contains("directory"), "{complaint}");
}

#[test]
fn the_tokenizer_is_found_beside_the_checkpoint_or_asked_for() {
    let inputs = Inputs::new();
    let compare = || {
        let mut command = kintsugi();
        command.arg("compare").arg(inputs.files.path()).arg("--data").arg(inputs.path("passages.jsonl"));
        command.args(["--device", "cpu", "--threads", "1", "--strategy", "mean", "--bootstrap-replicates", "100"]);
        command
    };
    let complaint = inputs.without_paths(&failure(&mut compare()));
    let looked = "STEP/tokenizer.json, STEP/20B_tokenizer.json, SAVE/tokenizer.json, SAVE/20B_tokenizer.json";
    assert!(complaint.starts_with(&format!("error: no tokenizer: looked for {looked}")), "{complaint}");
    assert!(complaint.contains("\nhint: give one with --tokenizer: "), "{complaint}");
    for place in [inputs.files.path().join("20B_tokenizer.json"), inputs.files.step().join("tokenizer.json")] {
        fs::copy(inputs.path("tokenizer.json"), &place).unwrap();
        assert!(run(&mut compare()).status.success(), "{}", place.display());
        fs::remove_file(place).unwrap();
    }
}

#[test]
fn tasks_that_cannot_be_used_are_refused() {
    let inputs = Inputs::new();
    insta::assert_snapshot!(inputs.complaint(&["--task", "lambda"]), @r"
    error: unknown task `lambda`: neither built in nor a file
    hint: built in are lambada_openai, lambada_standard, lambada_openai_mt_en, lambada_openai_mt_de, lambada_openai_mt_es, lambada_openai_mt_fr, lambada_openai_mt_it, text_perplexity; or give the path of a task file (evals/lambada_openai.yml shows one)
    ");
    let path = inputs.write("task.yml", "name: mine\nversion: one\n");
    let complaint = inputs.complaint(&["--task", path.to_str().unwrap()]);
    assert!(complaint.starts_with("error: INPUT/task.yml: not a task: "), "{complaint}");
}

#[test]
fn what_leaves_nothing_to_evaluate_is_refused() {
    let inputs = Inputs::new();
    let first_line = |further: &[&str]| inputs.complaint(further).lines().next().unwrap().to_owned();
    assert_eq!(first_line(&["--shard", "4/4"]), "error: shard 4/4 holds no passage");
    assert_eq!(first_line(&["--max-length", "65"]), "error: --max-length 65 is more than the model's 64 positions");
    let complaint = inputs.complaint(&["--memory-budget", "1kB"]);
    assert!(complaint.contains("a memory budget of 1000 bytes does not hold"), "{complaint}");
    assert!(complaint.contains("\nhint: give a larger --memory-budget\n"), "{complaint}");
}

#[test]
fn passages_that_calibrate_are_never_scored_and_all_others_are() {
    fn calibrated<'a>(further: &[&'a str]) -> Vec<&'a str> {
        [&["--strategy", "fold-calibrated"], further].concat()
    }
    let sequential = Inputs::of(&TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.drift = 0.02;
    }));
    let data = sequential.path("passages.jsonl");
    let complaint = sequential.complaint(&calibrated(&["--calibration", data.to_str().unwrap()]));
    assert!(complaint.contains("--calibration: text 0 is, or has, one of the passages to be scored"), "{complaint}");
    let other = sequential.write("other.txt", "w9 w8 w7\nw6 w5");
    for further in [&[][..], &["--calibration", other.to_str().unwrap()], &["--limit", "1"]] {
        let results = tempfile::tempdir().unwrap();
        let out = results.path().join("out");
        let output = run(sequential.compare(&calibrated(further)).arg("--output-dir").arg(&out));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
        let counts = &report["task"]["passages"];
        assert_eq!(report["partial"], further.contains(&"--limit"), "{report}");
        assert!(further.contains(&"--limit") || counts["original"] == counts["effective"], "{counts}");
    }
    let merged = sequential.path("merged");
    let arguments = ["--strategy", "fold-calibrated", "--tokenizer"];
    let mut merge = kintsugi();
    merge.arg("merge").arg(sequential.files.path()).arg("--output-dir").arg(&merged).args(arguments);
    let output = run(merge.arg(sequential.path("tokenizer.json")).args(["--device", "cpu"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// A tokenizer that ends every text: the scores are those without it, and it is said.
#[test]
fn a_tokenizer_that_ends_texts_changes_nothing_but_says_so() {
    let inputs = Inputs::new();
    let scores = |further: &[&str]| {
        let results = tempfile::tempdir().unwrap();
        let out = results.path().join("out");
        let output = run(inputs.compare(further).arg("--output-dir").arg(&out));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
        let of = |value: &serde_json::Value| value.as_f64().unwrap().to_bits();
        let words = report["task"]["tokenizer"]["special_tokens"].as_str().unwrap().to_owned();
        (of(&report["baseline"]["perplexity"]), words, text(&output.stderr))
    };
    let (plain, words, _) = scores(&[]);
    assert_eq!(words, "none");
    let mut tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(inputs.path("tokenizer.json")).unwrap()).unwrap();
    let end = json!({ "id": "w9", "ids": [9], "tokens": ["w9"] });
    let (piece, sequence) = (
        json!({ "SpecialToken": { "id": "w9", "type_id": 0 } }),
        |id| json!({ "Sequence": { "id": id, "type_id": 0 } }),
    );
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing", "single": [sequence("A"), piece], "pair": [sequence("A"), sequence("B")],
        "special_tokens": { "w9": end },
    });
    inputs.write("tokenizer.json", tokenizer.to_string());
    let (ending, words, stderr) = scores(&[]);
    assert_eq!((ending, words.as_str()), (plain, "none, eos at the end ignored"));
    assert!(stderr.contains("the tokenizer ends every text with w9; texts are scored without it"), "{stderr}");
    inputs.write("tokenizer_config.json", json!({ "bos_token": "w9" }).to_string());
    let (begun, words, _) = scores(&["--add-special-tokens", "yes"]);
    assert_eq!(words, "bos, eos at the end ignored");
    assert_ne!(begun, plain);
}
