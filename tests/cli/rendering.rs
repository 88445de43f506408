//! `report`: a finished run shown again from its files, and `explain` beside `compare` on one page.

#[cfg(feature = "libtorch")]
use kintsugi::report::{read_json, render_markdown};
#[cfg(feature = "libtorch")]
use kintsugi::samples::{PassageText, Sample, read_jsonl};

use super::*;
use crate::common::reports::{samples, write_report};

/// A run whose files the tests read.
#[cfg(feature = "libtorch")]
fn finished(inputs: &Inputs) -> PathBuf {
    let out = inputs.path("out");
    let output = run(inputs.compare(&["--output-dir"]).arg(&out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    out
}

/// Stdout of `report` with these arguments.
fn report(path: &Path, further: &[&str]) -> String {
    let output = run(kintsugi().arg("report").arg(path).args(further));
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_report_is_shown_in_every_format_from_its_files_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let of = |lost: f64| samples([(-1.0, true), (-2.0 - lost, false), (-0.5, lost == 0.0)]);
    write_report(&out, of(0.0), vec![("mean", of(0.5))]);
    let file = fs::read_to_string(out.join("report.json")).unwrap();
    assert_eq!(report(&out, &["--format", "json"]), file);
    assert_eq!(report(&out.join("report.json"), &["--format", "json"]), file);
    assert!(report(&out, &[]).starts_with("t (3 passages)"));
    assert!(report(&out, &["--format", "markdown"]).contains("| mean |"));
    assert!(report(&out, &["--format", "html"]).starts_with("<!doctype html>"));
    let lm_eval = folder.path().join("lm-eval");
    report(&out, &["--format", "lm-eval", "-o", lm_eval.to_str().unwrap()]);
    for model in ["baseline", "mean"] {
        // Without the passages' texts there are no files of samples.
        let files: Vec<_> =
            fs::read_dir(lm_eval.join(model)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(files.len() == 1 && files[0].to_string_lossy().starts_with("results_"), "{model}: {files:?}");
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn every_format_is_what_the_run_wrote() {
    let inputs = Inputs::new();
    let out = finished(&inputs);
    let file = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(report(&out, &["--format", "markdown"]), file("report.md"));
    assert_eq!(report(&out, &["--format", "json"]), file("report.json"));
    assert_eq!(report(&out.join("report.json"), &["--format", "json"]), file("report.json"));
    // The page is another only in the numbers of its clipped regions.
    let page = report(&out, &["--format", "html"]);
    assert_eq!(page.len(), file("report.html").len());
    assert!(page.starts_with("<!doctype html>"));
    let shown = report(&out, &[]);
    assert!(shown.starts_with("lambada_openai (3 passages)") && !shown.contains('\u{1b}'), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert_eq!(render_markdown(&read_json(&out.join("report.json")).unwrap()), file("report.md"));

    // The ending of a file says what it is to hold.
    let copy = inputs.path("copy.md");
    assert_eq!(report(&out, &["-o", copy.to_str().unwrap()]), "");
    assert_eq!(fs::read_to_string(copy).unwrap(), file("report.md"));
}

#[test]
#[cfg(feature = "libtorch")]
fn lm_eval_files_are_written_again_under_the_same_names() {
    let inputs = Inputs::new();
    let out = finished(&inputs);
    let files = |folder: &Path| {
        let mut files: Vec<(String, String)> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let again = inputs.path("again");
    report(&out, &["--format", "lm-eval", "-o", again.to_str().unwrap()]);
    for model in ["baseline", "mean", "noise-floor"] {
        let written = files(&out.join("lm-eval").join(model));
        assert!(matches!(&written[..], [(results, _), (samples, lines)]
            if results.starts_with("results_") && samples.starts_with("samples_lambada_openai_") && lines.lines().count() == 3));
        assert_eq!(files(&again.join(model)), written, "{model}");
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn likely_tokens_and_passages_are_recorded() {
    let inputs = Inputs::new();
    let out = finished(&inputs);
    let passages: Vec<PassageText> = read_jsonl(&out.join("passages.jsonl")).unwrap();
    assert_eq!((passages[1].context.as_str(), passages[1].target.as_str()), ("w4 w5 w6", " w7"));
    for model in ["baseline", "mean"] {
        let samples: Vec<Sample> = read_jsonl(&out.join(format!("samples/{model}.jsonl"))).unwrap();
        for token in samples.iter().flat_map(|sample| &sample.tokens) {
            assert_eq!(token.top.len(), 5);
            assert_eq!(token.top[0].id, token.greedy_id);
            assert!(token.top.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
            for candidate in &token.top {
                let known = candidate.id < 120;
                assert_eq!(candidate.text, if known { format!("w{}", candidate.id) } else { String::new() });
                assert!(candidate.id != token.id || candidate.logprob.total_cmp(&token.logprob).is_eq());
            }
        }
    }
}

#[test]
#[cfg(feature = "libtorch")]
fn explain_joins_the_page_of_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let explain = || {
        let arguments = demo_arguments();
        let taken = arguments[1..].iter().take_while(|argument| *argument != "--bootstrap-replicates");
        let mut command = kintsugi();
        command.arg("explain").args(taken).args(["--strategy", "mean", "--limit", "40", "--output-dir"]);
        let output = run(command.arg(folder.path()));
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read_to_string(folder.path().join("report.html")).unwrap()
    };
    let alone = explain();
    assert!(alone.contains("id=\"factors\"") && !alone.contains("id=\"comparison\""));
    let compared = run(kintsugi()
        .args(demo_arguments())
        .args(["--strategy", "mean", "--limit", "40", "--output-dir"])
        .arg(folder.path()));
    assert!(compared.status.success(), "{}", text(&compared.stderr));
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    for section in ["verdict", "comparison", "losses", "factors", "layers", "changes", "flips", "provenance"] {
        assert!(page.contains(&format!("id=\"{section}\"")), "{section}");
    }
    assert!(explain().contains("id=\"comparison\""));
    assert!(folder.path().join("plots/factors.png").is_file());
    assert!(report(folder.path(), &[]).starts_with("demo (40 passages)"));
}

#[test]
fn what_cannot_be_shown_is_said() {
    let inputs = Inputs::new();
    let empty = failure(kintsugi().arg("report").arg(inputs.folder.path()));
    assert!(empty.contains("no report.json") && empty.contains("hint: pass the --output-dir"), "{empty}");
    let out = inputs.path("out");
    let three = || samples([(-1.0, true), (-2.0, false), (-0.5, true)]);
    write_report(&out, three(), vec![("mean", three())]);
    let ending = failure(kintsugi().arg("report").arg(&out).args(["-o", "report.pdf"]));
    assert!(ending.contains("report.pdf: its ending is none of"), "{ending}");
    fs::write(out.join("samples/mean.jsonl"), "{}\n").unwrap();
    let broken = failure(kintsugi().arg("report").arg(&out).args(["--format", "html"]));
    assert!(broken.contains("mean.jsonl: line 1"), "{broken}");
    fs::remove_dir_all(out.join("samples")).unwrap();
    let missing = failure(kintsugi().arg("report").arg(&out).args(["--format", "lm-eval"]));
    assert!(missing.contains("`baseline` has no samples: samples/baseline.jsonl is missing"), "{missing}");
}
