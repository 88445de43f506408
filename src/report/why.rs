//! Sentences about a report that every rendering shows: what it is of, what is unusual about it, why a merge is inexact.

use super::format;
use super::{CheckpointInfo, Report, RunInfo, Shard};

/// What was asked: task and number of documents.
pub(super) fn question(report: &Report) -> String {
    format!("{} ({})", report.task.name, format::count(report.task.documents.effective, "document"))
}

/// What was asked it: checkpoint, ranks, data type, device.
pub(super) fn subject(checkpoint: &CheckpointInfo, run: &RunInfo) -> String {
    format!("{}, {}", checkpoint.name, setting(checkpoint, run))
}

/// Ranks, data type, device.
pub(super) fn setting(checkpoint: &CheckpointInfo, run: &RunInfo) -> String {
    let dtype = if checkpoint.dtype == run.dtype {
        run.dtype.clone()
    } else {
        format!("{} computed in {}", checkpoint.dtype, run.dtype)
    };
    format!("{}, {dtype}, {}", format::count(checkpoint.tp_size, "rank"), run.device)
}

/// For a run over some of the documents: which, and what that means.
pub(super) fn partial(report: &Report) -> Option<String> {
    let documents = report.task.documents;
    let share = format!("{} of {} documents", documents.effective, documents.original);
    let run = &report.run;
    match (run.shard, run.limit) {
        _ if !report.partial => None,
        (Some(Shard { index, count }), _) => {
            Some(format!("PARTIAL: shard {index} of {count}, {share}; not a result until the shards are joined"))
        }
        (None, Some(limit)) => Some(format!("PARTIAL: {share} (limit {limit}); tests the setup, not a result")),
        (None, None) => Some(format!("PARTIAL: {share}; not a result")),
    }
}

/// What a reader must know before comparing the numbers with others.
pub(super) fn cautions(report: &Report) -> Vec<String> {
    let mut cautions = Vec::new();
    if report.task.data.is_task_data == Some(false) {
        cautions.push(format!("data: {}", report.task.data.identity));
    }
    let calibration = report.task.documents.calibration;
    if calibration > 0 {
        let documents = format::count(calibration, "document");
        cautions.push(format!("{documents} of the data were set aside for calibration and are not scored"));
    }
    if report.task.truncated_count > 0 {
        let documents = format::count(report.task.truncated_count, "document");
        cautions.push(format!("{documents} did not fit the model and lost the beginning of the context"));
    }
    cautions.extend(few_right_answers(report));
    let made_elsewhere = report.variants.iter().filter(|row| row.candidate.is_some() && row.exact.is_none());
    let names: Vec<&str> = made_elsewhere.map(|row| row.model.name.as_str()).collect();
    if !names.is_empty() {
        cautions.push(format!(
            "{}: made elsewhere, so whether it is exact is unknown; the numbers and the findings speak",
            format::list(&names)
        ));
    }
    if let Some(floor) = &report.noise_floor {
        cautions.push(format!("{}: {}; smaller differences are noise", floor.model.name, floor.model.description));
    }
    cautions
}

/// Where the model knows next to nothing of what it was asked, no merge can lose it, and perplexity falls as easily as it rises.
fn few_right_answers(report: &Report) -> Option<String> {
    let (acc, count) = (report.baseline.acc, report.task.documents.effective);
    (count >= 100 && acc < 0.01).then(|| {
        let documents = format::count(count, "document");
        let accuracy = format::points(acc);
        format!(
            "the baseline answers {accuracy} % of {documents}: they say little about what a merge of this model loses"
        )
    })
}

/// Why some variants are not exact, each line said once: variants, then what is true of all of them.
pub(super) fn inexact(report: &Report) -> Vec<(Vec<&str>, Vec<&str>)> {
    grouped(report.variants.iter().map(|row| {
        let exact = row.exact.as_ref().filter(|exact| !exact.exact);
        (row.model.name.as_str(), exact.map_or(&[][..], |exact| &exact.because))
    }))
}

/// Lines that are true of several names, each said once: names, then what is true of all of them.
pub(super) fn grouped<'a>(rows: impl Iterator<Item = (&'a str, &'a [String])>) -> Vec<(Vec<&'a str>, Vec<&'a str>)> {
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
    groups
}
