//! The judgement on a terminal.

use super::judge::{Check, Judgement, Verdict};
use crate::report::{Entry, TerminalStyle, render_table};

/// A table of all checks (sentences where it does not fit), the remarks, and the outcome in a sentence.
pub(crate) fn render(judgement: &Judgement, style: TerminalStyle) -> String {
    let header = ["model", "check", "against", "found", "limit", "certainty", ""].map(str::to_owned).to_vec();
    let rows = judgement.checks.iter().map(|check| {
        vec![
            check.model.clone(),
            check.criterion.name().to_owned(),
            check.reference.word().to_owned(),
            check.found.clone(),
            check.limit.clone(),
            check.certainty.clone(),
            check.verdict.word().to_owned(),
        ]
    });
    let failed = judgement.checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
    let total = judgement.checks.len();
    let outcome = if failed == 0 {
        format!("gate passed: {total} of {total} checks")
    } else {
        format!("gate FAILED: {failed} of {total} checks")
    };
    let remarks: Vec<String> = judgement.remarks.iter().map(|remark| format!("note: {remark}")).collect();
    render_table(header, rows.collect(), &entries(judgement), &remarks, &outcome, style)
}

fn entries(judgement: &Judgement) -> Vec<Entry> {
    let of_one_model = judgement.checks.chunk_by(|one, other| one.model == other.model);
    of_one_model
        .filter_map(|checks| {
            Some(Entry { name: checks.first()?.model.clone(), sentences: checks.iter().map(sentence).collect() })
        })
        .collect()
}

fn sentence(check: &Check) -> String {
    let Check { reference, criterion, found, limit, certainty, verdict, .. } = check;
    let (verdict, criterion, reference) = (verdict.word(), criterion.name(), reference.name());
    format!("{verdict}: {criterion} against {reference}: {found}, limit {limit} ({certainty})")
}
