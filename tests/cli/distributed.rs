//! Distributed checkpoints of Megatron-LM through the program: what it says of a model of which every value was stored once,
//! and what it does with one.

use super::*;
use crate::common::megatron::distributed::{Contents, Division};
use crate::common::megatron::{Writing, tiny};

/// A checkpoint whose ranks' copies differ, saved by each rank alone and by all together, with passages and a tokenizer.
struct Saved {
    inputs: Inputs,
    ranks: PathBuf,
    together: PathBuf,
}

impl Saved {
    fn new() -> Self {
        let inputs = Inputs::new();
        let (ranks, together) = (inputs.path("ranks"), inputs.path("together"));
        let (architecture, stages) = tiny(|_| {});
        let writing = Writing::new(&architecture, 2);
        writing.write(&architecture, &stages, &ranks);
        Contents::new(&writing, &Division::DEFAULT, &architecture, &stages).write(&together);
        Self { inputs, ranks, together }
    }

    #[cfg(feature = "libtorch")]
    fn run(&self, verb: &str, model: &Path, further: &[&str]) -> Command {
        let mut command = kintsugi();
        command.arg(verb).arg(model).arg("--data").arg(self.inputs.path("passages.jsonl"));
        command.arg("--tokenizer").arg(self.inputs.path("tokenizer.json"));
        command.args(["--device", "cpu", "--threads", "1", "--bootstrap-replicates", "100"]).args(further);
        command
    }
}

/// Words of a text without its line breaks and frames.
fn unbroken(text: &str) -> String {
    text.split(|character: char| character.is_whitespace() || character == '│')
        .collect::<Vec<_>>()
        .join(" ")
        .replace("  ", " ")
}

const STORED_ONCE: &str = "stored once: drift cannot be seen here; rank 0's copies were kept when it was saved";

#[test]
fn what_is_stored_once_is_said_and_nothing_is_judged() {
    let saved = Saved::new();
    let inspect = |further: &[&str]| {
        let mut command = kintsugi();
        command.arg("inspect").arg(&saved.together).args(further);
        command
    };
    let output = run(&mut inspect(&[]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = unbroken(&text(&output.stdout));
    for expected in ["step 7", "torch-dist", STORED_ONCE] {
        assert!(stdout.contains(expected), "{expected}: {stdout}");
    }
    let found: serde_json::Value = serde_json::from_slice(&run(&mut inspect(&["--json"])).stdout).unwrap();
    assert!(found.get("drift").is_none() && found.get("strategies").is_none(), "{found}");
    for further in [["--strategy", "mean"], ["--svg", "drift.svg"]] {
        assert!(failure(&mut inspect(&further)).contains(STORED_ONCE));
    }
    // The same model with every rank's own copies.
    let output = run(kintsugi().arg("inspect").arg(&saved.ranks));
    assert!(output.status.success() && !unbroken(&text(&output.stdout)).contains(STORED_ONCE));
}

#[test]
fn a_merge_is_what_was_saved() {
    let saved = Saved::new();
    for (format, name) in [("hf", "merged-hf"), ("neox", "merged-neox")] {
        let merged = saved.inputs.path(name);
        let mut command = kintsugi();
        command.arg("merge").arg(&saved.together).args(["--format", format]).arg("--output-dir").arg(&merged);
        let output = run(&mut command);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let card = fs::read_to_string(merged.join("README.md")).unwrap();
        assert!(card.contains(STORED_ONCE), "{card}");
        let output = run(kintsugi().arg("diff").arg(&saved.together).arg(&merged).arg("--json"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(found["identical"] == true && !found["parameters"].as_array().unwrap().is_empty(), "{found}");
    }
}

#[cfg(feature = "libtorch")]
#[test]
fn the_loss_that_saving_cost_is_measured() {
    let saved = Saved::new();
    let output = saved.inputs.path("out");
    let candidate = format!("saved={}", saved.together.display());
    let further = ["--candidate", &candidate, "--strategy", "zeroth", "--output-dir", output.to_str().unwrap()];
    let done = run(&mut saved.run("compare", &saved.ranks, &further));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let stdout = unbroken(&text(&done.stdout));
    assert!(stdout.contains(&format!("saved: {STORED_ONCE}")), "{stdout}");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(output.join("report.json")).unwrap()).unwrap();
    let [zeroth, candidate] = report["variants"].as_array().unwrap().as_slice() else { unreachable!() };
    assert_eq!(candidate["perplexity"], zeroth["perplexity"]);
    assert_eq!(candidate["fidelity"], zeroth["fidelity"]);
    assert_ne!(candidate["perplexity"], report["baseline"]["perplexity"]);
    let info = &candidate["candidate"];
    assert_eq!((&info["strategy"], &info["explained"]), (&json!("zeroth"), &info["parameters"]), "{info}");
}

#[cfg(feature = "libtorch")]
#[test]
fn no_strategy_is_offered_for_what_is_stored_once() {
    let saved = Saved::new();
    let ranks = saved.ranks.display().to_string();
    let alone = failure(&mut saved.run("compare", &saved.together, &[]));
    assert!(alone.contains("nothing to compare") && alone.contains("--candidate"), "{alone}");
    let named = failure(&mut saved.run("compare", &saved.together, &["--strategy", "mean", "--candidate", &ranks]));
    assert!(named.contains("--strategy mean") && named.contains(STORED_ONCE), "{named}");
    let alone = |verb: &str| {
        let mut command = kintsugi();
        command.arg(verb).arg(&saved.together).arg("--data").arg(saved.inputs.path("passages.jsonl"));
        command.arg("--tokenizer").arg(saved.inputs.path("tokenizer.json"));
        command
    };
    let explained = failure(&mut alone("explain"));
    assert!(explained.contains("nothing to explain"), "{explained}");
    let output = saved.inputs.path("out");
    let further = ["--candidate", &ranks, "--output-dir", output.to_str().unwrap()];
    let done = run(&mut saved.run("compare", &saved.together, &further));
    assert!(done.status.success(), "{}", text(&done.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(output.join("report.json")).unwrap()).unwrap();
    assert_eq!(report["variants"].as_array().unwrap().len(), 1);
    assert!(report["baseline"]["description"].as_str().unwrap().contains(STORED_ONCE));
    let evaluated = run(&mut alone("eval"));
    assert!(evaluated.status.success(), "{}", text(&evaluated.stderr));
}
