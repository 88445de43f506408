//! A new measurement against what a certificate says of an earlier one.

use super::check::{Check, Outcome, files};
use crate::limits::{bound, limit};
use crate::report::{Certificate, LimitVerdict, Report};
use crate::stats::Verdict;

/// Checks a certificate against a new report, whose one row is the merge as a candidate: the same checkpoint and data, and a
/// limit that was proven is proven again.
pub fn check_measurement(certificate: &Certificate, report: &Report) -> Vec<Check> {
    let mut checks = vec![checkpoint(certificate, report), data(certificate, report)];
    let Some(row) = report.variants.first() else {
        let why = report.findings.first().map_or("the merge has no scores", String::as_str);
        checks.push(Check::new("measurement", Outcome::Failed, why));
        return checks;
    };
    for certified in &certificate.limits {
        let again = row.verdicts.iter().find(|verdict| verdict.criterion == certified.criterion);
        checks.push(proof(certified, again));
    }
    checks
}

fn checkpoint(certificate: &Certificate, report: &Report) -> Check {
    let Some(found) = &report.checkpoint.digests else {
        return Check::new("checkpoint given", Outcome::Unknown, "its files were not digested");
    };
    let in_order = |files: &[crate::report::FileDigest]| {
        let mut files: Vec<_> = files.iter().map(|file| (file.file.clone(), file.blake3.clone(), file.bytes)).collect();
        files.sort();
        files
    };
    let same = in_order(found) == in_order(&certificate.checkpoint.files);
    let wrong: Vec<_> = (!same).then(|| "its files are not those in the certificate".to_owned()).into_iter().collect();
    Check::unless("checkpoint given", &wrong, format!("those in the certificate ({})", files(found.len())))
}

fn data(certificate: &Certificate, report: &Report) -> Check {
    let (certified, found) = (&certificate.task, &report.task);
    let passages = |task: &crate::report::TaskInfo| task.passages.effective.to_string();
    let entries = [
        ("task", certified.name.clone(), found.name.clone()),
        ("version of the task", certified.version.to_string(), found.version.to_string()),
        ("SHA-256 of the data", certified.data.sha256.clone(), found.data.sha256.clone()),
        ("SHA-256 of the tokenizer", certified.tokenizer.sha256.clone(), found.tokenizer.sha256.clone()),
        ("special tokens", certified.tokenizer.special_tokens.clone(), found.tokenizer.special_tokens.clone()),
        ("splitting", certified.splitting.clone(), found.splitting.clone()),
        ("passages", passages(certified), passages(found)),
    ];
    let differs = entries.into_iter().filter(|(_, certified, found)| certified != found);
    let wrong: Vec<_> =
        differs.map(|(what, certified, found)| format!("{what}: {found}, certified {certified}")).collect();
    Check::unless("data given", &wrong, format!("the same {} passages and tokenizer", passages(found)))
}

/// A bound of the new measurement against the limit of the certificate.
fn proof(certified: &LimitVerdict, again: Option<&LimitVerdict>) -> Check {
    let name = certified.criterion.name();
    let Some(again) = again else {
        return Check::new(name, Outcome::Unknown, "not measured");
    };
    let verdict = match (again.lower, again.upper) {
        (_, Some(upper)) if upper <= certified.limit => Verdict::Within,
        (Some(lower), _) if lower > certified.limit => Verdict::Beyond,
        _ => Verdict::Undecided,
    };
    // Of fewer rows more can be beyond: Holm's correction is over fewer limits.
    let holds = match certified.verdict {
        Verdict::Within => verdict == Verdict::Within,
        Verdict::Beyond => verdict != Verdict::Within,
        Verdict::Undecided => true,
    };
    let outcome = if holds { Outcome::Ok } else { Outcome::Failed };
    let found = format!(
        "{}, {} (limit {}); certified {}",
        verdict.word(),
        bound(certified.criterion, verdict, again.lower.zip(again.upper)),
        limit(certified.criterion, certified.limit),
        certified.verdict.word()
    );
    Check::new(name, outcome, found)
}
