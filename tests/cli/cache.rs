//! Models that were evaluated on the same passages before are not evaluated again, and the report says the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;
use crate::common::evaluation::{demo, json};
use crate::common::runs::{assert_same_but, compare, finish, kintsugi};
use serde_json::Value;
use tempfile::TempDir;

/// An empty cache, and room for output directories.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs with the cache into a folder of this name; gives what was said.
    fn run(&self, mut command: Command, name: &str) -> String {
        command.env_remove("KINTSUGI_NO_CACHE").env("KINTSUGI_CACHE_DIR", self.path("cache"));
        finish(command.arg("--output-dir").arg(self.path(name)))
    }
}

/// `eval` of a checkpoint on the passages that `compare` takes.
fn eval(checkpoint: &Path) -> Command {
    let mut command = kintsugi();
    command.arg("eval").arg(checkpoint).args(["--limit", "48", "--device", "cpu", "--threads", "1"]);
    let demo = demo().parent().unwrap().to_owned();
    for (flag, file) in [("--data", "passages.jsonl"), ("--tokenizer", "tokenizer.json"), ("--task", "task.yml")] {
        command.arg(flag).arg(demo.join(file));
    }
    command.args(["--chunk-tokens", "96"]);
    command
}

const FREE: &str = "nothing is computed: ";

/// What a division into other slices may change.
const ASIDE: [&str; 2] = ["slices", "threads"];

#[test]
fn the_same_again_is_free() {
    let place = Place::new();
    assert!(!place.run(compare(&demo(), &[]), "first").contains(FREE));
    let said = place.run(compare(&demo(), &[]), "second");
    assert!(said.contains("nothing is computed: all 4 models were evaluated before on these passages"), "{said}");
    assert_same_but(&place.path("second"), &place.path("first"), &ASIDE);
    // Fewer of the models, and the journal is there for those who go on.
    let said = place.run(compare(&demo(), &["--no-noise-floor"]), "fewer");
    assert!(said.contains("all 3 models"), "{said}");
    let said = place.run(compare(&demo(), &["--no-noise-floor"]), "fewer");
    assert!(said.contains("nothing is left to compute"), "{said}");
}

#[test]
fn an_unchanged_baseline_is_evaluated_once() {
    let place = Place::new();
    place.run(compare(&demo(), &["--strategy", "zeroth"]), "compare");
    let said = place.run(eval(&demo()), "eval");
    assert!(said.contains("nothing is computed: this model was evaluated before"), "{said}");
    let baseline = |name: &str| json(&place.path(name).join("report.json"))["baseline"].clone();
    assert_eq!(baseline("eval"), baseline("compare"));

    // And the other way round: with the baseline alone in it, the rest is computed, and is what it would have been.
    let other = Place::new();
    other.run(eval(&demo()), "eval");
    assert!(!other.run(compare(&demo(), &["--strategy", "zeroth"]), "compare").contains(FREE));
    assert_same_but(&other.path("compare"), &place.path("compare"), &[]);
}

#[test]
fn anything_else_is_evaluated() {
    let place = Place::new();
    let source = place.path("model/checkpoint");
    common::copy_folder(&demo(), &source);
    place.run(eval(&source), "first");
    // In another place with the same contents: hashed, and known.
    let moved = place.path("moved/checkpoint");
    common::copy_folder(&source, &moved);
    assert!(place.run(eval(&moved), "moved").contains(FREE));

    let with = |flags: &[&str]| {
        let mut command = eval(&source);
        command.args(flags);
        command
    };
    for (at, flags) in
        [&["--dtype", "f64"][..], &["--max-length", "30"], &["--no-cache"], &["--restart"]].iter().enumerate()
    {
        assert!(!place.run(with(flags), &format!("other-{at}")).contains(FREE), "{flags:?}");
    }
    let perplexity = |name: &str| json(&place.path(name).join("report.json"))["baseline"]["perplexity"].clone();
    common::set_element(
        &moved.join("global_step1600/layer_04-model_00-model_states.pt"),
        "attention.dense.bias",
        0,
        0.5,
    );
    assert!(!place.run(eval(&moved), "changed").contains(FREE));
    assert_ne!(perplexity("changed"), perplexity("first"));
    assert_ne!(perplexity("changed"), Value::Null);
    // The earlier one is still there.
    assert!(place.run(eval(&source), "again").contains(FREE));

    // What is damaged is computed anew, and repaired.
    for entry in fs_err::read_dir(place.path("cache/results")).unwrap() {
        for model in fs_err::read_dir(entry.unwrap().path()).unwrap() {
            for file in fs_err::read_dir(model.unwrap().path()).unwrap() {
                common::truncate_half(&file.unwrap().path());
            }
        }
    }
    assert!(!place.run(eval(&source), "repaired").contains(FREE));
    assert!(place.run(eval(&source), "once more").contains(FREE));
    assert_eq!(perplexity("once more"), perplexity("first"));
}

#[test]
fn a_cache_that_cannot_be_written_is_no_obstacle() {
    let place = Place::new();
    fs_err::write(place.path("cache"), "a file").unwrap();
    let said = place.run(eval(&demo()), "out");
    assert!(said.contains("WARN the results are not in the cache"), "{said}");
    assert!(place.path("out/report.json").is_file());
}
