//! Results that somebody changed, or never were any: `report` and `gate` read what others hand them.

use super::*;
use crate::common::reports::{samples, write_report};

/// The results of a run.
struct Finished(Inputs);

impl Finished {
    fn new() -> Self {
        let inputs = Inputs::new();
        let three = || samples([(-1.0, true), (-2.0, false), (-0.5, true)]);
        write_report(&inputs.path("out"), three(), vec![("mean", three())]);
        inputs.write("gates.yml", "default: {max-acc-loss: 0.5pp}\n");
        Self(inputs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path("out").join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kintsugi();
        command.arg(arguments[0]).arg(self.0.path("out")).args(&arguments[1..]);
        if arguments[0] == "gate" {
            command.arg("--gates").arg(self.0.path("gates.yml"));
        }
        with_little_memory(&command)
    }

    /// What a command says of the results, which it cannot read.
    fn complaint(&self, arguments: &[&str]) -> String {
        let complaint = self.0.without_paths(&failure(&mut self.command(arguments)));
        assert!(complaint.contains("\nhint: ") && complaint.len() < 1000, "{complaint}");
        complaint
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut serde_json::Value)) {
        let mut value = serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap();
        edit(&mut value);
        fs::write(self.path(name), value.to_string()).unwrap();
    }
}

/// The beginning of an attack, as the name of its case.
fn shown(attack: &[u8]) -> String {
    String::from_utf8_lossy(&attack[..attack.len().min(40)]).escape_debug().to_string()
}

/// Texts that are neither a report nor samples.
fn garbage() -> Vec<Vec<u8>> {
    vec![
        b"null".to_vec(),
        b"[".repeat(100_000),
        b"{\"schema_version\":".repeat(10_000),
        b"{\"doc_id\": \"\xff\xfe\"}".to_vec(),
        b"{\"schema_version\": \"2\", \"baseline\": 1e400}".to_vec(),
        b"\x1f\x8b\x08\0\0".to_vec(),
        b"{}".to_vec(),
    ]
}

#[test]
fn reports_that_are_garbage_are_refused() {
    let finished = Finished::new();
    let mut all = Complaints::default();
    for attack in garbage().into_iter().chain([Vec::new()]) {
        fs::write(finished.path("report.json"), &attack).unwrap();
        let complaint = finished.complaint(&["report"]);
        assert!(complaint.starts_with("error: INPUT/out/report.json: "), "{complaint}");
        for arguments in [["report", "--format", "html"].as_slice(), &["gate"]] {
            assert_eq!(finished.complaint(arguments), complaint);
        }
        all.add(&shown(&attack), &complaint);
    }
    insta::assert_snapshot!("reports", all.0);
    // A hole takes no room on the disk.
    fs::File::create(finished.path("report.json")).unwrap().set_len(1 << 40).unwrap();
    assert!(finished.complaint(&["report"]).contains("larger than 67108864 bytes"));
}

#[test]
fn samples_and_passages_that_are_garbage_are_refused() {
    let mut all = Complaints::default();
    for name in ["samples/mean.jsonl", "samples/baseline.jsonl", "passages.jsonl"] {
        let finished = Finished::new();
        for attack in garbage() {
            fs::write(finished.path(name), &attack).unwrap();
            let complaint = finished.complaint(&["report", "--format", "html"]);
            assert!(complaint.contains(&format!("INPUT/out/{name}: line 1 ")), "{complaint}");
            all.add(&format!("{name}: {}", shown(&attack)), &complaint);
            if name != "passages.jsonl" {
                assert!(finished.complaint(&["gate"]).contains(&format!("INPUT/out/{name}: line 1 ")));
            }
        }
        fs::write(finished.path(name), vec![b'['; 17 << 20]).unwrap();
        assert!(finished.complaint(&["report"]).contains("line 1 is longer than"));
    }
    insta::assert_snapshot!("samples", all.0);
}

#[test]
fn journals_that_are_no_journals_are_refused() {
    let inputs = Inputs::new();
    let (folder, output) = (inputs.path("journals"), inputs.path("joined"));
    fs::create_dir(&folder).unwrap();
    let combine = || {
        let mut command = kintsugi();
        command.arg("combine").arg(&folder).arg("--output-dir").arg(&output);
        inputs.without_paths(&failure(&mut with_little_memory(&command)))
    };
    // A single line may be a record that was not finished; two are a damaged journal.
    for attack in garbage() {
        fs::write(folder.join("journal.jsonl"), [attack.as_slice(), b"\n", &attack, b"\n"].concat()).unwrap();
        let complaint = combine();
        assert!(complaint.starts_with("error: INPUT/journals/journal.jsonl: record 1 is damaged"), "{complaint}");
        assert!(complaint.len() < 1000, "{complaint}");
        assert!(!output.exists(), "a report was begun");
    }
    fs::remove_file(folder.join("journal.jsonl")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(folder.join("journal.jsonl")).status().unwrap().success());
    let pipe = combine();
    assert!(pipe.contains("INPUT/journals/journal.jsonl: expected a file, found a pipe"), "{pipe}");
    if cfg!(feature = "libtorch") {
        let compare = inputs.compare(&["--output-dir", folder.to_str().unwrap()]);
        let going_on = inputs.without_paths(&failure(&mut with_little_memory(&compare)));
        assert!(going_on.contains("INPUT/journals/journal.jsonl: expected a file, found a pipe"), "{going_on}");
    }
}

#[test]
fn names_in_a_report_never_lead_out_of_its_folder() {
    for place in ["../mean.jsonl", "/etc/passwd", "samples/../../mean.jsonl", "", ".", ".."] {
        let finished = Finished::new();
        fs::copy(finished.path("samples/mean.jsonl"), finished.0.path("mean.jsonl")).unwrap();
        finished.edit("report.json", |report| report["variants"][0]["samples"] = json!(place));
        for arguments in [["report"].as_slice(), &["report", "--format", "lm-eval"], &["gate"]] {
            let complaint = finished.complaint(arguments);
            assert!(complaint.contains("expected a file below the report's folder"), "{place}: {complaint}");
        }
    }
    // The name of a file becomes the name of a folder.
    for name in ["samples/...jsonl", "samples/..", "samples/...x"] {
        let finished = Finished::new();
        let source = finished.path("samples/mean.jsonl");
        if name != "samples/.." {
            fs::copy(source, finished.path(name)).unwrap();
        }
        finished.edit("report.json", |report| report["variants"][0]["samples"] = json!(name));
        let output = finished.0.path("again/lm-eval");
        let _ = run(&mut finished.command(&["report", "--format", "lm-eval", "-o", output.to_str().unwrap()]));
        if let Ok(entries) = fs::read_dir(finished.0.path("again")) {
            assert_eq!(entries.count(), 1, "{name}: something was written outside");
        }
    }
}

#[test]
fn what_a_report_quotes_is_neither_markup_nor_a_command() {
    let finished = Finished::new();
    let attack = "<script>alert(1)</script>\u{1b}]0;title\u{7}";
    finished.edit("report.json", |report| {
        report["variants"][0]["name"] = json!(attack);
        report["variants"][0]["description"] = json!(attack);
    });
    let page = run(&mut finished.command(&["report", "--format", "html"]));
    assert!(page.status.success(), "{}", text(&page.stderr));
    assert!(!text(&page.stdout).contains("<script>alert"));
    for arguments in [["report"].as_slice(), &["gate"]] {
        let output = run(&mut finished.command(arguments));
        for shown in [output.stdout, output.stderr] {
            assert!(!shown.contains(&0x1b) && !shown.contains(&0x07), "{}", String::from_utf8_lossy(&shown));
        }
    }
}

#[test]
fn names_in_files_are_no_commands_to_the_terminal() {
    let inputs = Inputs::new();
    let pickle = hostile::tensor_pickle(&[1 << 20, 1 << 10], &[0, 0], 0, 16);
    let at = pickle.windows(11).position(|window| window == b"norm.weight").unwrap();
    let mut pickle = pickle;
    pickle[at..at + 11].copy_from_slice(b"\x1b]0;owned\x07\x08");
    hostile::write_pickle(&inputs.files.layer_file(5, 1), &pickle);
    for complaint in inputs.refusals(&[]) {
        assert!(complaint.contains("tensor `\\u{1b}]0;owned\\u{7}\\u{8}` has"), "{complaint}");
    }
}
