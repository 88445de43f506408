//! Certificates, and merges checked against them.

use std::sync::OnceLock;

use common::{copy_folder, edit_layer_file, flip_byte};
use kintsugi::checkpoint::OpenOptions;
use kintsugi::report::read_certificate;
use kintsugi::verify::{check_merge, render};
use serde_json::Value;

use super::*;

/// A comparison of the bundled checkpoint, certificates of its rows, and a merge by `fold`.
struct Certified {
    folder: TempDir,
}

fn certified() -> &'static Certified {
    static CERTIFIED: OnceLock<Certified> = OnceLock::new();
    CERTIFIED.get_or_init(|| {
        let certified = Certified { folder: tempfile::tempdir().unwrap() };
        let merge = ["merge", &demo("checkpoint"), "--tokenizer", &demo("tokenizer.json"), "-o"];
        succeed(kintsugi().args(merge).arg(certified.path("merged")));
        let rows = ["--strategy", "mean", "--strategy", "fold", "--limit", "48", "--no-noise-floor", "--candidate"];
        let candidate = format!("other={}", certified.path("merged").display());
        // The same model by another text.
        let fold = include_str!("../../configs/strategies/fold.yml").replace("name: fold", "name: folded");
        fs::write(certified.path("folded.yml"), fold).unwrap();
        let out = certified.path("out");
        succeed(
            kintsugi()
                .args(demo_arguments())
                .args(rows)
                .arg(candidate)
                .arg("--strategy")
                .arg(certified.path("folded.yml"))
                .arg("--output-dir")
                .arg(out),
        );
        for name in ["mean", "fold", "other"] {
            let arguments = ["--format", "certificate", "--model", name, "--output"];
            let path = certified.path(&format!("{name}.json"));
            succeed(kintsugi().arg("report").arg(certified.path("out")).args(arguments).arg(path));
        }
        certified
    })
}

fn demo(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo").join(name).display().to_string()
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

impl Certified {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The merge, to be damaged.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&self.path("merged"), copy.path());
        copy
    }
}

/// Exit code and lines of `verify`.
fn verify(certificate: &Path, merge: &Path, further: &[&str]) -> (i32, String) {
    let output = run(kintsugi().arg("verify").arg(certificate).arg(merge).args(further));
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// The checks that are not `ok`, all else being so.
#[track_caller]
fn complaint(certificate: &str, merge: &Path, code: i32) -> String {
    let (found, lines) = verify(&certified().path(certificate), merge, &[]);
    assert_eq!(found, code, "{lines}");
    assert!(lines.starts_with("ok       certificate: "), "{lines}");
    lines.lines().filter(|line| !line.starts_with("ok ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_merge_is_what_was_compared() {
    let certified = certified();
    let (code, lines) = verify(&certified.path("fold.json"), &certified.path("merged"), &[]);
    assert_eq!(code, 0, "{lines}");
    let checks: Vec<_> = lines.lines().map(|line| line.split(':').next().unwrap()).collect();
    let expected = ["certificate", "files", "other files", "checkpoint", "strategy", "form"];
    assert_eq!(checks, expected.map(|check| format!("ok       {check}")));
    // So is the merge by a strategy that makes the same model.
    let folded = tempfile::tempdir().unwrap();
    let strategy = certified.path("folded.yml");
    succeed(kintsugi().args(["merge", &demo("checkpoint"), "-o"]).arg(folded.path()).arg("--strategy").arg(strategy));
    let (code, lines) = verify(&certified.path("fold.json"), folded.path(), &[]);
    assert!(code == 0 && lines.contains("ok       strategy: folded, "), "{lines}");
    // As a candidate it is known by its weights.
    let (code, lines) = verify(&certified.path("other.json"), &certified.path("merged"), &["--json"]);
    let checks: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((code, checks.as_array().unwrap().len()), (0, 3), "{lines}");
    assert!(checks.as_array().unwrap().iter().all(|check| check["outcome"] == "ok"), "{lines}");
}

#[test]
fn a_certificate_says_what_was_proven() {
    let certificate: Value = serde_json::from_slice(&fs::read(certified().path("fold.json")).unwrap()).unwrap();
    assert_eq!(certificate["model"]["strategies"][0]["name"], "fold");
    let text = include_bytes!("../../configs/strategies/fold.yml");
    assert_eq!(certificate["model"]["strategies"][0]["blake3"], blake3::hash(text).to_hex().as_str());
    assert_eq!((&certificate["partial"], &certificate["task"]["passages"]["effective"]), (&json!(true), &json!(48)));
    let kl = certificate["limits"].as_array().unwrap().iter().find(|limit| limit["criterion"] == "kl-divergence");
    assert!(kl.unwrap()["upper"].as_f64().unwrap() < 1e-4 && kl.unwrap()["verdict"] == "within", "{certificate}");
    assert_eq!(certificate["significance"], json!(0.05));
    let arguments = ["--format", "certificate-markdown", "--model", "fold"];
    let markdown = succeed(kintsugi().arg("report").arg(certified().path("out")).args(arguments));
    assert!(markdown.contains("α = 0.05") && markdown.contains("on 48 of 200 passages of demo"), "{markdown}");
    assert!(markdown.contains("| KL divergence | ") && markdown.contains("BLAKE3 `"), "{markdown}");
}

#[test]
fn a_certificate_is_of_one_row() {
    let report = |further: &[&str]| failure(kintsugi().arg("report").arg(certified().path("out")).args(further));
    let several = report(&["--format", "certificate"]);
    assert!(several.contains("several rows: mean, fold, other\nhint: ") && several.contains("--model"), "{several}");
    let none = report(&["--format", "certificate", "--model", "median"]);
    assert!(none.contains("no row `median`, only mean, fold, other"), "{none}");
    let other_format = report(&["--format", "markdown", "--model", "fold"]);
    assert!(other_format.contains("--model: only a certificate"), "{other_format}");
}

#[test]
fn files_that_changed_are_found() {
    let copy = certified().copy();
    let layer = copy.path().join("global_step1600/layer_03-model_00-model_states.pt");
    flip_byte(&layer, 200_000);
    let changed = complaint("fold.json", copy.path(), 1);
    assert!(
        changed.starts_with("FAILED   files: global_step1600/layer_03-model_00-model_states.pt was changed"),
        "{changed}"
    );
    assert_eq!(changed.lines().count(), 1, "{changed}");
    let candidate = complaint("other.json", copy.path(), 1);
    assert!(candidate.starts_with("FAILED   files: layer_03-model_00-model_states.pt is another file"), "{candidate}");
    fs::remove_file(&layer).unwrap();
    let missing = complaint("fold.json", copy.path(), 1);
    assert_eq!(missing, "FAILED   files: global_step1600/layer_03-model_00-model_states.pt is missing");

    let copy = certified().copy();
    fs::write(copy.path().join("model.safetensors"), "").unwrap();
    let more = complaint("fold.json", copy.path(), 1);
    assert!(more.starts_with("FAILED   other files: ") && more.contains("model.safetensors was not written"), "{more}");
    fs::remove_file(copy.path().join("kintsugi_recipe.json")).unwrap();
    let no_recipe = complaint("fold.json", copy.path(), 2);
    assert!(no_recipe.starts_with("unknown  recipe: "), "{no_recipe}");
}

#[test]
fn other_merges_are_not_the_certified_one() {
    let certified = certified();
    let strategy = complaint("mean.json", &certified.path("merged"), 1);
    assert!(strategy.starts_with("FAILED   strategy: made by `fold` (BLAKE3 "), "{strategy}");
    assert!(strategy.ends_with("certified is mean"), "{strategy}");

    let wider = tempfile::tempdir().unwrap();
    let merge = ["merge", &demo("checkpoint"), "--dtype", "f32", "-o"];
    succeed(kintsugi().args(merge).arg(wider.path()));
    let wider = complaint("fold.json", wider.path(), 1);
    assert!(wider.starts_with("FAILED   form: stored as f32, evaluated as f16"), "{wider}");

    // The same tensors in another file.
    let other = tempfile::tempdir().unwrap();
    copy_folder(Path::new(&demo("checkpoint")), &other.path().join("source"));
    let layer = other.path().join("source/global_step1600/layer_04-model_01-model_states.pt");
    edit_layer_file(&layer, |tensors| assert!(!tensors.is_empty()));
    let source = other.path().join("source");
    succeed(kintsugi().arg("merge").arg(source).arg("-o").arg(other.path().join("merged")));
    let inputs = complaint("fold.json", &other.path().join("merged"), 1);
    assert!(inputs.starts_with("FAILED   checkpoint: layer_04-model_01-model_states.pt is another file"), "{inputs}");
}

#[test]
fn a_measurement_is_repeated() {
    let certified = certified();
    let (checkpoint, data) = (demo("checkpoint"), demo("passages.jsonl"));
    let (task, tokenizer) = (demo("task.yml"), demo("tokenizer.json"));
    let given = ["--checkpoint", &checkpoint, "--data", &data, "--task", &task, "--tokenizer", &tokenizer];
    let further = [&given[..], &["--device", "cpu", "--threads", "1"]].concat();
    let (code, lines) = verify(&certified.path("fold.json"), &certified.path("merged"), &further);
    assert_eq!(code, 0, "{lines}");
    assert!(lines.contains("ok       data given: the same 48 passages, and the same tokenizer"), "{lines}");
    assert!(lines.contains("ok       KL divergence: within, at most "), "{lines}");

    // A merge by `mean` under the certificate of `fold`: its recipe shows it, and so does what it scores.
    let mean = tempfile::tempdir().unwrap();
    succeed(kintsugi().args(["merge", &checkpoint, "--strategy", "mean", "-o"]).arg(mean.path()));
    let (code, lines) = verify(&certified.path("fold.json"), mean.path(), &further);
    assert_eq!(code, 1, "{lines}");
    assert!(lines.contains("FAILED   KL divergence: beyond, at least "), "{lines}");
}

/// Which passages a run saw that stopped is not in its certificate; what they proved holds for all.
#[test]
fn a_run_that_stopped_is_measured_on_all_passages() {
    let folder = tempfile::tempdir().unwrap();
    let (out, certificate) = (folder.path().join("out"), folder.path().join("certificate.json"));
    let further = ["--strategy", "fold", "--until-decided", "--no-noise-floor", "--output-dir"];
    succeed(kintsugi().args(demo_arguments()).args(further).arg(&out));
    succeed(kintsugi().arg("report").arg(&out).args(["--format", "certificate", "--output"]).arg(&certificate));
    let written: Value = serde_json::from_slice(&fs::read(&certificate).unwrap()).unwrap();
    let seen = written["task"]["passages"]["effective"].as_u64().unwrap();
    assert!(seen < 200 && written.get("stopping_rule").is_some(), "{written}");
    let further = [
        ["--checkpoint", &demo("checkpoint")],
        ["--data", &demo("passages.jsonl")],
        ["--task", &demo("task.yml")],
        ["--tokenizer", &demo("tokenizer.json")],
        ["--device", "cpu"],
        ["--threads", "1"],
    ];
    let (code, lines) = verify(&certificate, &certified().path("merged"), &further.concat());
    assert_eq!(code, 0, "{lines}");
    assert!(lines.contains(&format!("all 200 passages, of which the certified run saw {seen}, and")), "{lines}");
    assert!(lines.contains("ok       KL divergence: within, at most "), "{lines}");
}

/// A certificate whose verdict its bounds do not bear out; and whatever is put in the place of a field, a recipe's too.
#[test]
fn certificates_and_recipes_are_not_trusted() {
    let certified = certified();
    let folder = certified.copy();
    let path = folder.path().join("certificate.json");
    let certificate: Value = serde_json::from_slice(&fs::read(certified.path("mean.json")).unwrap()).unwrap();
    let mut improved = certificate.clone();
    improved["standing"] = "within".into();
    improved["limits"].as_array_mut().unwrap().iter_mut().for_each(|limit| limit["verdict"] = "within".into());
    fs::write(&path, improved.to_string()).unwrap();
    let (code, lines) = verify(&path, &certified.path("merged"), &[]);
    assert_eq!(code, 1);
    assert!(
        lines.starts_with("FAILED   certificate: KL divergence: `within` does not follow from its bounds"),
        "{lines}"
    );

    let recipe_path = folder.path().join("kintsugi_recipe.json");
    let recipe: Value = serde_json::from_slice(&fs::read(&recipe_path).unwrap()).unwrap();
    let hostile = [json!(null), json!("\u{1b}[2J../../etc/passwd"), json!(-1), json!(1e308), json!([]), json!({})];
    for (original, path) in [(&certificate, &path), (&recipe, &recipe_path)] {
        fs::write(path, original.to_string()).unwrap();
        for pointer in pointers(original, "") {
            for value in &hostile {
                let mut changed = original.clone();
                *changed.pointer_mut(&pointer).unwrap() = value.clone();
                fs::write(path, changed.to_string()).unwrap();
                let Ok(certificate) = read_certificate(&folder.path().join("certificate.json")) else { continue };
                let lines = render(&check_merge(&certificate, folder.path(), &OpenOptions::default(), false));
                assert!(!lines.contains('\u{1b}'), "{pointer} {value}: {lines}");
            }
        }
        fs::write(path, original.to_string()).unwrap();
    }
    let mut outside = recipe.clone();
    outside["outputs"][0]["file"] = "../outside".into();
    fs::write(&recipe_path, outside.to_string()).unwrap();
    let (_, lines) = verify(&path, folder.path(), &[]);
    assert!(lines.contains("`../outside` is no file below the directory"), "{lines}");
}

/// A pointer to each field that `verify` may read; of a list only the first.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let below = match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), field)).collect(),
        Value::Array(items) => items.first().map(|item| ("0".to_owned(), item)).into_iter().collect(),
        _ => Vec::new(),
    };
    let skipped = ["architecture", "parameters", "command", "source"];
    let below = below.into_iter().filter(|(name, _)| !skipped.contains(&name.as_str()));
    below
        .flat_map(|(name, field)| {
            let pointer = format!("{at}/{name}");
            [vec![pointer.clone()], pointers(field, &pointer)].concat()
        })
        .collect()
}
