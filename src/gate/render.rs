//! The judgement on a terminal.

use crate::limits::Policy;
use crate::limits::{Check, Judgement, Outcome};
use crate::report::{Entry, TerminalStyle, render_table};
use crate::stats::Verdict;
use crate::words::grouped;

/// A table of all checks (sentences where it does not fit), the remarks, and the outcome in a sentence.
pub(crate) fn render(judgement: &Judgement, allow_undecided: bool, style: TerminalStyle) -> String {
    let with_task = judgement.has_tasks();
    let columns = ["model", "check", "against", "found", "bound", "limit", "verdict", "more passages"];
    let header = with_task.then_some("task").into_iter().chain(columns).map(str::to_owned).collect();
    let rows = judgement.checks.iter().map(|check| {
        let cells = [
            check.model.clone(),
            check.name().to_owned(),
            check.reference.word().to_owned(),
            check.found(),
            check.bound(),
            check.limit(),
            check.verdict_words().to_owned(),
            check.more_passages(),
        ];
        with_task.then(|| check.task.clone()).into_iter().chain(cells).collect()
    });
    let allowed =
        judgement.checks.iter().any(|check| check.verdict() == Verdict::Undecided && check.undecided_is_allowed);
    let about_allowed = allowed.then_some(
        "an undecided limit is allowed where its policy says so and another limit of the same model is proven",
    );
    let hidden = judgement.checks.iter().find(|check| check.hidden_by_noise().is_some()).map(|check| {
        format!(
            "{} of {} exceeds its limit, but {}, so that it is not proven; evaluate with --dtype f32",
            check.name(),
            check.model,
            check.undecided_because()
        )
    });
    let remarks = judgement.remarks.iter().map(String::as_str).chain(about_allowed).chain(hidden.as_deref());
    let remarks: Vec<String> = remarks.map(|remark| format!("note: {remark}")).collect();
    let entries = entries(judgement, with_task);
    render_table(header, rows.collect(), &entries, &remarks, &closing(judgement, allow_undecided), style)
}

/// The outcome, and what would decide the rest.
fn closing(judgement: &Judgement, allow_undecided: bool) -> String {
    let count = |advisory: bool, verdict: Verdict| {
        let counted = judgement.checks.iter().filter(|check| (check.policy == Policy::Advisory) == advisory);
        counted.filter(|check| check.verdict() == verdict).count()
    };
    let total = judgement.checks.iter().filter(|check| check.policy != Policy::Advisory).count();
    let (within, beyond) = (count(false, Verdict::Within), count(false, Verdict::Beyond));
    let undecided = count(false, Verdict::Undecided);
    let and_undecided = if undecided == 0 { String::new() } else { format!(", {undecided} undecided") };
    let advisory = match (count(true, Verdict::Beyond), count(true, Verdict::Undecided)) {
        (0, 0) => String::new(),
        (beyond, undecided) => format!("; advisory: {beyond} beyond, {undecided} undecided"),
    };
    let limits = if total == 1 { "limit" } else { "limits" };
    match judgement.outcome() {
        Outcome::Failed => format!("gate FAILED: {beyond} of {total} {limits} exceeded{and_undecided}{advisory}"),
        Outcome::Undecided if !allow_undecided => {
            let open = judgement.checks.iter().filter(|check| check.outcome() == Outcome::Undecided).count();
            let advice = advice(judgement);
            format!("gate UNDECIDED: {open} of {total} {limits} neither proven nor exceeded{advice}{advisory}")
        }
        Outcome::Undecided | Outcome::Passed => {
            let allowed = if undecided == 0 { "" } else { " (allowed)" };
            format!("gate passed: {within} of {total} {limits} proven{and_undecided}{allowed}{advisory}")
        }
    }
}

/// How many more passages would decide all that is open.
fn advice(judgement: &Judgement) -> String {
    let open = judgement.checks.iter().filter(|check| check.outcome() == Outcome::Undecided);
    let needed: Option<Vec<u64>> = open.map(Check::passages_missing).collect();
    match needed.and_then(|needed| needed.into_iter().max()) {
        Some(most) => format!("; {} more passages like these would decide", grouped(most)),
        None => "; no number of passages like these would decide all of them".to_owned(),
    }
}

fn entries(judgement: &Judgement, with_task: bool) -> Vec<Entry> {
    let of_one_model = judgement.checks.chunk_by(|one, other| (&one.task, &one.model) == (&other.task, &other.model));
    of_one_model
        .filter_map(|checks| {
            let Check { task, model, .. } = checks.first()?;
            let name = if with_task { format!("{model} in {task}") } else { model.clone() };
            Some(Entry { name, sentences: checks.iter().map(sentence).collect() })
        })
        .collect()
}

fn sentence(check: &Check) -> String {
    let because = check.undecided_because();
    let separator = if because.is_empty() { "" } else { "; " };
    format!(
        "{}: {} against {}: {}, limit {} ({}{separator}{because})",
        check.verdict_words(),
        check.name(),
        check.reference.name(),
        check.found(),
        check.limit(),
        check.bound(),
    )
}
