//! JUnit's XML, which CI systems show as tests.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::GateError;
use crate::limits::{Check, Judgement, Outcome};

/// One suite a model, one test case a check. What is beyond its limit is a failure of the check's name, what is not
/// proven a failure of the type `undecided`, unless it is allowed.
pub(crate) fn to_junit(judgement: &Judgement, allow_undecided: bool) -> Result<String, GateError> {
    let mut report = Report::new("kintsugi gate");
    let with_task = judgement.has_tasks();
    for checks in judgement.checks.chunk_by(|one, other| (&one.task, &one.model) == (&other.task, &other.model)) {
        let Some(Check { task, model, .. }) = checks.first() else { continue };
        let mut suite = TestSuite::new(if with_task { format!("{task}: {model}") } else { model.clone() });
        for check in checks {
            suite.add_test_case(case(check, allow_undecided));
        }
        report.add_test_suite(suite);
    }
    report.to_string().map_err(|error| GateError::Io(std::io::Error::other(error)))
}

fn case(check: &Check, allow_undecided: bool) -> TestCase {
    let because = check.undecided_because();
    let separator = if because.is_empty() { "" } else { "; " };
    let (words, found, bound, limit) = (check.verdict_words(), check.found(), check.bound(), check.limit());
    let outcome = format!("{words}: found {found}, {bound}, limit {limit}{separator}{because}");
    let kind = match check.outcome() {
        Outcome::Failed => Some(check.name()),
        Outcome::Undecided if !allow_undecided => Some("undecided"),
        Outcome::Undecided | Outcome::Passed => None,
    };
    let mut status = TestCaseStatus::success();
    if let Some(kind) = kind {
        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_type(kind).set_message(outcome.clone());
    }
    let mut case = TestCase::new(format!("{} against {}", check.name(), check.reference.name()), status);
    case.set_classname(format!("kintsugi.{}", check.model)).set_system_out(outcome);
    case
}
