//! One thing that was checked, and what all come to.

use std::fmt::Write as _;

use serde::Serialize;

/// What became of a check; of several the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as the certificate says.
    Ok,
    /// It could not be told.
    Unknown,
    /// It is not as the certificate says.
    Failed,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub check: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// The same in words.
    pub found: String,
}

impl Check {
    pub(super) fn new(check: &'static str, outcome: Outcome, found: impl Into<String>) -> Self {
        // Names in it are those of files of others, and go to a terminal.
        let found = found.into().replace(|c: char| c.is_control(), "\u{fffd}");
        Self { check, outcome, found }
    }

    /// Ok where there is nothing wrong; else what is.
    pub(super) fn unless(check: &'static str, wrong: &[String], right: impl Into<String>) -> Self {
        const SHOWN: usize = 5;
        match wrong.len() {
            0 => Self::new(check, Outcome::Ok, right),
            count => {
                let more = if count > SHOWN { format!("; and {} more", count - SHOWN) } else { String::new() };
                let shown = &wrong[..count.min(SHOWN)];
                Self::new(check, Outcome::Failed, format!("{}{more}", shown.join("; ")))
            }
        }
    }
}

/// `1 file`, `2 files`.
pub(super) fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// What all checks come to.
pub fn outcome(checks: &[Check]) -> Outcome {
    checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Unknown)
}

/// A line for each check.
pub fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { check, outcome, found } in checks {
        let word = match outcome {
            Outcome::Ok => "ok",
            Outcome::Unknown => "unknown",
            Outcome::Failed => "FAILED",
        };
        let _ = writeln!(text, "{word:<8} {check}: {found}");
    }
    text
}
