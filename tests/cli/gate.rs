//! Gates: within, beyond or undecided; exit codes, reports that do not go together, and JUnit.

use std::path::Path;
use std::process::Output;

use crate::common::reports::{diverging, samples, write_report};
use assert_cmd::Command;
use kintsugi::samples::Sample;
use tempfile::TempDir;

/// As many as LAMBADA has.
const PASSAGES: usize = 5153;

/// A fixed scatter of numbers in `[0, 1)`.
fn scatter(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_749_894_9).fract()
}

/// A model that is right on seven of ten passages, but wrong on the first `lost` of them and right on the first
/// `gained` of the others; its log-likelihoods lie `shift` below the baseline's on average, with a spread of `spread`.
fn model(lost: usize, gained: usize, shift: f64, spread: f64) -> Vec<Sample> {
    let (mut right_seen, mut wrong_seen) = (0, 0);
    samples((0..PASSAGES).map(|passage| {
        let right = passage % 10 < 7;
        let is_greedy = if right {
            right_seen += 1;
            right_seen > lost
        } else {
            wrong_seen += 1;
            wrong_seen <= gained
        };
        let noise = spread * (2.0 * scatter(17 * passage + 5) - 1.0);
        (-4.0 * scatter(passage + 1) - shift + noise, is_greedy)
    }))
}

fn baseline() -> Vec<Sample> {
    model(0, 0, 0.0, 0.0)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn gate(arguments: &[&str]) -> (Option<i32>, String, String) {
    gate_in(None, arguments)
}

/// In a terminal of so many columns; `None` for a pipe.
fn gate_in(columns: Option<&str>, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    command.env_remove("COLUMNS").envs(columns.map(|columns| ("COLUMNS", columns)));
    let Output { status, stdout, stderr } = command.arg("gate").args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// In 16 bits two runs of one model diverge by more than an exact merge may lose.
#[test]
fn what_rounding_explains_is_not_beyond() {
    let with_floor = |floor: Vec<Sample>| {
        let folder = folder();
        let exact = diverging(model(12, 12, 0.0, 0.05), |passage| 2.6e-3 * scatter(3 * passage));
        let lossy = diverging(model(12, 12, 0.0, 0.05), |passage| 1e-2 * scatter(7 * passage));
        let variants = vec![("fold", exact), ("other", lossy), ("noise floor", floor)];
        let report = write_report(folder.path(), baseline(), variants);
        let judged = |limits: &[&str]| gate(&[&[report.as_str()], limits].concat());
        let (code, out, err) = judged(&["--max-kl", "1e-4", "--model", "fold"]);
        assert!(err.is_empty(), "{err}");
        let (_, json, _) = judged(&["--max-kl", "1e-4", "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let of = |name| {
            let mut checks = json["checks"].as_array().unwrap().iter();
            let check = checks.find(|check| check["model"] == name && check["check"] == "KL divergence").unwrap();
            (check["verdict"].as_str().unwrap().to_owned(), check["noise"].as_f64().unwrap())
        };
        assert_eq!(of("other").0, "beyond");
        let text = std::fs::read_to_string(folder.path().join("report.json")).unwrap();
        (code, out, of("fold"), text)
    };
    // A tenth of the passages, as the noise floor has them.
    let some = |samples: Vec<Sample>| samples.into_iter().filter(|sample| sample.doc_id % 10 == 0).collect();
    let (code, out, (verdict, noise), report) =
        with_floor(some(diverging(model(12, 12, 0.0, 0.05), |passage| 2.8e-3 * scatter(5 * passage))));
    assert_eq!((code, verdict.as_str()), (Some(3), "undecided"), "{out}");
    assert!((1.4e-3..1.6e-3).contains(&noise), "{noise}");
    assert!(out.contains("note: KL divergence of fold exceeds its limit, but rounding alone may make 1.4"), "{out}");
    assert!(out.contains("--dtype f32"), "{out}");
    assert!(report.contains("\"noise\": 0.001"), "{report}");
    let (code, out, found, report) = with_floor(some(diverging(baseline(), |_| 1e-9)));
    assert_eq!((code, found.0.as_str()), (Some(1), "beyond"), "{out}");
    assert!(report.contains("\"noise\": 1"), "{report}");
    let (.., found, report) = with_floor(some(diverging(baseline(), |_| 0.0)));
    assert_eq!(found, ("beyond".to_owned(), 0.0));
    assert!(!report.contains("\"noise\":"), "what makes nothing is left out");
}

/// The verdict on one model that is all there is.
fn verdict_on(candidate: Vec<Sample>, limits: &[&str]) -> (Option<i32>, String) {
    let folder = folder();
    let report = write_report(folder.path(), baseline(), vec![("merged", candidate)]);
    let (code, out, err) = gate(&[&[report.as_str()], limits].concat());
    assert!(err.is_empty(), "{err}");
    (code, out)
}

#[test]
fn a_loss_is_beyond_within_or_undecided() {
    // 16 lost and 1 gained: 0.29 points, and no chance.
    let (code, out) = verdict_on(model(16, 1, 0.0, 0.0), &["--max-acc-loss", "0.1pp"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("+0.29 points") && out.contains("at least +0.1") && out.contains("BEYOND"), "{out}");
    // 115 lost and 100 gained: 0.29 points too, but any two models so different may differ by as much, or not at all.
    let (code, out) = verdict_on(model(115, 100, 0.0, 0.0), &["--max-acc-loss", "0.1pp"]);
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("+0.29 points") && out.contains("UNDECIDED"), "{out}");
    assert!(
        out.contains("gate UNDECIDED: 1 of 1 limit neither proven nor exceeded; ") && out.contains("more passages"),
        "{out}"
    );
    let allowed = ["--max-acc-loss", "0.1pp", "--allow-undecided"];
    let (code, out) = verdict_on(model(115, 100, 0.0, 0.0), &allowed);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("gate passed: 0 of 1 limit proven, 1 undecided (allowed)"), "{out}");
    assert_eq!(verdict_on(model(16, 1, 0.0, 0.0), &allowed).0, Some(1));
    // A loss that is certain and allowed.
    let (code, out) = verdict_on(model(16, 1, 0.0, 0.0), &["--max-acc-loss", "0.5pp"]);
    assert_eq!((code, out.contains("within")), (Some(0), true), "{out}");
    // Significance decides.
    let strict = ["--max-acc-loss", "0.1pp", "--significance", "0.0001"];
    assert_eq!(verdict_on(model(16, 1, 0.0, 0.0), &strict).0, Some(3));
    // Nothing proves that a model is no worse at all; a gain proves that it is not much worse.
    assert_eq!(verdict_on(baseline(), &["--max-acc-loss", "0pp"]).0, Some(3));
    assert_eq!(verdict_on(model(1, 36, 0.0, 0.0), &["--max-acc-loss", "0pp"]).0, Some(0));
}

#[test]
fn a_rise_of_perplexity_is_caught_where_it_is_one() {
    // Two per cent, small beside the spread of a passage and large beside the spread of the mean.
    let (code, out) = verdict_on(model(0, 0, 0.02, 0.5), &["--max-ppl-increase", "1%"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("perplexity increase") && out.contains("BEYOND"), "{out}");
    assert_eq!(verdict_on(model(0, 0, 0.02, 0.5), &["--max-ppl-increase", "3%"]).0, Some(0));
    // The same rise with a spread that drowns it.
    let (code, out) = verdict_on(model(0, 0, 0.02, 3.0), &["--max-ppl-increase", "1%"]);
    assert_eq!(code, Some(3), "{out}");
}

#[test]
fn divergences_and_top_tokens_have_limits_of_their_own() {
    let small = diverging(baseline(), |passage| 2e-4 * scatter(passage));
    let (code, out) = verdict_on(small.clone(), &["--max-kl", "0.001", "--min-same-top", "99.9%"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("at most 1.") && out.contains("at least 99.94 %"), "{out}");
    let (code, out) = verdict_on(small.clone(), &["--max-kl", "0.00005nats"]);
    assert_eq!((code, out.contains("at least 9.8")), (Some(1), true), "{out}");
    // One passage in a hundred, far away: the mean is above the limit, the bound of the mean is not.
    let rare = diverging(baseline(), |passage| if passage % 100 == 7 { 0.11 } else { 0.0 });
    let (code, out) = verdict_on(rare, &["--max-kl", "0.001"]);
    assert_eq!(code, Some(3), "{out}");
    let (code, out) = verdict_on(diverging(model(200, 0, 0.0, 0.0), |_| 0.0), &["--min-same-top", "99%"]);
    assert_eq!((code, out.contains("at most 96.")), (Some(1), true), "{out}");
}

#[test]
fn exactness_is_lost_with_one_passage_and_the_passage_is_named() {
    let (code, out) = verdict_on(model(1, 0, 0.0, 0.0), &["--expect-exact"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("passages 0") && out.contains("gate FAILED: 1 of 1 limit exceeded"), "{out}");
    assert_eq!(verdict_on(baseline(), &["--expect-exact"]).0, Some(0));
}

/// The first passages alone.
fn first(count: usize, samples: Vec<Sample>) -> Vec<Sample> {
    samples.into_iter().take(count).collect()
}

#[test]
fn the_built_in_limits_hold_where_none_are_given() {
    let of_two_hundred = |variants: Vec<(&str, Vec<Sample>)>| {
        let folder = folder();
        let variants = variants.into_iter().map(|(name, samples)| (name, first(200, samples))).collect();
        let report = write_report(folder.path(), first(200, baseline()), variants);
        let (code, out, _) = gate(&[&report]);
        (code, out)
    };
    let exact = || diverging(model(0, 0, 0.0, 0.001), |passage| 1e-6 * scatter(passage));
    let ruined = || diverging(model(20, 0, 0.5, 0.0), |_| 0.1);
    // Two hundred passages prove divergence and perplexity. They cannot prove half a point of accuracy, which says so.
    let (code, out) = of_two_hundred(vec![("zeroth", ruined()), ("fold", exact()), ("other", exact())]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("beyond (advisory)") && out.contains("undecided (allowed)"), "{out}");
    assert!(out.contains("gate passed: 4 of 6 limits proven, 2 undecided (allowed); advisory: 3 beyond"), "{out}");
    let (code, out) = of_two_hundred(vec![("fold", ruined())]);
    assert_eq!((code, out.contains("gate FAILED: 3 of 3")), (Some(1), true), "{out}");
    // Without a divergence and with a perplexity that is open, an accuracy that is open is no pass.
    let (code, out) = of_two_hundred(vec![("fold", model(0, 0, 0.0, 1.0))]);
    assert_eq!(code, Some(3), "{out}");
    assert!(out.contains("note: `fold` in t: KL divergence: not checked"), "{out}");
}

#[test]
fn a_model_that_is_named_is_neither_skipped_nor_advisory() {
    let folder = folder();
    let report =
        write_report(folder.path(), baseline(), vec![("zeroth", model(200, 0, 0.5, 0.0)), ("fold", baseline())]);
    let gates = folder.path().join("gates.yml");
    let text = "default: {max-acc-loss: 0.2pp}\nmodels: {zeroth: {policy: advisory}}\ntasks: {t: {models: {fold: {skip: true}}}}";
    fs_err::write(&gates, text).unwrap();
    let gates = gates.to_str().unwrap();
    let (code, out, _) = gate(&[&report, "--gates", gates]);
    assert_eq!((code, out.contains("fold")), (Some(0), false), "{out}");
    assert!(out.contains("gate passed: 0 of 0 limits proven; advisory: 1 beyond, 0 undecided"), "{out}");
    assert_eq!(gate(&[&report, "--gates", gates, "--model", "zeroth"]).0, Some(1));
    assert_eq!(gate(&[&report, "--gates", gates, "--model", "fold"]).0, Some(0));
}

#[test]
fn a_row_of_two_strategies_is_judged_once_by_the_stricter_limits() {
    let folder = folder();
    let report = write_report(folder.path(), baseline(), vec![("mean", model(200, 0, 0.0, 0.0))]);
    let path = folder.path().join("report.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    json["variants"][0]["also"] = serde_json::json!(["reduce-aware"]);
    fs_err::write(&path, json.to_string()).unwrap();
    let gates = folder.path().join("gates.yml");
    fs_err::write(&gates, "default: {max-acc-loss: 0.2pp}\nmodels: {mean: {policy: advisory}}").unwrap();
    let gates = gates.to_str().unwrap();
    let (code, out, _) = gate(&[&report, "--gates", gates]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("mean, reduce-aware") && out.contains("1 of 1 limit exceeded"), "{out}");
    let (code, out, _) = gate(&[&report, "--gates", gates, "--model", "reduce-aware"]);
    assert_eq!((code, out.contains("\nreduce-aware  accuracy loss")), (Some(1), true), "{out}");
}

#[test]
fn a_merge_that_got_worse_than_it_was_is_caught() {
    let (before, now) = (folder(), folder());
    let good = write_report(before.path(), baseline(), vec![("merged", baseline())]);
    let bad = write_report(now.path(), baseline(), vec![("merged", model(30, 2, 0.0, 0.0)), ("new", baseline())]);
    let (code, out, _) = gate(&[&bad, "--against", &good, "--max-acc-loss", "0.2pp"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains(" earlier ") && out.contains("note: `new` is not in"), "{out}");
    let (code, out, _) = gate(&[&good, "--against", &bad, "--max-acc-loss", "0.2pp"]);
    assert_eq!(code, Some(0), "{out}");
    // The unmerged model scores otherwise than before: the evaluation has changed.
    let changed = folder();
    let other = write_report(changed.path(), model(30, 2, 0.0, 0.0), vec![("merged", model(30, 2, 0.0, 0.0))]);
    let (code, out, _) = gate(&[&other, "--against", &good, "--max-acc-loss", "0.2pp"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.lines().any(|line| line.starts_with("baseline") && line.contains("BEYOND")), "{out}");
}

#[test]
fn checks_are_lines_in_a_log_and_sentences_where_a_terminal_is_too_narrow() {
    let folder = folder();
    let name = "a-merge-with-a-name-that-no-column-is-wide-enough-for";
    let report = write_report(folder.path(), baseline(), vec![(name, model(30, 2, 0.0, 0.0))]);
    let arguments = [report.as_str(), "--max-acc-loss", "0.2pp"];
    let (_, log, _) = gate_in(None, &arguments);
    assert!(log.lines().any(|line| line.starts_with(name) && line.trim_end().ends_with("BEYOND")), "{log}");
    let (code, narrow, _) = gate_in(Some("60"), &arguments);
    assert_eq!(code, Some(1));
    let words: Vec<_> = narrow.split_whitespace().collect();
    let said = format!("{name} BEYOND: accuracy loss against the baseline: +0.54 points, limit 0.2 points (at least");
    assert!(words.join(" ").starts_with(&said), "{narrow}");
    assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
}

#[test]
fn what_cannot_be_judged_is_an_error_and_no_verdict() {
    let folder = folder();
    let report = write_report(folder.path(), baseline(), vec![("merged", baseline())]);
    let refused = |arguments: &[&str], words: &str| {
        let (code, out, err) = gate(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
        assert!(err.contains(words), "{err}");
    };
    refused(&["nowhere"], "nowhere");
    refused(&[&report, "--model", "fold"], "no model is called `fold`; there are merged");
    refused(&[&report, "--max-acc-loss", "0.5"], "such as 0.5pp");
    refused(&[&report, "--significance", "7"], "expected a number between 0 and 0.5, found 7");
    let other = tempfile::tempdir().unwrap();
    let few = write_report(
        other.path(),
        samples([(-1.0, true), (-2.0, false)]),
        vec![("merged", samples([(-1.0, true), (-2.0, false)]))],
    );
    refused(&[&report, "--against", &few], "number of passages: expected 5153, found 2");
    refused(&[&report, "--max-kl", "0.1"], "KL divergence: no sample has what its limit is for");
    refused(&[&report, "--min-same-top", "101%"], "expected at most 100%");
    let alone = tempfile::tempdir().unwrap();
    let alone = write_report(alone.path(), baseline(), Vec::new());
    refused(&[&alone], "it has no merges");
    fs_err::remove_file(folder.path().join("samples/merged.jsonl")).unwrap();
    refused(&[&report], "hint: a gate pairs models passage by passage: keep samples/ beside report.json");
    let path = folder.path().join("report.json");
    let text = fs_err::read_to_string(&path).unwrap().replace("samples/merged.jsonl", "../merged.jsonl");
    fs_err::write(&path, text).unwrap();
    refused(&[&report], "expected a file below the report's folder");
}

#[test]
fn junit_has_a_case_for_every_check() {
    let folder = folder();
    let open = model(115, 100, 0.0, 0.0);
    let variants = vec![("a<b", model(30, 0, 0.0, 0.0)), ("fine", baseline()), ("open", open)];
    let report = write_report(folder.path(), baseline(), variants);
    let junit = folder.path().join("gate.xml");
    let limits = ["--max-acc-loss", "0.2pp", "--max-ppl-increase", "1%"];
    let arguments = [&[report.as_str(), "--junit", junit.to_str().unwrap()], &limits[..]].concat();
    assert_eq!(gate(&arguments).0, Some(1));
    assert_junit(&junit);
}

fn assert_junit(path: &Path) {
    let xml = fs_err::read_to_string(path).unwrap();
    assert!(xml.contains(r#"tests="6""#) && xml.contains(r#"failures="2""#), "{xml}");
    assert!(xml.contains(r#"<testsuite name="a&lt;b" tests="2""#), "{xml}");
    assert!(xml.contains(r#"name="accuracy loss against the baseline" classname="kintsugi.fine""#), "{xml}");
    assert_eq!(xml.matches("<failure").count(), 2, "{xml}");
    assert_eq!(
        (xml.matches(r#"type="accuracy loss""#).count(), xml.matches(r#"type="undecided""#).count()),
        (1, 1),
        "{xml}"
    );
}

#[test]
fn json_has_all_digits() {
    let folder = folder();
    let report = write_report(folder.path(), baseline(), vec![("merged", model(16, 1, 0.0, 0.0))]);
    let (code, out, _) = gate(&[&report, "--max-acc-loss", "0.1pp", "--format", "json"]);
    assert_eq!(code, Some(1));
    let judgement: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&judgement["outcome"], judgement["checks"].as_array().unwrap().len()), (&"failed".into(), 1));
    let check = &judgement["checks"][0];
    assert_eq!(check["loss"], 15.0 / PASSAGES as f64);
    assert_eq!(
        (&check["verdict"], &check["against"], &check["task"]),
        (&"beyond".into(), &"baseline".into(), &"t".into())
    );
    assert!(check["lower"].as_f64().unwrap() > 0.001 && check["more_passages"].is_null(), "{check}");
}

#[test]
fn a_plan_says_what_a_number_of_passages_can_show() {
    let folder = folder();
    let report = write_report(folder.path(), baseline(), vec![("merged", model(115, 100, 0.02, 0.5))]);
    let (code, out, _) = gate(&[&report, "--plan", "--max-acc-loss", "0.5pp", "--max-ppl-increase", "1%"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("loss found beyond it") && out.contains("2 limits planned"), "{out}");
    // By rates alone: (z₀.₉₅ + z₀.₈)²·0.5²/ln²(1.01), and the same of 4 % of discordant passages.
    let assumed = ["--plan", "--passages", "5153", "--discordant", "4%", "--spread", "0.5nats"];
    let (code, out, _) = gate(&assumed);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("15,6") && out.contains("10,0"), "{out}");
    let (code, _, err) = gate(&["--plan", "--passages", "100"]);
    assert_eq!((code, err.contains("hint: --discordant plans for accuracy")), (Some(2), true), "{err}");
}
