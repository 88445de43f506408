//! What a run that succeeds leaves on stdout, on stderr and in the output directory.

use std::process::{Command as Process, Stdio};
use std::sync::OnceLock;

use kintsugi::report::{Report, read_json};
use kintsugi::samples::{Sample, read_jsonl};

use super::*;

/// One run over the bundled data, shared by the tests that look at it.
struct Demo {
    folder: TempDir,
    stdout: String,
    stderr: String,
}

fn demo() -> &'static Demo {
    static DEMO: OnceLock<Demo> = OnceLock::new();
    DEMO.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let strategies = ["--strategy", "mean", "--strategy", "fold"];
        // The directory is made if it is not there.
        let out = folder.path().join("new/out");
        let output = run(kintsugi().args(demo_arguments()).args(strategies).arg("--output-dir").arg(out));
        assert!(output.status.success(), "{}", text(&output.stderr));
        Demo { folder, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    })
}

impl Demo {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("new/out").join(name)
    }

    fn report(&self) -> Report {
        read_json(&self.path("report.json")).unwrap()
    }

    fn samples(&self, name: &str) -> Vec<Sample> {
        read_jsonl::<Sample>(&self.path(&format!("samples/{name}.jsonl"))).unwrap()
    }
}

#[test]
fn the_output_directory_holds_report_and_samples_and_nothing_else() {
    let demo = demo();
    let mut names: Vec<_> = ["", "samples"]
        .iter()
        .flat_map(|folder| fs::read_dir(demo.path(folder)).unwrap())
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = [
        "baseline.jsonl",
        "fold.jsonl",
        "journal.jsonl",
        "lm-eval",
        "mean.jsonl",
        "noise-floor.jsonl",
        "passages.jsonl",
        "plots",
        "report.html",
        "report.json",
        "report.md",
        "samples",
    ];
    assert_eq!(names, expected);
}

#[test]
fn report_json_says_what_was_measured() {
    let report = demo().report();
    assert!(!report.partial);
    assert_eq!((report.task.passages.original, report.task.passages.effective), (200, 200));
    assert_eq!(report.task.data.is_task_data, Some(true));
    assert_eq!(report.checkpoint.tp_size, 2);
    assert_eq!(report.checkpoint.digests.as_ref().unwrap().len(), 14);
    assert_eq!(
        report.run.argv.last().map(String::as_str),
        demo().path("").to_str().map(|path| path.trim_end_matches('/'))
    );
    let names: Vec<_> = report.variants.iter().map(|row| row.model.name.as_str()).collect();
    assert_eq!(names, ["mean", "fold"]);
    // gpt-neox's own number; see tests/evaluation/gpt_neox_reference.
    let value: serde_json::Value = serde_json::from_slice(&fs::read(demo().path("report.json")).unwrap()).unwrap();
    assert!((value["baseline"]["perplexity"].as_f64().unwrap() - 3.253_875).abs() < 2e-6, "{}", value["baseline"]);
}

#[test]
fn samples_are_of_the_same_passages_and_make_up_the_report() {
    let demo = demo();
    let baseline = demo.samples("baseline");
    assert_eq!(baseline.len(), 200);
    assert!(baseline.iter().flat_map(|sample| &sample.tokens).all(|token| token.kl.is_none()));
    for name in ["mean", "fold", "noise-floor"] {
        let samples = demo.samples(name);
        assert_eq!(samples.len(), 200, "{name}");
        for (sample, base) in samples.iter().zip(&baseline) {
            assert_eq!((sample.doc_id, &sample.prompt_hash), (base.doc_id, &base.prompt_hash), "{name}");
            assert!(sample.tokens.iter().all(|token| token.kl.is_some()), "{name}");
        }
    }
    let correct = baseline.iter().filter(|sample| sample.is_greedy).count();
    assert!(demo.stdout.contains("49.50 ± ") && correct == 99, "{correct}\n{}", demo.stdout);
}

#[test]
fn the_markdown_holds_a_row_for_every_model() {
    let markdown = fs::read_to_string(demo().path("report.md")).unwrap();
    for name in ["baseline", "mean", "fold", "noise floor"] {
        assert_eq!(markdown.lines().filter(|line| line.starts_with(&format!("| {name} |"))).count(), 1, "{name}");
    }
    assert!(!markdown.contains("PARTIAL"));
}

#[test]
fn stdout_carries_the_result_and_stderr_the_rest() {
    let Demo { stdout, stderr, .. } = demo();
    assert!(stdout.starts_with("demo (200 passages)"), "{stdout}");
    assert!(!stdout.contains("INFO") && !stdout.contains("PARTIAL"), "{stdout}");
    assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "colours without a terminal");
    let lines: Vec<_> = stderr.lines().collect();
    assert!(matches!(lines[..], [line] if line.starts_with(" INFO report in ")), "{stderr}");
    // Said quietly or loudly, the data stay the same.
    let limited = |flag: &str| {
        let output = run(kintsugi().args(demo_arguments()).args(["--strategy", "mean", "--limit", "5", flag]));
        (text(&output.stdout), text(&output.stderr))
    };
    let (quiet, loud) = (limited("--quiet"), limited("-vv"));
    assert_eq!(quiet.0, loud.0);
    assert_eq!(quiet.1, "");
    assert!(!loud.1.is_empty());
}

#[test]
fn a_limit_marks_every_form_of_the_report_as_partial() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(kintsugi()
        .args(demo_arguments())
        .args(["--strategy", "mean", "--limit", "5", "--output-dir"])
        .arg(folder.path()));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("PARTIAL: 5 of 200 passages (limit 5)"), "{stdout}");
    let markdown = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(markdown.contains("PARTIAL: 5 of 200 passages"), "{markdown}");
    let report = read_json(&folder.path().join("report.json")).unwrap();
    assert!(report.partial && report.run.limit == Some(5));
    assert_eq!((report.task.passages.original, report.task.passages.effective), (200, 5));
    let first: Vec<_> = demo().samples("mean")[..5].iter().map(|sample| sample.doc_id).collect();
    let samples = read_jsonl::<Sample>(&folder.path().join("samples/mean.jsonl")).unwrap();
    assert_eq!(samples.iter().map(|sample| sample.doc_id).collect::<Vec<_>>(), first);
}

#[test]
fn a_shard_alone_is_marked_as_a_part() {
    let mut command = kintsugi();
    command.args(demo_arguments()).args(["--strategy", "mean", "--no-noise-floor", "--limit", "40"]);
    let output = run(command.args(["--chunk-tokens", "200", "--shard", "2/3"]));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("PARTIAL: run shard 2 of 3"), "{stdout}{}", text(&output.stderr));
}

#[test]
fn an_output_directory_that_cannot_be_written_fails_before_the_evaluation() {
    let inputs = Inputs::new();
    // A file where a folder has to be: not even root can write there.
    let blocked = inputs.write("blocked", "");
    let out = blocked.join("out");
    for path in [&blocked, &out] {
        let complaint = inputs.complaint(&["--output-dir", path.to_str().unwrap()]);
        assert!(complaint.contains("INPUT/blocked"), "{complaint}");
        assert!(complaint.contains("the output directory is not writable"), "{complaint}");
        assert!(complaint.contains("\nhint: "), "{complaint}");
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_output_directory_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let inputs = Inputs::new();
    let folder = inputs.path("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write everywhere");
        return;
    }
    let complaint = inputs.complaint(&["--output-dir", folder.to_str().unwrap()]);
    assert!(complaint.contains("the output directory is not writable"), "{complaint}");
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let inputs = Inputs::new();
    let mut compare: Vec<_> = ["compare"].map(str::to_owned).into();
    compare.push(inputs.files.path().display().to_string());
    compare.extend(["--data".to_owned(), inputs.path("passages.jsonl").display().to_string()]);
    compare.extend(["--tokenizer".to_owned(), inputs.path("tokenizer.json").display().to_string()]);
    compare.extend(["--strategy", "mean", "--device", "cpu", "--threads", "1"].map(str::to_owned));
    let own = |arguments: &[&str]| arguments.iter().map(|&argument| argument.to_owned()).collect();
    for arguments in [compare, own(&["completions", "bash"]), own(&["doctor"]), own(&["--help"])] {
        let mut child = Process::new(env!("CARGO_BIN_EXE_kintsugi"))
            .args(&arguments)
            .env("KINTSUGI_NO_CACHE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before anything is written, as `| head -0` does.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{arguments:?}: {stderr}");
    }
}

/// A run on a terminal, which `script` of util-linux makes.
#[cfg(target_os = "linux")]
fn on_a_terminal(inputs: &Inputs, no_color: Option<&str>) -> Option<String> {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let command = format!(
        "{} -q compare {} --data {} --tokenizer {} --strategy mean --device cpu --threads 1",
        quoted(Path::new(env!("CARGO_BIN_EXE_kintsugi"))),
        quoted(inputs.files.path()),
        quoted(&inputs.path("passages.jsonl")),
        quoted(&inputs.path("tokenizer.json")),
    );
    let mut script = Process::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
    script.env("KINTSUGI_NO_CACHE", "1");
    if let Some(value) = no_color {
        script.env("NO_COLOR", value);
    }
    match script.output() {
        Ok(output) if output.status.success() => Some(text(&output.stdout)),
        _ => {
            eprintln!("skipped: `script` is missing or cannot make a terminal");
            None
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn colours_are_for_terminals_and_no_color_turns_them_off() {
    let inputs = Inputs::new();
    let Some(coloured) = on_a_terminal(&inputs, None) else { return };
    assert!(coloured.contains("\u{1b}[1m"), "nothing is bold: {coloured:?}");
    // An empty variable counts as unset (https://no-color.org).
    assert_eq!(on_a_terminal(&inputs, Some("")).unwrap(), coloured);
    let plain = on_a_terminal(&inputs, Some("1")).unwrap();
    assert!(plain.contains("baseline") && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn doctor_tells_the_same_as_json_and_as_text() {
    let plain = text(&run(kintsugi().arg("doctor")).stdout);
    let json: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&run(kintsugi().args(["doctor", "--json"])).stdout).unwrap();
    assert_eq!(json["kintsugi"], env!("CARGO_PKG_VERSION"));
    assert!(json["libtorch"].as_str().unwrap().starts_with(|first: char| first.is_ascii_digit()));
    for value in json.values() {
        assert!(plain.contains(value.as_str().unwrap()), "{value} is not in {plain}");
    }
}

#[test]
fn completions_are_scripts() {
    for (shell, words) in [("bash", "complete -F"), ("zsh", "#compdef kintsugi"), ("fish", "complete -c kintsugi")] {
        let output = run(kintsugi().args(["completions", shell]));
        let script = text(&output.stdout);
        assert!(output.status.success() && script.contains(words) && script.contains("memory-budget"), "{shell}");
    }
}

#[test]
fn a_synthetic_checkpoint_can_be_compared() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("synthetic");
    let arguments = ["synth", "--shape", "14m", "--tensor-parallel", "4", "--drift", "0.01", "--output-dir"];
    let output = run(kintsugi().args(arguments).arg(&out));
    assert_eq!(text(&output.stdout), format!("{}\n", out.join("global_step1").display()));
    let mut compare = demo_arguments();
    compare[1] = out.display().to_string();
    let report = folder.path().join("report");
    let output =
        run(kintsugi().args(compare).args(["--limit", "2", "--strategy", "fold", "--output-dir"]).arg(&report));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(read_json(&report.join("report.json")).unwrap().checkpoint.tp_size, 4);
    // What is there is not overwritten.
    let again = failure(kintsugi().args(arguments).arg(&out));
    assert!(again.contains("exists already\nhint: "), "{again}");
}

#[test]
fn a_merge_that_overflows_is_left_out_and_the_others_are_reported() {
    let inputs = Inputs::new();
    let rules = "norm-gain: {scale: 1.0e38}, norm-bias: mean, row-parallel-bias: sum, learned-positions: mean";
    let wild = inputs.write("wild.yml", format!("name: wild\nrules: {{{rules}}}\n"));
    let out = inputs.path("out");
    let arguments = ["--strategy", wild.to_str().unwrap(), "--strategy", "mean", "--output-dir"];
    let output = run(inputs.compare(&arguments).arg(&out));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = read_json(&out.join("report.json")).unwrap();
    assert_eq!(report.variants.iter().map(|row| row.model.name.as_str()).collect::<Vec<_>>(), ["mean"]);
    assert!(report.findings[0].starts_with("WARNING: wild is left out: passage 0:"), "{:?}", report.findings);
}
