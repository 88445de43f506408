//! Exports with one defect each, and exports without any: what is wrong is named, and nothing that is right.

use std::collections::BTreeMap;

use kintsugi::checkpoint::Checkpoint;
use kintsugi::tensor::DType;
use serde_json::Value;

use super::*;
use crate::common::copy_folder;
use crate::common::defects::gpt_neox::of_gpt_neox;
use crate::common::defects::llama::{as_mistral, of_llama};
use crate::common::defects::{Defect, Subject};
use crate::common::hugging_face::HuggingFace;
use crate::common::merging::Merge;

/// What `fold` makes of a checkpoint, for transformers.
fn exported(checkpoint: &Checkpoint, merge: Merge) -> HuggingFace {
    let folder = tempfile::tempdir().unwrap();
    merge.hf(1 << 40).write(checkpoint, &folder.path().join("hf")).unwrap();
    HuggingFace::read(&folder.path().join("hf"))
}

/// A checkpoint that gpt-neox trained, and a folder for candidates.
struct Trained {
    path: PathBuf,
    folder: TempDir,
    candidates: Vec<String>,
}

impl Trained {
    fn new(path: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        Self { path, folder: tempfile::tempdir().unwrap(), candidates: Vec::new() }
    }

    /// A correct export by `fold`, to be damaged.
    fn subject(&self, rotary: usize, seed: u64) -> Subject {
        let checkpoint = Checkpoint::open(&self.path, &[]).unwrap();
        let architecture = checkpoint.architecture();
        Subject {
            export: exported(&checkpoint, Merge::by("fold")),
            mean: exported(&checkpoint, Merge::by("mean")),
            layers: architecture.layer_count,
            heads: architecture.head_count,
            kv_heads: architecture.kv_head_count,
            rotary,
            ranks: 2,
            seed,
        }
    }

    /// A directory for a candidate.
    fn candidate(&mut self, name: &str) -> PathBuf {
        let name = name.replace([' ', '\''], "-").replace(',', "");
        let folder = self.folder.path().join(&name);
        self.candidates.push(format!("{name}={}", folder.display()));
        folder
    }

    /// Compares all candidates; by name of a candidate its row and its warnings.
    fn compare(&self) -> BTreeMap<String, (Value, Vec<String>)> {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo");
        let output = self.folder.path().join("out");
        let mut command = kintsugi();
        command.arg("compare").arg(&self.path).arg("--output-dir").arg(&output);
        for (flag, file) in [("--data", "passages.jsonl"), ("--tokenizer", "tokenizer.json"), ("--task", "task.yml")] {
            command.arg(flag).arg(demo.join(file));
        }
        command.args(["--device", "cpu", "--threads", "1", "--bootstrap-replicates", "200", "--strategy", "fold"]);
        command.args(["--limit", "100"]);
        for candidate in &self.candidates {
            command.args(["--candidate", candidate]);
        }
        let done = run(&mut command);
        assert!(done.status.success(), "{}", text(&done.stderr));
        warnings(&output)
    }
}

/// By name of a candidate: its row of the report, and its warnings.
fn warnings(output: &Path) -> BTreeMap<String, (Value, Vec<String>)> {
    let report: Value = serde_json::from_slice(&fs::read(output.join("report.json")).unwrap()).unwrap();
    let findings: Vec<_> = report["findings"].as_array().unwrap().iter().map(|of| of.as_str().unwrap()).collect();
    let rows = report["variants"].as_array().unwrap().iter().filter(|row| row.get("candidate").is_some());
    rows.map(|row| {
        let name = row["name"].as_str().unwrap();
        let prefix = format!("WARNING: {name}: ");
        let warnings = findings.iter().filter_map(|finding| finding.strip_prefix(&prefix)).map(str::to_owned);
        (name.to_owned(), (row.clone(), warnings.collect()))
    })
    .collect()
}

/// Whether some limit is exceeded.
fn is_beyond(row: &Value) -> bool {
    row["verdicts"].as_array().unwrap().iter().any(|verdict| verdict["verdict"] == "beyond")
}

/// Whether a warning is the expected one: `…` stands for anything, and so does the end.
fn is_named(warning: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let start = parts.next().unwrap();
    let mut rest = warning.strip_prefix(start);
    for part in parts {
        rest = rest.and_then(|rest| Some(rest.split_once(part)?.1));
    }
    rest.is_some()
}

/// Every defect is found and named, nothing else is accused, and the gate fails where the table says so. Correct exports of
/// the same checkpoint raise no warning and exceed no limit. Returns how many there are of these.
fn check(mut trained: Trained, defects: &[Defect]) -> usize {
    assert!(defects.len() >= 16, "{}", defects.len());
    for defect in defects {
        let folder = trained.candidate(defect.name);
        defect.export.write(&folder);
    }
    let damaged = trained.candidates.clone();
    write_right(&mut trained);
    let rows = trained.compare();
    let row = |candidate: &String| &rows[candidate.split('=').next().unwrap()];
    let mut wrong = String::new();
    for (defect, candidate) in defects.iter().zip(&damaged) {
        let (row, warnings) = row(candidate);
        let named = |expected: &String| warnings.iter().any(|warning| is_named(warning, expected));
        let right = defect.warnings.iter().all(named) && warnings.len() == defect.warnings.len();
        if !right || is_beyond(row) != defect.in_the_numbers {
            writeln!(wrong, "{}: beyond {}, {warnings:#?}", defect.name, is_beyond(row)).unwrap();
        }
    }
    let correct = &trained.candidates[damaged.len()..];
    for candidate in correct {
        let (row, warnings) = row(candidate);
        if !warnings.is_empty() || is_beyond(row) {
            writeln!(wrong, "{candidate}: beyond {}, {warnings:#?}", is_beyond(row)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let gate = run(kintsugi().arg("gate").arg(trained.folder.path().join("out")));
    assert_eq!(gate.status.code(), Some(1), "{}", text(&gate.stderr));
    correct.len()
}

/// Writes what every tool may write of the same merge.
fn write_right(trained: &mut Trained) {
    let fold = || Merge::by("fold");
    let checkpoint = Checkpoint::open(&trained.path, &[]).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        exported(&checkpoint, Merge { dtype: Some(dtype), ..fold() }).write(&trained.candidate(dtype.name()));
    }
    exported(&checkpoint, fold()).write_sharded(&trained.candidate("sharded"));
    exported(&checkpoint, Merge { vocab_size: Some(700), ..fold() }).write_pickled(&trained.candidate("trimmed"));
    fold().ranks(2).write(&checkpoint, &trained.candidate("two-ranks")).unwrap();
    if trained.path.ends_with("llama-gqa-swiglu-tp2-drift") {
        for (name, window) in [("window-of-all", json!(4096)), ("no-window", Value::Null)] {
            let mut export = exported(&checkpoint, fold());
            as_mistral(&mut export, window);
            export.write(&trained.candidate(name));
        }
    }
    let unmerged = trained.candidate("unmerged");
    copy_folder(&trained.path, &unmerged);
}

#[test]
fn every_defect_of_a_parallel_residual_is_named() {
    let trained = Trained::new("evals/demo/checkpoint");
    let defects = of_gpt_neox(&trained.subject(4, 1), true, false);
    assert_eq!(check(trained, &defects), 7);
}

#[test]
fn every_defect_of_a_tied_model_with_sequential_residual_is_named() {
    let trained = Trained::new("tests/fixtures/checkpoints/sequential-residual-tied-tp2-drift");
    let defects = of_gpt_neox(&trained.subject(4, 2), false, true);
    assert_eq!(check(trained, &defects), 7);
}

#[test]
fn every_defect_of_a_llama_is_named() {
    let trained = Trained::new("tests/fixtures/checkpoints/llama-gqa-swiglu-tp2-drift");
    let defects = of_llama(&trained.subject(16, 3));
    assert_eq!(check(trained, &defects), 9);
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn every_defect_of_a_checkpoint_in_float32_is_named() {
    let trained = Trained::new("../shared/checkpoints/parallel-residual-tp2-drift");
    let defects = of_gpt_neox(&trained.subject(4, 4), true, false);
    assert_eq!(check(trained, &defects), 7);
}

/// What saving a checkpoint once makes of its ranks' copies is a strategy by name.
#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn a_checkpoint_that_was_stored_once_is_zeroth() {
    let mut trained = Trained::new("../shared/megatron/gpt-learned-tied-tp2-drift");
    let saved = Trained::new("../shared/megatron/gpt-learned-tied-torch-dist-drift").path;
    trained.candidates.push(format!("saved={}", saved.display()));
    let (row, warnings) = &trained.compare()["saved"];
    assert_eq!(warnings, &Vec::<String>::new());
    let candidate = &row["candidate"];
    assert_eq!((&candidate["strategy"], &candidate["explained"]), (&json!("zeroth"), &candidate["parameters"]));
    assert!(candidate.get("same_as").is_none() && candidate.get("rounding").is_none(), "{candidate}");
}

/// What depends on passages of calibration cannot be read off the weights, and is no alarm either.
#[test]
fn calibrated_biases_are_not_accused() {
    let mut trained = Trained::new("tests/fixtures/checkpoints/sequential-residual-tied-tp2-drift");
    let folder = trained.candidate("calibrated");
    let mut merge = kintsugi();
    merge.arg("merge").arg(&trained.path).args(["--strategy", "fold-calibrated", "--format", "hf"]);
    merge.arg("--output-dir").arg(&folder).arg("--tokenizer");
    let done = run(merge.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo/tokenizer.json")));
    assert!(done.status.success(), "{}", text(&done.stderr));
    // A bias of one layer lost.
    let mut damaged = HuggingFace::read(&folder);
    damaged.scale("gpt_neox.layers.1.mlp.dense_h_to_4h.bias", 0.0);
    damaged.write(&trained.candidate("damaged"));
    let rows = trained.compare();
    let (row, warnings) = &rows["calibrated"];
    assert_eq!(warnings, &Vec::<String>::new());
    assert_eq!(row["candidate"]["strategy"], "fold-calibrated");
    let (_, warnings) = &rows["damaged"];
    assert_eq!(warnings[..], ["fold-calibrated, but for mlp.linear1.bias of layer 1, which is all zero"]);
}

/// Heads that make other shapes than the tensors have are no candidate to compare: its directory is refused by the first
/// tensor that does not fit.
#[test]
fn impossible_heads_are_refused_on_opening() {
    let trained = Trained::new("tests/fixtures/checkpoints/llama-gqa-swiglu-tp2-drift");
    let checkpoint = Checkpoint::open(&trained.path, &[]).unwrap();
    let folder = trained.folder.path().join("candidate");
    exported(&checkpoint, Merge::by("fold")).write(&folder);
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    for (key, heads, expected) in [
        (
            "num_key_value_heads",
            1,
            "model.safetensors: tensor `model.layers.0.self_attn.k_proj.weight`: expected shape [16, 128], found [64, 128]",
        ),
        (
            "num_attention_heads",
            16,
            "model.safetensors: tensor `model.layers.0.self_attn.q_proj.weight`: expected shape [256, 128], found [128, 128]",
        ),
        (
            "num_attention_heads",
            3,
            "config.json: `num_attention_heads` should be a multiple of num_key_value_heads (4), found 3",
        ),
    ] {
        let mut changed = config.clone();
        changed[key] = json!(heads);
        fs::write(folder.join("config.json"), changed.to_string()).unwrap();
        let mut command = kintsugi();
        command.arg("compare").arg(&trained.path).arg("--candidate").arg(format!("other={}", folder.display()));
        let complaint = failure(&mut command).replace(&folder.display().to_string(), "OTHER");
        let expected = format!("error: candidate `other`\n  caused by: OTHER/{expected}");
        assert!(complaint.contains(&expected), "{key} {heads}: {complaint}");
    }
}

/// Settings that only transformers' models have, lost on the way.
#[test]
fn a_lost_window_and_lost_scaling_are_named() {
    let inputs = Inputs::new();
    inputs.write_tokenizer(40);
    let words = |start: usize| (start..start + 9).map(|word| format!("w{}", word % 40)).collect::<Vec<_>>().join(" ");
    inputs.write_data((0..6).map(|start| json!({ "text": words(start * 5) }).to_string() + "\n").collect::<String>());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hugging_face/mistral-window-linear-rotary");
    let plain = json!({ "rope_theta": 10_000.0, "rope_type": "default" });
    let cases = [
        (
            "scaling",
            "rope_parameters",
            plain,
            "positions is rotary, 6 of 6 elements, base 10000, the checkpoint's is …, frequencies / 4",
        ),
        ("window", "sliding_window", Value::Null, "sliding_window is none, the checkpoint's is the last 4 tokens"),
    ];
    let mut command = kintsugi();
    command.arg("compare").arg(&model).args(["--device", "cpu", "--threads", "1", "--bootstrap-replicates", "100"]);
    command.arg("--data").arg(inputs.path("passages.jsonl")).arg("--tokenizer").arg(inputs.path("tokenizer.json"));
    command.arg("--candidate").arg(format!("right={}", model.display())).arg("--output-dir").arg(inputs.path("out"));
    for (name, key, value, _) in &cases {
        let folder = inputs.path(name);
        copy_folder(&model, &folder);
        let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        config[*key] = value.clone();
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        command.arg("--candidate").arg(format!("{name}={}", folder.display()));
    }
    let done = run(&mut command);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let rows = warnings(&inputs.path("out"));
    assert_eq!(rows["right"].1, Vec::<String>::new());
    for (name, _, _, expected) in cases {
        let found = &rows[name].1;
        assert!(found.len() == 1 && is_named(&found[0], expected), "{name}: {found:?}");
    }
}
