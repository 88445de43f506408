//! Reports from fixed synthetic samples: terminal, Markdown and JSON pinned, the schema in step with the types, numbers
//! against the statistics computed directly, and every way in which samples may not belong together.

use std::path::Path;

use crate::common::report_input::{PASSAGE_COUNT, input, passages, samples};
use kintsugi::report::{self, PassageCounts, Report, ReportError, ReportInput, RunShard, TerminalStyle};
use kintsugi::samples::{Sample, read_jsonl};
use kintsugi::stats::{self, PairedCounts};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn terminal(report: &Report, width: usize) -> String {
    let text = report::render_terminal(report, TerminalStyle { width, styled: false });
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(longest <= width, "{longest} characters in a terminal of {width}:\n{text}");
    text
}

/// Twelve digits of every number: the last ones depend on the platform's `exp`.
fn rounded(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = format!("{:.11e}", number.as_f64().unwrap());
            json!(digits.parse::<f64>().unwrap())
        }
        Value::Array(items) => items.into_iter().map(rounded).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, field)| (name, rounded(field))).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// The baseline, the first variant and the noise floor.
fn keep_one_variant(input: &mut ReportInput) {
    input.models.drain(2..5);
    input.samples.drain(2..5);
}

#[test]
fn terminal_of_120_columns() {
    insta::assert_snapshot!(terminal(&Report::new(&input()).unwrap(), 120));
}

#[test]
fn terminal_of_80_columns() {
    insta::assert_snapshot!(terminal(&Report::new(&input()).unwrap(), 80));
}

#[test]
fn a_narrow_terminal_gets_more_tables_and_no_broken_numbers_or_names() {
    let mut input = input();
    let long = "a-name-of-fifty-characters-that-came-out-of-a-sweep";
    input.models[1].name = long.into();
    let report = Report::new(&input).unwrap();
    for width in [60, 66, 80] {
        let text = terminal(&report, width);
        for line in text.lines() {
            assert_eq!(line.matches('[').count(), line.matches(']').count(), "{width}:\n{text}");
        }
        let tables = text.matches("strategy  ").count();
        assert_eq!(text.lines().filter(|&line| line == long).count(), tables, "{width}:\n{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("baseline  ")).count(), tables, "{width}:\n{text}");
    }
}

#[test]
fn terminal_of_a_partial_run_on_other_data() {
    let mut input = input();
    input.run.limit = Some(PASSAGE_COUNT);
    input.run.dtype = "f32".into();
    input.task.passages.original = 5153;
    input.task.truncated_count = 1;
    input.task.data.is_task_data = Some(false);
    input.task.data.identity = "not the file that lambada_openai pins: SHA-256 differs".into();
    keep_one_variant(&mut input);
    input.models[1].name = "some_long_directory/of-a-candidate/made-by-another-tool".into();
    insta::assert_snapshot!(terminal(&Report::new(&input).unwrap(), 80));
}

#[test]
fn terminal_of_one_model_alone() {
    let mut input = input();
    input.models.truncate(1);
    input.findings.clear();
    insta::assert_snapshot!(terminal(&Report::new(&input).unwrap(), 80));
}

#[test]
fn a_loss_within_its_limit_is_within_however_regular() {
    let verdict_at = |shift: f64| {
        let mut input = input();
        keep_one_variant(&mut input);
        input.samples[1] = samples(PASSAGE_COUNT, shift, None, true);
        let report = Report::new(&input).unwrap();
        // Every passage loses: the interval leaves out zero.
        assert!(report.variants[0].loss.delta_loglikelihood_interval.unwrap().upper < 0.0);
        report.verdict()
    };
    assert!(verdict_at(2e-5).starts_with("zeroth is within the limits."), "{}", verdict_at(2e-5));
    assert!(verdict_at(2e-2).starts_with("zeroth is beyond the limits."), "{}", verdict_at(2e-2));
}

#[test]
fn style_adds_nothing_but_bold() {
    let report = Report::new(&input()).unwrap();
    let styled = report::render_terminal(&report, TerminalStyle { width: 80, styled: true });
    assert!(styled.starts_with("\u{1b}[1mlambada_openai"));
    let stripped = styled.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
    assert_eq!(stripped, terminal(&report, 80));
}

#[test]
fn markdown() {
    insta::assert_snapshot!(report::render_markdown(&Report::new(&input()).unwrap()));
}

#[test]
fn partial_shard_is_marked_in_markdown_and_json() {
    let mut input = input();
    input.task.passages.original = 1600;
    input.run.run_shard = Some(RunShard { index: 1, count: 4 });
    let report = Report::new(&input).unwrap();
    let markdown = report::render_markdown(&report);
    assert!(markdown.contains("> **PARTIAL: run shard 1 of 4, 400 of 1600 passages"), "{markdown}");
    assert!(report.verdict().starts_with("Of 1600 passages 400 were evaluated. "));
    assert!(report::to_json(&report).unwrap().contains("\"partial\": true"));
}

#[test]
fn json() {
    let text = report::to_json(&Report::new(&input()).unwrap()).unwrap();
    let value = rounded(serde_json::from_str(&text).unwrap());
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
}

#[test]
fn json_has_the_fields_that_other_programs_read() {
    let value = serde_json::to_value(Report::new(&input()).unwrap()).unwrap();
    for pointer in ["schema_version", "tool", "checkpoint", "task", "run", "baseline/perplexity", "baseline/acc"] {
        assert!(value.pointer(&format!("/{pointer}")).is_some(), "{pointer}");
    }
    let fields = "name perplexity perplexity_stderr acc acc_stderr n exact/exact exact/because fidelity/kl_mean \
        fidelity/kl_max fidelity/delta_logprob_rms fidelity/same_top1_pct loss/acc loss/acc_interval loss/perplexity \
        loss/perplexity_interval loss/perplexity_ratio loss/perplexity_ratio_interval loss/delta_loglikelihood \
        loss/delta_loglikelihood_interval loss/mcnemar_p loss/mcnemar_p_holm loss/baseline_only loss/variant_only";
    for field in fields.split_whitespace() {
        assert!(value.pointer(&format!("/variants/0/{field}")).is_some(), "{field}");
    }
}

/// `KINTSUGI_BLESS=1 cargo test --test report_snapshots` rewrites the file.
#[test]
fn schema_is_in_step_with_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/report.schema.json");
    let schema = report::schema().unwrap();
    if std::env::var_os("KINTSUGI_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &schema).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == schema, "{} is out of step: run with KINTSUGI_BLESS=1", path.display());
}

#[test]
fn output_directory_holds_everything_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = report::prepare_output(&folder.path().join("new/out")).unwrap();
    let input = input();
    let report = Report::new(&input).unwrap();
    report::write_all(&report, &input, &passages(), &output).unwrap();
    // A second time over the first.
    report::write_all(&report, &input, &passages(), &output).unwrap();
    assert_eq!(report::read_json(&output.report_json()).unwrap(), report);
    assert_eq!(std::fs::read_to_string(output.report_markdown()).unwrap(), report::render_markdown(&report));
    assert_eq!(read_jsonl::<Sample>(&output.path().join(&report.baseline.samples)).unwrap(), input.samples[0]);
    assert_eq!(report.variants[3].model.samples, "samples/another-tool.jsonl");
    let mut files: Vec<_> =
        output.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected = ["lm-eval", "passages.jsonl", "plots", "report.html", "report.json", "report.md", "samples"];
    assert_eq!(files, expected);
    assert_eq!(output.path().join("samples").read_dir().unwrap().count(), 6);
}

#[test]
fn output_directory_is_tried_out_early() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = report::prepare_output(&file).unwrap_err();
    assert!(matches!(&error, ReportError::NotWritable { path, .. } if *path == file), "{error}");
}

#[test]
fn reading_refuses_other_versions_and_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    std::fs::write(&path, r#"{"schema_version": "1"}"#).unwrap();
    assert!(matches!(report::read_json(&path), Err(ReportError::SchemaVersion { found, .. }) if found == "1"));
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(report::read_json(&path), Err(ReportError::NotAReport { .. })));
    std::fs::remove_file(&path).unwrap();
    let message = report::read_json(&path).unwrap_err().to_string();
    assert!(message.contains("report.json"), "{message}");
}

#[test]
fn samples_of_other_passages_are_refused() {
    type Change = fn(&mut Sample);
    let changes: [(&str, Change); 5] = [
        ("doc_id", |sample| sample.doc_id = 9),
        ("prompt_hash", |sample| sample.prompt_hash.push('0')),
        ("target_hash", |sample| sample.target_hash.push('0')),
        ("target", |sample| sample.target.push('s')),
        ("target tokens", |sample| sample.tokens[1].id += 1),
    ];
    for (expected, change) in changes {
        let mut input = input();
        change(&mut input.samples[2][5]);
        match Report::new(&input) {
            Err(ReportError::PassageMismatch { name, doc_id: 5, position: 5, what, .. }) => {
                assert_eq!((name.as_str(), what), ("mean", expected));
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn incomplete_or_ambiguous_input_is_refused() {
    let mut missing = input();
    missing.samples[1].pop();
    assert!(matches!(Report::new(&missing), Err(ReportError::PassageCount { expected: 400, found: 399, .. })));

    let mut counted = input();
    counted.task.passages.effective = 401;
    assert!(matches!(Report::new(&counted), Err(ReportError::PassageCount { expected: 401, found: 400, .. })));

    let mut twice = input();
    twice.models[2].name = "zeroth".into();
    assert!(matches!(Report::new(&twice), Err(ReportError::DuplicateName { name }) if name == "zeroth"));

    let mut partly = input();
    partly.samples[1][3].tokens[0].kl = None;
    assert!(matches!(Report::new(&partly), Err(ReportError::MissingKl { doc_id: 3, .. })));
}

#[test]
fn numbers_that_json_cannot_hold_are_refused() {
    let mut score = input();
    score.samples[1][0].loglikelihood = f64::NAN;
    assert!(matches!(Report::new(&score), Err(ReportError::Stats { name, .. }) if name == "zeroth"));

    let mut time = input();
    time.run.tokens_per_second = f64::INFINITY;
    assert!(
        matches!(Report::new(&time), Err(ReportError::NotFinite { pointer }) if pointer == "/run/tokens_per_second")
    );

    let mut report = Report::new(&input()).unwrap();
    report.variants[2].loss.acc = f64::NAN;
    assert!(
        matches!(report::to_json(&report), Err(ReportError::NotFinite { pointer }) if pointer == "/variants/2/loss/acc")
    );
}

#[test]
fn one_passage_has_no_spread_and_still_makes_a_report() {
    let mut input = input();
    input.samples.iter_mut().for_each(|samples| samples.truncate(1));
    input.task.passages = PassageCounts { original: 1, effective: 1 };
    let report = Report::new(&input).unwrap();
    assert_eq!(report.baseline.acc_stderr, None);
    assert_eq!(report.variants[0].loss.perplexity_interval, None);
    assert!(!report::to_json(&report).unwrap().contains("null"));
    terminal(&report, 120);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_are_those_of_the_statistics(
        passages in prop::collection::vec((-20.0..0.0, -20.0..0.0, any::<bool>(), any::<bool>()), 2..40),
    ) {
        let mut input = input();
        let n = passages.len();
        input.models.truncate(2);
        input.task.passages = PassageCounts { original: n, effective: n };
        input.samples.iter_mut().for_each(|samples| samples.truncate(n));
        for (index, (baseline, variant, baseline_right, variant_right)) in passages.iter().enumerate() {
            let sample = &mut input.samples[0][index];
            (sample.loglikelihood, sample.is_greedy) = (*baseline, *baseline_right);
            let sample = &mut input.samples[1][index];
            (sample.loglikelihood, sample.is_greedy) = (*variant, *variant_right);
        }
        let report = Report::new(&input).unwrap();

        let loglikelihoods: (Vec<f64>, Vec<f64>) = passages.iter().map(|row| (row.0, row.1)).unzip();
        let correct: (Vec<bool>, Vec<bool>) = passages.iter().map(|row| (row.2, row.3)).unzip();
        let right = |outcomes: &[bool]| outcomes.iter().filter(|outcome| **outcome).count() as f64 / n as f64;
        let row = &report.variants[0];
        prop_assert_eq!(report.baseline.perplexity, stats::perplexity(&loglikelihoods.0).unwrap());
        prop_assert_eq!(row.model.perplexity, stats::perplexity(&loglikelihoods.1).unwrap());
        prop_assert_eq!(row.model.perplexity_stderr, stats::perplexity_stderr(&loglikelihoods.1).unwrap());
        prop_assert_eq!(row.model.acc, right(&correct.1));
        prop_assert!((row.loss.acc - (right(&correct.0) - right(&correct.1))).abs() < 1e-12);
        prop_assert!(
            (row.loss.perplexity - (row.model.perplexity - report.baseline.perplexity)).abs()
                <= 1e-9 * row.model.perplexity.max(report.baseline.perplexity)
        );
        let counts = PairedCounts::from_outcomes(&correct.0, &correct.1).unwrap();
        prop_assert_eq!((row.loss.baseline_only, row.loss.variant_only), (counts.baseline_only(), counts.variant_only()));
        prop_assert_eq!(row.loss.acc_interval, counts.accuracy_loss_interval(input.bootstrap.confidence));
        // Of one variant alone.
        prop_assert_eq!(row.loss.mcnemar_p_holm, counts.mcnemar_p());
        let losses = input.bootstrap.losses(&loglikelihoods.0, &loglikelihoods.1).unwrap();
        prop_assert_eq!(row.loss.perplexity_ratio, losses.perplexity_ratio.value);
        prop_assert_eq!(row.loss.perplexity_ratio_interval, losses.perplexity_ratio.interval);
        prop_assert_eq!(row.loss.delta_loglikelihood_interval, losses.delta_loglikelihood.interval);
        let read: Report = serde_json::from_str(&report::to_json(&report).unwrap()).unwrap();
        prop_assert_eq!(read, report);
    }
}

#[test]
fn a_model_that_knows_next_to_nothing_of_the_task_is_said_to() {
    let mut report = Report::new(&input()).unwrap();
    report.task.passages.effective = 5000;
    let words = "they say little about what a merge of this model loses";
    assert!(!report::render_markdown(&report).contains(words));
    report.baseline.acc = 0.004;
    assert!(
        report::render_markdown(&report).contains(&format!("the baseline answers 0.40 % of 5000 passages: {words}"))
    );
}
