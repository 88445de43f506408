//! `compare --candidate` and `eval` of models made elsewhere.

use super::*;
use crate::common::hugging_face::HuggingFace;

/// A checkpoint and what a strategy makes of it as a Hugging Face directory.
fn converted(strategy: &str) -> (Inputs, PathBuf) {
    let inputs = Inputs::of(&TinyModel::new().with(|options| options.drift = 0.05));
    let folder = inputs.path("converted");
    HuggingFace::merged(&inputs.files.open(), strategy).write(&folder);
    (inputs, folder)
}

fn report(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

#[test]
fn a_candidate_is_a_row_with_findings_and_samples() {
    let (inputs, folder) = converted("mean");
    let (output, candidate) = (inputs.path("out"), folder.display().to_string());
    let named = format!("theirs={candidate}");
    let further = ["--candidate", &named, "--candidate", &candidate, "--output-dir", output.to_str().unwrap()];
    let done = run(&mut inputs.compare(&further));
    let stdout = text(&done.stdout);
    assert!(done.status.success(), "{}", text(&done.stderr));
    for words in [
        "theirs and converted: made by another tool, so whether it is exact is unknown",
        "WARNING: theirs: its row-parallel biases are the mean of the ranks'",
        "theirs (Hugging Face GPTNeoXForCausalLM): all 28 parameters are as mean makes them, bit for bit",
    ] {
        let unbroken = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(unbroken.contains(words), "{stdout}");
    }
    let report = report(&output);
    let [mean, theirs, converted] = report["variants"].as_array().unwrap().as_slice() else { unreachable!() };
    assert_eq!((&theirs["name"], &converted["name"]), (&json!("theirs"), &json!("converted")));
    // What the strategy `mean` makes is what was written.
    assert_eq!(theirs["perplexity"], mean["perplexity"]);
    assert_eq!(theirs["fidelity"], mean["fidelity"]);
    assert!(mean.get("candidate").is_none() && mean["exact"]["exact"] == false);
    assert!(theirs.get("exact").is_none());
    let info = &theirs["candidate"];
    assert_eq!(info["format"], "Hugging Face GPTNeoXForCausalLM");
    assert_eq!(info["digests"][0]["file"], "model.safetensors");
    assert_eq!(info["settings"], json!([]));
    assert_eq!((&info["strategy"], &info["explained"], &info["parameters"]), (&json!("mean"), &json!(28), &json!(28)));
    assert_eq!(info["miscounts"][0]["factor"], 0.5);
    assert!(info.get("exceptions").is_none(), "{info}");
    let lines = |name: &str| fs::read_to_string(output.join(format!("samples/{name}.jsonl"))).unwrap();
    assert_eq!(lines("theirs"), lines("mean"));
    assert!(fs::read_to_string(output.join("report.md")).unwrap().contains("| theirs |"));
}

#[test]
fn any_model_is_evaluated_alone() {
    let (inputs, folder) = converted("fold");
    let perplexity = |model: &Path| {
        let output = inputs.path("alone");
        let mut command = kintsugi();
        command.arg("eval").arg(model).arg("--data").arg(inputs.path("passages.jsonl"));
        command.arg("--tokenizer").arg(inputs.path("tokenizer.json")).arg("--output-dir").arg(&output).arg("--restart");
        let done = run(command.args(["--device", "cpu", "--threads", "1"]));
        assert!(done.status.success(), "{}", text(&done.stderr));
        let report = report(&output);
        (report["baseline"]["perplexity"].as_f64().unwrap(), report["checkpoint"]["layout"].clone())
    };
    let (unmerged, layout) = perplexity(inputs.files.path());
    assert_eq!(layout, "layer-files");
    let (merged, layout) = perplexity(&folder);
    assert_eq!(layout, "hugging-face");
    // Folding is exact with a parallel residual.
    assert!((unmerged / merged - 1.0).abs() < 1e-5, "{unmerged} {merged}");
}

#[test]
fn candidates_that_cannot_be_judged_are_refused() {
    let (inputs, folder) = converted("mean");
    let path = folder.display().to_string();
    let taken = format!("mean={path}");
    let complaint = inputs.complaint(&["--candidate", &taken]);
    assert!(
        complaint.contains("error: --candidate INPUT/converted: another row is called `mean`; give NAME=DIR"),
        "{complaint}"
    );
    let complaint = inputs.complaint(&["--candidate", &path, "--candidate", &path]);
    assert!(complaint.contains("another row is called `converted`"), "{complaint}");
    let complaint = inputs.complaint(&["--candidate", inputs.path("nowhere").to_str().unwrap()]);
    assert!(
        complaint.contains("error: candidate `nowhere`\n  caused by: INPUT/nowhere: expected a checkpoint directory"),
        "{complaint}"
    );
    let other = TinyModel::new().with(|options| options.shape.layer_count = 3).write();
    let deeper = format!("deeper={}", other.path().display());
    let complaint = inputs.complaint(&["--candidate", &deeper]);
    let expected = "error: candidate `deeper`: expected num_layers 2 as in the checkpoint, found 3\n\
                    hint: is it a merge of this checkpoint? `kintsugi eval` evaluates any model alone\n";
    assert_eq!(complaint, expected);
    fs::write(folder.join("config.json"), "{}").unwrap();
    let complaint = inputs.complaint(&["--candidate", &path]);
    assert!(
        complaint.contains(
            "INPUT/converted/config.json: expected one of GPTNeoXForCausalLM, LlamaForCausalLM, MistralForCausalLM"
        ),
        "{complaint}"
    );
    assert!(complaint.contains("\nhint: "), "{complaint}");
}

#[test]
fn a_hugging_face_directory_is_compared_as_a_model_of_one_rank() {
    let (inputs, folder) = converted("mean");
    let (data, tokenizer) = (inputs.path("passages.jsonl"), inputs.path("tokenizer.json"));
    let output = inputs.path("out");
    let mut command = kintsugi();
    command.arg("compare").arg(&folder).arg("--candidate").arg(format!("ranks={}", inputs.files.path().display()));
    command.arg("--data").arg(&data).arg("--tokenizer").arg(&tokenizer).arg("--output-dir").arg(&output);
    let done = run(command.args(["--device", "cpu", "--threads", "1"]));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report = report(&output);
    // With one copy of each parameter all strategies make the same model: the model itself.
    let [merged, ranks] = report["variants"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&merged["perplexity"], &merged["exact"]["exact"]), (&report["baseline"]["perplexity"], &json!(true)));
    assert_eq!(merged["also"].as_array().unwrap().len(), 5, "{merged}");
    assert_ne!(ranks["perplexity"], report["baseline"]["perplexity"]);
    assert_eq!(report["checkpoint"]["layout"], "hugging-face");
    let complaint = failure(kintsugi().arg("eval").arg(&folder).arg("--data").arg(&data).args(["--era", "pythia"]));
    assert!(complaint.contains("--neox-config, --era and --quirk apply to gpt-neox checkpoints only"), "{complaint}");
}
