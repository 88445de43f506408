//! A run that stops when every model is decided: where it stops, what it says of that, and that neither killing nor dividing it
//! makes another rule of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::evaluation::{demo, json};
use crate::common::runs::{assert_same, compare, fail, finish, kintsugi, records};
use serde_json::Value;

/// A slice is a whole block.
const LARGE: [&str; 4] = ["--chunk-tokens", "2000", "--slice-tokens", "20000"];

/// `mean` and `fold` on all 200 passages, until they are decided.
fn run_into(folder: &Path, further: &[&str]) -> Command {
    let mut command = compare(&demo(), &[&["--limit", "200", "--until-decided"], further].concat());
    command.arg("--output-dir").arg(folder);
    command
}

/// Limits that 64 passages do not decide, as a file.
fn write_limits(folder: &Path, text: &str) -> String {
    let path = folder.join("limits.yml");
    fs_err::write(&path, text).unwrap();
    path.display().to_string()
}

fn looks(report: &Value) -> Vec<u64> {
    let looks = report["run"]["until_decided"]["looked_after"].as_array().unwrap();
    looks.iter().map(|look| look.as_u64().unwrap()).collect()
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn merges_that_lose_are_beyond_within_150_passages_and_every_rendering_says_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = finish(&mut run_into(folder.path(), &[&["--strategy", "zeroth"], &LARGE[..]].concat()));
    let report = json(&folder.path().join("report.json"));
    let until = &report["run"]["until_decided"];
    let order: Vec<u64> = until["order"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    let seen = order.len();
    assert!(
        seen <= 150 && stderr.contains(&format!("after {seen} of 200 passages 3 of 3 models are decided")),
        "{stderr}"
    );
    assert_eq!((&until["decided"], &until["of"], &report["partial"]), (&true.into(), &200.into(), &true.into()));
    assert_eq!(looks(&report).last(), Some(&(seen as u64)));
    // Nothing but what was seen is in the numbers, and it is spread over the file.
    let samples = fs_err::read_to_string(folder.path().join("samples/mean.jsonl")).unwrap();
    let scored = samples.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["doc_id"].as_u64().unwrap());
    assert_eq!(scored.collect::<BTreeSet<_>>(), order.iter().copied().collect());
    assert!(order.iter().any(|id| *id > 150) && !order.is_sorted());
    assert_eq!(report["variants"][0]["n"], seen);
    let sentence = format!("STOPPED EARLY: {seen} of 200 passages, and the numbers are those of what was seen");
    for format in ["terminal", "markdown", "html"] {
        let mut command = kintsugi();
        let text = stdout(command.arg("report").arg(folder.path()).args(["--format", format]));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(&sentence) && text.contains("the rule: stop when of every model"), "{format}: {text}");
    }
    // A gate judges it by the same sequences.
    let judged: Value =
        serde_json::from_str(&stdout(kintsugi().arg("gate").arg(folder.path()).args(["--format", "json"]))).unwrap();
    let verdict = |model: &str, check: &str| {
        let checks = judged["checks"].as_array().unwrap();
        let found = checks.iter().find(|one| one["model"] == model && one["check"] == check);
        found.unwrap_or_else(|| panic!("{model}, {check}: {judged}"))["verdict"].as_str().unwrap().to_owned()
    };
    for model in ["mean", "zeroth"] {
        assert_eq!(verdict(model, "KL divergence"), "beyond", "{judged}");
    }
    for check in ["KL divergence", "perplexity increase"] {
        assert_eq!(verdict("fold", check), "within", "{judged}");
    }
    assert_eq!(verdict("fold", "accuracy loss"), "undecided");
    assert!(judged["remarks"].to_string().contains("confidence sequences"), "{judged}");
}

#[test]
fn what_only_all_passages_decide_takes_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let limits = folder.path().join("limits.yml").display().to_string();
    for (text, decided) in [
        ("default: {expect-exact: true}\nmodels: {mean: {skip: true}}", true),
        ("default: {max-acc-loss: 0.1pp}\nmodels: {mean: {skip: true}}", false),
    ] {
        fs_err::write(&limits, text).unwrap();
        let out = folder.path().join(format!("{decided}"));
        let stderr = finish(&mut run_into(&out, &[&["--gates", &limits], &LARGE[..]].concat()));
        let report = json(&out.join("report.json"));
        assert_eq!(looks(&report), [64, 96, 144, 200], "{stderr}");
        assert_eq!((&report["run"]["until_decided"]["decided"], &report["partial"]), (&decided.into(), &false.into()));
        let page = fs_err::read_to_string(out.join("report.md")).unwrap();
        assert!(page.contains("DECIDED after all of 200") && page.contains("NOT DECIDED") != decided, "{page}");
    }
}

#[test]
fn killed_and_continued_it_stops_where_it_would_have_stopped() {
    let files = tempfile::tempdir().unwrap();
    let limits = write_limits(files.path(), "default: {max-kl: 0.002nats}");
    let into = |folder: &Path, further: &[&str]| run_into(folder, &[&["--gates", &limits], further].concat());
    let whole = tempfile::tempdir().unwrap();
    finish(&mut into(whole.path(), &[]));
    let report = json(&whole.path().join("report.json"));
    let stopped = looks(&report);
    assert!(stopped.len() > 1 && *stopped.last().unwrap() < 200, "{stopped:?}");
    let all = records(&whole.path().join("journal.jsonl"));

    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    // In the first block, and in the one after the first look.
    for until in [all / 4, all - 3] {
        let mut child = into(folder.path(), &[]).spawn().unwrap();
        while records(&journal) < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(records(&journal) >= until);
    }
    finish(&mut into(folder.path(), &[]));
    assert_same(folder.path(), whole.path());

    // What has stopped stays stopped.
    let stderr = finish(&mut into(folder.path(), &[]));
    assert!(stderr.contains("nothing is left to compute"), "{stderr}");
    assert_eq!(records(&journal), all);
    assert_same(folder.path(), whole.path());
    for (further, difference) in [
        (&["--seed", "7"][..], "until_decided is seed 1234, limits "),
        (
            &["--gates", &write_limits(whole.path(), "default: {max-kl: 0.003nats}")],
            "until_decided is seed 1234, limits ",
        ),
    ] {
        let mut command =
            if further[0] == "--gates" { run_into(folder.path(), further) } else { into(folder.path(), further) };
        let error = fail(&mut command);
        assert!(error.contains("the journal belongs to a different run: ") && error.contains(difference), "{error}");
    }
    let mut all_passages = compare(&demo(), &["--limit", "200"]);
    let error = fail(all_passages.arg("--output-dir").arg(folder.path()));
    assert!(error.contains("now no"), "{error}");
}

#[test]
fn what_cannot_stop_alone_or_has_nothing_to_decide_is_refused_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let by_launcher = |command: &mut Command| fail(command.env("RANK", "0").env("WORLD_SIZE", "2"));
    let error = fail(&mut run_into(&out, &["--shard", "2/3"]));
    assert!(error.contains("--until-decided: shard 2/3 cannot stop alone") && error.contains("hint: "), "{error}");
    let error = by_launcher(&mut run_into(&out, &[]));
    assert!(error.contains("--until-decided: shard 1/2 cannot stop alone"), "{error}");
    assert!(by_launcher(run_into(&out, &[]).arg("--dry-run")).contains("shard 1/2 cannot stop alone"));
    let limits = write_limits(folder.path(), "default: {skip: true}");
    for further in [&["--gates", &limits][..], &["--gates", &limits, "--dry-run"]] {
        let error = fail(&mut run_into(&out, further));
        assert!(error.contains("there is no limit for any of the models"), "{error}");
    }
    let error = fail(&mut run_into(&out, &["--gates", "nowhere.yml"]));
    assert!(error.contains("nowhere.yml"), "{error}");
    write_limits(folder.path(), "default: {max-kl: many}");
    assert!(fail(&mut run_into(&out, &["--gates", &limits])).contains("limits.yml"));
    let error = fail(&mut compare(&demo(), &["--gates", &limits]));
    assert!(error.contains("--until-decided"), "{error}");
    assert!(!out.join("journal.jsonl").exists());
}

#[test]
fn a_dry_run_says_at_which_passages_it_looks() {
    let mut command = compare(&demo(), &["--until-decided", "--dry-run", "--limit", "150"]);
    let plan = stdout(&mut command);
    assert!(
        plan.contains("stops       when every model is decided; looks after 64, 96, 144 and 150 passages"),
        "{plan}"
    );
    assert!(!stdout(&mut compare(&demo(), &["--dry-run"])).contains("stops"));
}
