//! Models from Hugging Face divided among ranks (`merge --format neox`), and made into test checkpoints (`synth --from`).

use super::*;
use crate::common::hugging_face::HuggingFace;
use crate::common::read_tensors;
use serde_json::Value;

/// A model in transformers' form, of a checkpoint without drift.
fn model(sequential: bool) -> (Inputs, PathBuf) {
    let inputs = Inputs::of(&TinyModel::new().with(|options| options.gpt_j_residual = !sequential));
    let folder = inputs.path("model");
    HuggingFace::merged(&inputs.files.open(), "fold").write(&folder);
    fs::copy(inputs.path("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    (inputs, folder)
}

fn synth(model: &Path, output: &Path, further: &[&str]) -> Command {
    let mut command = kintsugi();
    command.args(["synth", "--from"]).arg(model).arg("-o").arg(output).args(further);
    command
}

fn truth(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("truth.json")).unwrap()).unwrap()
}

fn exact(truth: &Value) -> Vec<&str> {
    let strategies = truth["strategies"].as_array().unwrap().iter();
    strategies.filter(|strategy| strategy["exact"] == true).map(|strategy| strategy["name"].as_str().unwrap()).collect()
}

/// Every tensor of the layer files, rank by rank, as numbers.
fn tensors(folder: &Path) -> Vec<(String, Vec<f64>)> {
    let files = crate::common::layer_files(&folder.join("global_step0"));
    let named = files.iter().flat_map(|file| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        read_tensors(file).into_iter().map(move |(tensor, value)| (format!("{name} {tensor}"), value.to_f64().unwrap()))
    });
    named.collect()
}

#[test]
fn a_test_checkpoint_says_what_is_true_of_it() {
    let (inputs, model) = model(false);
    let output = inputs.path("drifted");
    let done = run(&mut synth(&model, &output, &["--tensor-parallel", "2", "--drift", "0.05", "--seed", "7"]));
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout).trim(), output.display().to_string());
    let truth = truth(&output);
    assert_eq!(
        (&truth["tensor_parallel"], &truth["drift"], &truth["drift_biases"]),
        (&json!(2), &json!(0.05), &json!(0.05))
    );
    assert_eq!(truth["seed"], 7);
    assert_eq!(exact(&truth), ["fold", "fold-calibrated"]);
    assert!(output.join("tokenizer.json").is_file() && truth.get("unmerged").is_none());
    // It is not the model, and its recipe does not say so.
    let recipe: Value = serde_json::from_slice(&fs::read(output.join("kintsugi_recipe.json")).unwrap()).unwrap();
    assert_eq!(recipe["exact"], false);
}

#[test]
fn drift_has_the_amount_and_the_seed_that_were_asked_for() {
    let (inputs, model) = model(true);
    let write = |name: &str, further: &[&str]| {
        let output = inputs.path(name);
        let done = run(synth(&model, &output, &["--tensor-parallel", "2"]).args(further));
        assert!(done.status.success(), "{}", text(&done.stderr));
        tensors(&output)
    };
    let none = write("none", &[]);
    let drifted = write("drifted", &["--drift", "0.05"]);
    assert_eq!(drifted, write("again", &["--drift", "0.05"]), "the same seed, the same checkpoint");
    assert_ne!(drifted, write("other-seed", &["--drift", "0.05", "--seed", "1"]));
    let biases = write("biases", &["--drift", "0", "--drift-biases", "0.05"]);
    let (mut ratios, mut replicated) = (Vec::new(), 0);
    for (((name, plain), (_, drifted)), (_, biases)) in none.iter().zip(&drifted).zip(&biases) {
        let is_norm = name.contains("norm");
        let is_bias = name.ends_with("dense.bias") || name.ends_with("linear2.bias");
        assert_eq!(plain != drifted, is_norm || is_bias, "{name}");
        assert_eq!(plain != biases, is_bias, "{name}");
        replicated += usize::from(is_norm || is_bias);
        if plain != drifted {
            ratios.extend(plain.iter().zip(drifted).filter(|(plain, _)| plain.abs() > 1e-3).map(|(a, b)| b / a - 1.0));
        }
    }
    assert!(replicated > 10 && ratios.len() > 100, "{replicated} {}", ratios.len());
    let deviation = (ratios.iter().map(|ratio| ratio * ratio).sum::<f64>() / ratios.len() as f64).sqrt();
    assert!((deviation - 0.05).abs() < 0.005, "{deviation}");
}

#[test]
fn without_drift_every_strategy_of_a_sequential_model_keeps_it() {
    let (inputs, model) = model(true);
    let output = inputs.path("plain");
    assert!(run(&mut synth(&model, &output, &[])).status.success());
    let truth = truth(&output);
    assert_eq!(exact(&truth), ["zeroth", "mean", "reduce-aware", "fold", "fold-calibrated"]);
}

#[cfg(feature = "libtorch")]
#[test]
fn the_unmerged_numbers_are_those_of_eval() {
    let (inputs, model) = model(false);
    let (output, data) = (inputs.path("drifted"), inputs.path("passages.jsonl"));
    let data = data.to_str().unwrap();
    let done = run(&mut synth(&model, &output, &["--drift", "0.05", "--evaluate", "--data", data, "--limit", "2"]));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let unmerged = truth(&output)["unmerged"].clone();
    let out = inputs.path("eval");
    let mut eval = kintsugi();
    eval.arg("eval").arg(&output).args(["--data", data, "--limit", "2", "--output-dir"]).arg(&out);
    assert!(run(&mut eval).status.success());
    let report: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(unmerged["perplexity"], report["baseline"]["perplexity"]);
    assert_eq!((&unmerged["acc"], &unmerged["passages"]), (&report["baseline"]["acc"], &json!(2)));
    // Divided, without drift, it is the model that it was made of.
    let plain = inputs.path("plain");
    let done = run(&mut synth(&model, &plain, &["--evaluate", "--data", data, "--limit", "2"]));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let mut eval = kintsugi();
    eval.arg("eval").arg(&model).args(["--data", data, "--limit", "2", "--restart", "--output-dir"]).arg(&out);
    assert!(run(&mut eval).status.success());
    let report: Value = serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let (found, expected) =
        (truth(&plain)["unmerged"]["perplexity"].as_f64(), report["baseline"]["perplexity"].as_f64());
    assert!((found.unwrap() / expected.unwrap() - 1.0).abs() < 1e-6, "{found:?} {expected:?}");
}

#[test]
fn settings_that_nothing_would_read_are_refused() {
    let (inputs, model) = model(false);
    let (model, output) = (model.to_str().unwrap(), inputs.path("out"));
    let cases: [(&[&str], &str); 9] = [
        (&["--from", model, "--shape", "14m"], "cannot be used with"),
        (&["--from", model, "--layers", "2"], "cannot be used with"),
        (&["--from", model, "--sequential"], "cannot be used with"),
        (&["--shape", "14m", "--drift-biases", "0.1"], "cannot be used with"),
        (&[], "--shape <NAME>"),
        (&["--from", model, "--drift=-0.1"], "drift: expected a fraction from 0 to 1, found -0.1"),
        (&["--from", model, "--drift", "nan"], "drift: expected a fraction from 0 to 1, found NaN"),
        (&["--from", model, "--drift-biases", "2"], "drift of biases: expected a fraction from 0 to 1, found 2"),
        (&["--from", model, "--tensor-parallel", "3"], "cannot be written for 3 ranks"),
    ];
    for (arguments, expected) in cases {
        let mut command = kintsugi();
        command.arg("synth").arg("-o").arg(&output).args(arguments);
        let stderr = failure(&mut command);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(!output.exists(), "{arguments:?}");
    }
    let divided = inputs.files.path().to_str().unwrap();
    let mut command = kintsugi();
    command.args(["synth", "--from", divided, "-o"]).arg(&output);
    let stderr = failure(&mut command);
    assert!(
        stderr.contains("a test checkpoint is made of a model of one rank, and this one has 2: merge it first"),
        "{stderr}"
    );
}

#[cfg(feature = "libtorch")]
#[test]
fn a_task_without_evaluation_is_refused() {
    let (inputs, model) = model(false);
    for (arguments, expected) in [
        (["--from", model.to_str().unwrap(), "--limit", "3"], "for --evaluate, which is not given"),
        (["--shape", "14m", "--tokenizer", "tokenizer.json"], "random weights have none"),
    ] {
        let mut command = kintsugi();
        command.arg("synth").arg("-o").arg(inputs.path("out")).args(arguments);
        let stderr = failure(&mut command);
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_model_of_transformers_is_written_for_ranks_with_its_vocabulary_padded() {
    let (inputs, model) = model(false);
    let merge = |name: &str, further: &[&str]| {
        let mut command = kintsugi();
        let output = inputs.path(name);
        command.arg("merge").arg(&model).arg("-o").arg(&output).args(["--tensor-parallel", "2"]).args(further);
        (run(&mut command), output)
    };
    let (done, padded) = merge("padded", &["--pad-vocab", "128"]);
    let stderr = text(&done.stderr);
    assert!(
        done.status.success() && stderr.contains("the vocabulary is padded from 128 to 256 rows with zeros"),
        "{stderr}"
    );
    let config = fs::read_to_string(padded.join("global_step0/configs/config.yml")).unwrap();
    assert!(
        config.contains("\"make_vocab_size_divisible_by\": 128") && config.contains("\"model_parallel_size\": 2"),
        "{config}"
    );
    let (done, kept) = merge("kept", &[]);
    assert!(done.status.success() && !text(&done.stderr).contains("padded"), "{}", text(&done.stderr));
    let config = fs::read_to_string(kept.join("global_step0/configs/config.yml")).unwrap();
    assert!(config.contains("\"make_vocab_size_divisible_by\": 64"), "{config}");
    let (done, _) = merge("nothing", &["--pad-vocab", "0"]);
    assert!(text(&done.stderr).contains("expected a number, at least 1"));
    let mut command = kintsugi();
    command.arg("merge").arg(&model).arg("-o").arg(inputs.path("hf")).args(["--format", "hf", "--pad-vocab", "8"]);
    assert!(failure(&mut command).contains("only --format neox pads the vocabulary"));
}
