//! JUnit's XML, which CI systems show as tests.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::GateError;
use super::judge::{Judgement, Verdict};

/// One suite a model, one test case a check.
pub(crate) fn to_junit(judgement: &Judgement) -> Result<String, GateError> {
    let mut report = Report::new("kintsugi gate");
    let mut names: Vec<&str> = Vec::new();
    for check in &judgement.checks {
        if !names.contains(&check.model.as_str()) {
            names.push(&check.model);
        }
    }
    for name in names {
        let mut suite = TestSuite::new(name);
        for check in judgement.checks.iter().filter(|check| check.model == name) {
            let outcome = format!("found {} (limit {}; {})", check.found, check.limit, check.certainty);
            let mut status = TestCaseStatus::success();
            if check.verdict == Verdict::Failed {
                status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_type(check.criterion.name()).set_message(outcome.clone());
            }
            let mut case =
                TestCase::new(format!("{} against {}", check.criterion.name(), check.reference.name()), status);
            case.set_classname(format!("kintsugi.{name}")).set_system_out(outcome);
            suite.add_test_case(case);
        }
        report.add_test_suite(suite);
    }
    report.to_string().map_err(|error| GateError::Io(std::io::Error::other(error)))
}
