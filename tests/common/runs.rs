//! Runs of the program on the bundled checkpoint, in slices of one chunk, and whether two of them came to the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Variables of launchers, which tests may run under.
const LAUNCHERS: [&str; 9] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_STEP_ID",
    "SLURM_ARRAY_TASK_ID",
    "OMPI_COMM_WORLD_RANK",
    "JOB_COMPLETION_INDEX",
    "KINTSUGI_SHARDS",
    "KINTSUGI_LOG",
];

/// The program, in an environment without launchers.
pub fn kintsugi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    for variable in LAUNCHERS {
        command.env_remove(variable);
    }
    command
        .env("COLUMNS", "100")
        .env("KINTSUGI_NO_CACHE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What a run is asked to do but for its output directory: 48 passages of the bundled checkpoint in some 18 slices, unless
/// `further` says otherwise.
pub fn compare(checkpoint: &Path, further: &[&str]) -> Command {
    let demo = super::evaluation::demo().parent().unwrap().to_owned();
    let mut command = kintsugi();
    command.arg("compare").arg(checkpoint);
    for (flag, file) in [("--data", "passages.jsonl"), ("--tokenizer", "tokenizer.json"), ("--task", "task.yml")] {
        command.arg(flag).arg(demo.join(file));
    }
    let defaults = [
        ("--limit", "48"),
        ("--device", "cpu"),
        ("--threads", "1"),
        ("--bootstrap-replicates", "100"),
        ("--chunk-tokens", "96"),
        ("--slice-tokens", "96"),
    ];
    for (flag, value) in defaults.iter().filter(|(flag, _)| !further.contains(flag)) {
        command.args([flag, value]);
    }
    command.args(["--strategy", "mean", "--strategy", "fold"]).args(further);
    command
}

/// Runs to the end, and gives what it said.
pub fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

/// Runs to an error, and gives what it said of it.
pub fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(!stderr.contains("panicked") && stderr.contains("error: "), "{stderr}");
    stderr
}

/// `report.json` without times, memory and command line, and without these.
fn report(folder: &Path, further: &[&str]) -> Value {
    let mut report = super::evaluation::json(&folder.join("report.json"));
    let run = report["run"].as_object_mut().unwrap();
    for aside in ["argv", "started", "seconds", "stages", "peak_rss_bytes", "tokens_per_second"].iter().chain(further) {
        run.remove(*aside);
    }
    report
}

/// Everything else that a run writes and that has no time in it.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for below in ["samples", "plots"] {
        for entry in fs_err::read_dir(folder.join(below)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension != "png") {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs_err::read(&path).unwrap());
            }
        }
    }
    found.insert("passages.jsonl".into(), fs_err::read(folder.join("passages.jsonl")).unwrap());
    found
}

/// Fails unless both runs came to the same.
pub fn assert_same(found: &Path, expected: &Path) {
    assert_same_but(found, expected, &[]);
}

/// The same, these fields of the run's description aside.
pub fn assert_same_but(found: &Path, expected: &Path, aside: &[&str]) {
    assert_eq!(report(found, aside), report(expected, aside));
    let (found, expected) = (files(found), files(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (path, bytes) in &found {
        assert!(*bytes == expected[path], "{} differs", path.display());
    }
}

/// Lines of a journal that are whole.
pub fn records(journal: &Path) -> usize {
    let lines = |bytes: Vec<u8>| bytes.split(|&byte| byte == b'\n').count() - 1;
    fs_err::read(journal).map_or(0, lines)
}
