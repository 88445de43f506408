//! `examples/read_report.py` and `docs/python.md`: the reader's records are in step with the schema, and both run where
//! there is a Python of version 3.10 or newer.

mod records;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::report_input::{input, passages};
use kintsugi::report::{self, Report};

const START: &str = "# The records, made from configs/report.schema.json, where the descriptions are whole.\n";
const END: &str = "# The end of the records.\n";

fn repository(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// `KINTSUGI_BLESS=1 cargo test --test library report_` rewrites the records.
#[test]
fn records_are_in_step_with_the_schema() {
    let path = repository("examples/read_report.py");
    let schema = serde_json::from_str(&report::schema().unwrap()).unwrap();
    let committed = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = committed.split_once(START).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let reader = format!("{before}{START}{}\n\n{END}{after}", records::python(&schema));
    if std::env::var_os("KINTSUGI_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &reader).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap() == reader,
        "{} is out of step: run with KINTSUGI_BLESS=1",
        path.display()
    );
}

/// Runs a Python script that only needs the standard library. Skipped, with a message, where no Python can run it.
fn python(script: &str, arguments: &[&Path]) {
    let new_enough = ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"];
    if !Command::new("python3").args(new_enough).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no Python 3.10 or newer on this machine");
        return;
    }
    let mut command = Command::new("python3");
    // No __pycache__ in the repository.
    command.arg("-B").arg(repository("tests/library/report_reader").join(script)).args(arguments);
    let output = command.env("PYTHONPATH", repository("examples")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An output folder, and what was written there.
fn output_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let input = input();
    let report = Report::new(&input).unwrap();
    let output = report::prepare_output(&folder.path().join("out")).unwrap();
    report::write_all(&report, &input, &passages(), &output).unwrap();
    let path = output.path().to_owned();
    (folder, path)
}

#[test]
fn the_reader_reads_what_the_program_writes() {
    let (_folder, output) = output_folder();
    python("reading.py", &[&output]);
}

#[test]
fn the_code_of_the_page_runs() {
    let (_folder, output) = output_folder();
    python("page.py", &[&repository("docs/python.md"), &output]);
}
