//! The program as its users meet it: help, data on stdout and the rest on stderr, exit codes, and the error of every
//! kind of damaged input. The program runs in processes of its own, so that tests can run side by side: those that kill
//! it at random moments ([`export_faults`], [`resume`]) hold for whatever moment it is. Modules without a condition, and
//! the tests in them without one, need no libtorch.
#![allow(clippy::cast_precision_loss, clippy::print_stderr, clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "libtorch")]
mod candidates;
mod checkpoints;
#[cfg(feature = "libtorch")]
mod combine;
#[cfg(feature = "libtorch")]
mod data;
#[cfg(feature = "libtorch")]
mod defects;
#[cfg(all(feature = "libtorch", feature = "hub"))]
mod demo_model;
mod diff;
mod distributed;
mod eras;
#[cfg(feature = "libtorch")]
mod explain;
mod export_faults;
#[cfg(feature = "libtorch")]
mod faults;
mod flags;
mod gate;
mod gate_samples;
#[cfg(feature = "libtorch")]
mod github_action;
#[cfg(not(feature = "libtorch"))]
mod hand_over;
mod hostile;
mod hostile_hugging_face;
mod hostile_megatron;
mod hostile_results;
mod hostile_text;
#[cfg(all(feature = "libtorch", feature = "hub"))]
mod hub;
#[cfg(all(feature = "libtorch", feature = "hub"))]
mod hub_models;
mod inspect;
mod outputs;
mod places;
mod reference;
mod rendering;
#[cfg(feature = "libtorch")]
mod results;
#[cfg(feature = "libtorch")]
mod resume;
#[cfg(feature = "libtorch")]
mod settings;
mod strategies;
mod test_checkpoints;
#[cfg(feature = "libtorch")]
mod until_decided;
#[cfg(feature = "libtorch")]
mod verify;
#[cfg(feature = "libtorch")]
mod whole_texts;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use common::{TinyCheckpoint, TinyModel};
use fs_err as fs;
use serde_json::json;
use tempfile::TempDir;

/// The program, with an environment of its own.
fn kintsugi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    for variable in ["KINTSUGI_LOG", "NO_COLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "TRANSFORMERS_OFFLINE"] {
        command.env_remove(variable);
    }
    // No test asks the real Hub, or finds what somebody else has fetched.
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", "/nonexistent/huggingface");
    // A panic is a failure in any case; its trace is not wanted.
    command.env("COLUMNS", "100").env("RUST_BACKTRACE", "0").env("KINTSUGI_NO_CACHE", "1");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs to the end, whatever comes of it: nothing may ever panic.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    output
}

/// What a run that cannot finish says: exit code 2, nothing on stdout, on stderr an error and perhaps a hint.
fn failure(command: &mut Command) -> String {
    let output = run(command);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(text(&output.stdout), "", "data on stdout of a run that failed");
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{stderr}");
    stderr
}

/// The same with 4 GB of addresses, of which libtorch takes the most part: who asks for more is killed.
fn with_little_memory(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    // Nothing here takes seconds; a program that waits for what never comes must not take the tests along.
    limited.timeout(std::time::Duration::from_secs(600));
    limited
}

/// A checkpoint of two layers and two ranks, a tokenizer for it and passages: a run that would succeed.
struct Inputs {
    files: TinyCheckpoint,
    folder: TempDir,
}

impl Inputs {
    fn new() -> Self {
        Self::of(&TinyModel::new())
    }

    fn of(model: &TinyModel) -> Self {
        let inputs = Self { files: model.write(), folder: tempfile::tempdir().unwrap() };
        inputs.write_tokenizer(120);
        inputs.write_data("{\"text\": \"w1 w2 w3\"}\n{\"text\": \"w4 w5 w6 w7\"}\n{\"text\": \"w2 w1\"}\n");
        inputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn write_data(&self, contents: impl AsRef<[u8]>) {
        self.write("passages.jsonl", contents);
    }

    /// A tokenizer that knows the words `w0`, `w1`, ….
    fn write_tokenizer(&self, word_count: usize) {
        let words: serde_json::Map<_, _> = (0..word_count).map(|id| (format!("w{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
        });
        self.write("tokenizer.json", tokenizer.to_string());
    }

    /// `compare` of it by `mean` on one CPU thread, with further arguments.
    fn compare(&self, further: &[&str]) -> Command {
        let mut command = kintsugi();
        command.arg("compare").arg(self.files.path()).arg("--data").arg(self.path("passages.jsonl"));
        command.args(["--device", "cpu", "--threads", "1", "--bootstrap-replicates", "100"]);
        if !further.contains(&"--strategy") {
            command.args(["--strategy", "mean"]);
        }
        if !further.contains(&"--tokenizer") {
            command.arg("--tokenizer").arg(self.path("tokenizer.json"));
        }
        command.args(further);
        command
    }

    /// A message with the places of the temporary files cut out and log lines left away.
    fn without_paths(&self, stderr: &str) -> String {
        let is_log = |line: &str| line.starts_with(" INFO ") || line.starts_with(" WARN ");
        let lines = stderr.split_inclusive('\n').filter(|line| !is_log(line));
        let mut text: String = lines.collect();
        for (path, name) in [(self.files.step(), "STEP"), (self.files.path(), "SAVE"), (self.folder.path(), "INPUT")] {
            text = text.replace(&path.display().to_string(), name);
        }
        text
    }

    /// The same by `merge`, which needs no libtorch.
    fn merge(&self, further: &[&str]) -> Command {
        let mut command = kintsugi();
        command.arg("merge").arg(self.files.path()).arg("--output-dir").arg(self.path("merged"));
        if !further.contains(&"--strategy") {
            command.args(["--strategy", "mean"]);
        }
        command.args(further);
        command
    }

    /// Every command of this build that reads the whole checkpoint.
    fn readers(&self, further: &[&str]) -> Vec<Command> {
        let mut commands = vec![self.merge(further)];
        if cfg!(feature = "libtorch") {
            commands.push(self.compare(further));
        }
        commands
    }

    /// The error of every command that reads the whole checkpoint, with little memory.
    fn refusals(&self, further: &[&str]) -> Vec<String> {
        let commands = self.readers(further);
        commands.iter().map(|command| self.without_paths(&failure(&mut with_little_memory(command)))).collect()
    }

    /// The same where all say the same.
    fn refusal_of_all(&self, further: &[&str]) -> String {
        agreed(self.refusals(further))
    }

    /// The one error of all commands that read the whole checkpoint.
    fn complaint_of_all(&self, further: &[&str]) -> String {
        let mut commands = self.readers(further);
        agreed(commands.iter_mut().map(|command| self.without_paths(&failure(command))))
    }

    /// The error of `compare` with little memory.
    #[cfg(feature = "libtorch")]
    fn refusal(&self, further: &[&str]) -> String {
        self.without_paths(&failure(&mut with_little_memory(&self.compare(further))))
    }

    /// The error of `compare`.
    #[cfg(feature = "libtorch")]
    fn complaint(&self, further: &[&str]) -> String {
        self.without_paths(&failure(&mut self.compare(further)))
    }
}

/// The one of several texts that are all the same.
#[track_caller]
fn agreed(texts: impl IntoIterator<Item = String>) -> String {
    let mut texts = texts.into_iter();
    let first = texts.next().unwrap();
    for other in texts {
        assert_eq!(other, first);
    }
    first
}

/// One text of many cases, for a snapshot: each error under its case's name.
#[derive(Default)]
struct Complaints(String);

impl Complaints {
    /// Adds an error, which must have a hint and be short: no attack is shown in full.
    #[track_caller]
    fn add(&mut self, name: &str, complaint: &str) {
        assert!(complaint.contains("\nhint: "), "{name}: no hint\n{complaint}");
        assert!(complaint.len() < 1000, "{name}: the attack is shown in full");
        writeln!(self.0, "## {name}\n{complaint}").unwrap();
    }
}

/// The bundled checkpoint, passages and tokenizer.
#[cfg(feature = "libtorch")]
fn demo_arguments() -> Vec<String> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo");
    let path = |name: &str| demo.join(name).display().to_string();
    let (data, tokenizer, task) = (path("passages.jsonl"), path("tokenizer.json"), path("task.yml"));
    let checkpoint = path("checkpoint");
    ["compare", &checkpoint, "--data", &data, "--tokenizer", &tokenizer, "--task", &task]
        .into_iter()
        .chain(["--device", "cpu", "--threads", "1", "--bootstrap-replicates", "200"])
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_inputs_that_the_tests_damage_are_sound() {
    let inputs = Inputs::new();
    for mut command in inputs.readers(&[]) {
        let output = run(&mut command);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    if cfg!(feature = "libtorch") {
        let output = run(&mut inputs.compare(&[]));
        assert!(text(&output.stdout).starts_with("lambada_openai (3 passages)"), "{}", text(&output.stdout));
    }
}
