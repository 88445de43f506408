//! `report.md`: to be pasted into a pull request or a model card.

use std::fmt::Write;

use super::contents::Report;
use super::info::{CheckpointInfo, FileDigest, RunInfo, TaskInfo};
use super::table::{ALONE, Column, lines};
use super::{format, why};

/// Every column; Markdown tables scroll.
pub(super) const COLUMNS: [Column; 12] = [
    Column::Name,
    Column::Accuracy,
    Column::AccuracyLoss,
    Column::Discordant,
    Column::PValue,
    Column::Perplexity,
    Column::PerplexityLoss,
    Column::PerplexityRatio,
    Column::KlMean,
    Column::SameTop1,
    Column::LargestChange,
    Column::Exact,
];

/// The report as Markdown: verdict, table, why, findings, provenance, and the command to repeat it.
pub fn render_markdown(report: &Report) -> String {
    let mut blocks = vec![format!("## {}: {}", report.checkpoint.name, why::question(report))];
    if let Some(partial) = why::partial(report) {
        blocks.push(format!("> **{partial}.**"));
    }
    let (lead, clauses) = report.verdict_parts();
    blocks.push(format!("**{lead}**"));
    blocks.extend(
        (!clauses.is_empty())
            .then(|| clauses.iter().map(|clause| format!("- {clause}")).collect::<Vec<_>>().join("\n")),
    );
    blocks.push(table(report));
    blocks.extend(why::cautions(report));
    let inexact = why::inexact(report);
    if !inexact.is_empty() {
        let groups = inexact.iter().map(|(names, because)| {
            let lines = because.iter().fold(String::new(), |lines, line| lines + "\n  - " + line);
            format!("- **{names}**{lines}")
        });
        blocks.push(section("Why not exact", groups));
    }
    if !report.findings.is_empty() {
        blocks.push(section("Findings", report.findings.iter().map(|finding| format!("- {finding}"))));
    }
    let provenance = provenance(&report.checkpoint, &report.task, &report.run, Some(statistics_line(report)));
    blocks.push(section("Provenance", provenance.iter().map(|(what, value)| format!("- {what}: {value}"))));
    if let Some(digests) = &report.checkpoint.digests {
        blocks.push(digest_list(digests));
    }
    blocks.push(format!("### Repeat\n\n```sh\n{}\n```", command_line(&report.run.argv)));
    blocks.join("\n\n") + "\n"
}

fn section(title: &str, items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    format!("### {title}\n\n{}", items.join("\n"))
}

fn table(report: &Report) -> String {
    let columns: &[Column] = if report.compared().next().is_some() { &COLUMNS } else { &ALONE };
    let row = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut rows = vec![
        row(columns.iter().map(|column| cell(&column.header(report))).collect()),
        row(columns.iter().map(|_| "---".to_owned()).collect()),
    ];
    rows.extend(
        lines(report).into_iter().map(|line| row(columns.iter().map(|column| cell(&column.cell(line))).collect())),
    );
    rows.join("\n")
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// Everything needed to repeat a result, with a label each. Digests are between backticks.
pub(super) fn provenance(
    checkpoint: &CheckpointInfo,
    task: &TaskInfo,
    run: &RunInfo,
    statistics: Option<String>,
) -> Vec<(&'static str, String)> {
    let architecture: Vec<String> =
        checkpoint.architecture.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
    let passages = task.passages;
    let mut lines = vec![
        (
            "checkpoint",
            format!(
                "{}, iteration {}, {}, {}, {}, {} parameters, {}",
                checkpoint.name,
                checkpoint.iteration,
                format::count(checkpoint.tp_size, "rank"),
                checkpoint.layout,
                checkpoint.dtype,
                format::grouped(checkpoint.parameter_count),
                format::bytes(checkpoint.bytes),
            ),
        ),
        ("architecture", architecture.join(", ")),
        (
            "task",
            format!(
                "{}, version {}, {} of {} passages, {} truncated; {}",
                task.name, task.version, passages.effective, passages.original, task.truncated_count, task.splitting
            ),
        ),
        ("data", format!("{}, SHA-256 `{}`; {}", task.data.file, task.data.sha256, task.data.identity)),
        ("tokenizer", format!("{}, SHA-256 `{}`", task.tokenizer.file, task.tokenizer.sha256)),
        ("run", run_line(run)),
        ("tool", tool_line(run)),
    ];
    lines.extend(statistics.map(|line| ("statistics", line)));
    lines
}

fn run_line(run: &RunInfo) -> String {
    let mut line = format!(
        "{}, {}, {}, {}, {:.1} s, {} tokens a model, {:.0} tokens a second, chunks of {} tokens, {}",
        run.started,
        run.device,
        run.dtype,
        format::count(run.threads, "thread"),
        run.seconds,
        run.tokens,
        run.tokens_per_second,
        run.chunk_tokens,
        format::count(run.slices, "slice"),
    );
    // Writing to a string does not fail.
    if let Some(stages) = &run.stages {
        let _ = write!(
            line,
            ", reading {:.1} s, merging {:.1} s, computing {:.1} s",
            stages.read_seconds, stages.merge_seconds, stages.compute_seconds
        );
        let counted = [("copying", stages.copy_seconds), ("comparing streams", stages.divergence_seconds)];
        for (what, seconds) in counted.into_iter().filter(|&(_, seconds)| seconds > 0.0) {
            let _ = write!(line, ", {what} {seconds:.1} s");
        }
    }
    if let Some(peak) = run.peak_rss_bytes {
        let _ = write!(line, ", at most {} resident", format::bytes(peak));
    }
    line
}

fn tool_line(run: &RunInfo) -> String {
    let versions = &run.versions;
    let commit = versions.git_commit.as_ref().map_or(String::new(), |commit| format!(" (commit {commit})"));
    format!("kintsugi {}{commit}, libtorch {}", versions.kintsugi, versions.libtorch)
}

pub(super) fn statistics_line(report: &Report) -> String {
    let statistics = &report.statistics;
    format!(
        "paired by passage; accuracy by the exact McNemar test with Holm's correction over {} and Tango's interval, \
         perplexity by the paired bootstrap ({} resamples, seed {}), at {} confidence",
        format::count(report.variants.len(), "variant"),
        statistics.bootstrap_replicates,
        statistics.bootstrap_seed,
        format::level(statistics.confidence),
    )
}

/// A JSON value without the quotes of a string.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn digest_list(digests: &[FileDigest]) -> String {
    let lines: Vec<String> =
        digests.iter().map(|digest| format!("{}  {}  {} bytes", digest.blake3, digest.file, digest.bytes)).collect();
    let summary = format!("BLAKE3 of {}", format::count(digests.len(), "file"));
    format!("<details><summary>{summary}</summary>\n\n```text\n{}\n```\n\n</details>", lines.join("\n"))
}

pub(super) fn command_line(argv: &[String]) -> String {
    argv.iter().map(|argument| shell_word(argument)).collect::<Vec<_>>().join(" ")
}

/// An argument quoted for a POSIX shell where it needs to be.
fn shell_word(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,+@%-".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}
