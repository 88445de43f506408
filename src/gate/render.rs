//! The judgement on a terminal.

use super::judge::{Judgement, Verdict};
use crate::report::{TerminalStyle, render_table};

/// A table of all checks, the remarks, and the outcome in a sentence.
#[must_use]
pub fn render(judgement: &Judgement, style: TerminalStyle) -> String {
    let header = ["model", "check", "against", "found", "limit", "certainty", ""].map(str::to_owned).to_vec();
    let rows = judgement.checks.iter().map(|check| {
        vec![
            check.model.clone(),
            check.criterion.name().to_owned(),
            check.reference.name().to_owned(),
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
    render_table(header, rows.collect(), &remarks, &outcome, style)
}
