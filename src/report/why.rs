//! Sentences about a report that every rendering shows: its subject, its cautions, why a merge is inexact.

use super::contents::Report;
use super::format;
use super::info::{CheckpointInfo, RunInfo, RunShard, UntilDecided};

pub(super) fn question(report: &Report) -> String {
    format!("{} ({})", report.task.name, format::count(report.task.passages.effective, "passage"))
}

pub(super) fn subject(checkpoint: &CheckpointInfo, run: &RunInfo) -> String {
    format!("{}, {}", checkpoint.name, setting(checkpoint, run))
}

pub(super) fn setting(checkpoint: &CheckpointInfo, run: &RunInfo) -> String {
    let dtype = if checkpoint.dtype == run.dtype {
        run.dtype.clone()
    } else {
        format!("{} computed in {}", checkpoint.dtype, run.dtype)
    };
    format!("{}, {dtype}, {}", format::count(checkpoint.tp_size, "rank"), run.device)
}

/// For a run over some of the passages, or one that decides when to stop: how many, and what the numbers are.
pub(super) fn partial(report: &Report) -> Option<String> {
    let passages = report.task.passages;
    let share = format!("{} of {} passages", passages.effective, passages.original);
    let run = &report.run;
    if let Some(until) = &run.until_decided {
        return Some(until_decided(until, report));
    }
    match (run.run_shard, run.limit) {
        _ if !report.partial => None,
        (Some(RunShard { index, count }), _) => Some(format!(
            "PARTIAL: run shard {index} of {count}, {share}; not a result until the run shards are joined"
        )),
        (None, Some(limit)) => Some(format!("PARTIAL: {share} (limit {limit}); tests the setup, not a result")),
        (None, None) => Some(format!("PARTIAL: {share}; not a result")),
    }
}

/// For a run that stops when it is decided: by which rule, and what the numbers are.
fn until_decided(until: &UntilDecided, report: &Report) -> String {
    let UntilDecided { rule, decided, looked_after, of, .. } = until;
    let (seen, original) = (report.task.passages.effective, report.task.passages.original);
    let looks: Vec<String> = looked_after.iter().map(usize::to_string).collect();
    let looks = format::list(&looks);
    let all = if *of < original { format!("the first {of} of {original} passages") } else { format!("{of} passages") };
    let state = match (decided, seen < *of) {
        (true, true) => format!("STOPPED EARLY: {seen} of {all}, and the numbers are those of what was seen"),
        (true, false) => format!("DECIDED after all of {all}"),
        (false, _) => format!("NOT DECIDED after all of {all}"),
    };
    format!("{state} (looked after {looks}; the rule: {rule})")
}

/// Cautions for anyone who compares the numbers with others.
pub(super) fn cautions(report: &Report) -> Vec<String> {
    let mut cautions = Vec::new();
    if report.task.data.is_task_data == Some(false) {
        cautions.push(format!("data: {}", report.task.data.identity));
    }
    if report.task.truncated_count > 0 {
        let passages = format::count(report.task.truncated_count, "passage");
        cautions.push(format!("{passages} did not fit the model and lost the beginning of the context"));
    }
    cautions.extend(few_right_answers(report));
    let candidates = report.variants.iter().filter(|row| row.candidate.is_some() && row.exact.is_none());
    let names: Vec<&str> = candidates.map(|row| row.model.name.as_str()).collect();
    if !names.is_empty() {
        cautions.push(format!(
            "{}: made by another tool, so whether it is exact is unknown; see the numbers and the findings",
            format::list(&names)
        ));
    }
    if let Some(floor) = &report.noise_floor {
        cautions.push(format!("{}: {}; smaller differences are noise", floor.model.name, floor.model.description));
    }
    cautions
}

/// A model with next to no right answers has none to lose, and its perplexity falls as easily as it rises.
fn few_right_answers(report: &Report) -> Option<String> {
    let (acc, count) = (report.baseline.acc, report.task.passages.effective);
    (count >= 100 && acc < 0.01).then(|| {
        let passages = format::count(count, "passage");
        let accuracy = format::points(acc);
        format!(
            "the baseline answers {accuracy} % of {passages}: they say little about what a merge of this model loses"
        )
    })
}

/// Why some variants are not exact, each line once: variants, then the lines true of all of them.
pub(super) fn inexact(report: &Report) -> Vec<(String, Vec<&str>)> {
    grouped(report.variants.iter().flat_map(|row| {
        let exact = row.exact.as_ref().filter(|exact| !exact.exact);
        row.model.names().map(move |name| (name, exact.map_or(&[][..], |exact| &exact.because)))
    }))
}

/// Groups names that share lines, so that each line appears once: names, then the lines true of all of them.
pub(super) fn grouped<'a>(rows: impl Iterator<Item = (&'a str, &'a [String])>) -> Vec<(String, Vec<&'a str>)> {
    let mut names_of_lines: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, lines) in rows {
        for line in lines {
            match names_of_lines.iter_mut().find(|(known, _)| known == line) {
                Some((_, names)) if names.contains(&name) => {}
                Some((_, names)) => names.push(name),
                None => names_of_lines.push((line, vec![name])),
            }
        }
    }
    let mut groups: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for (line, names) in names_of_lines {
        match groups.iter_mut().find(|(known, _)| *known == names) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((names, vec![line])),
        }
    }
    groups.into_iter().map(|(names, lines)| (format::list(&names), lines)).collect()
}
