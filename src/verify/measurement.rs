//! A new measurement against what a certificate says of an earlier one.

use super::check::{Check, Outcome, files};
use crate::limits::{bound, limit};
use crate::report::{Certificate, LimitVerdict, Report, TaskInfo};
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
        checks.push(proof(certified, again, certificate.stopping_rule.is_some()));
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
    let stopped = certificate.stopping_rule.is_some();
    let passages = |task: &TaskInfo| if stopped { task.passages.original } else { task.passages.effective };
    let entries = [
        ("task", certified.name.clone(), found.name.clone()),
        ("version of the task", certified.version.to_string(), found.version.to_string()),
        ("SHA-256 of the data", certified.data.sha256.clone(), found.data.sha256.clone()),
        ("SHA-256 of the tokenizer", certified.tokenizer.sha256.clone(), found.tokenizer.sha256.clone()),
        ("special tokens", certified.tokenizer.special_tokens.clone(), found.tokenizer.special_tokens.clone()),
        ("splitting", certified.splitting.clone(), found.splitting.clone()),
        ("passages", passages(certified).to_string(), passages(found).to_string()),
    ];
    let differs = entries.into_iter().filter(|(_, certified, found)| certified != found);
    let wrong: Vec<_> =
        differs.map(|(what, certified, found)| format!("{what}: {found}, certified {certified}")).collect();
    let seen = if stopped {
        format!("all {} passages, of which the certified run saw {}", passages(found), certified.passages.effective)
    } else {
        format!("the same {} passages", passages(found))
    };
    Check::unless("data given", &wrong, format!("{seen}, and the same tokenizer"))
}

/// A bound of the new measurement against the limit of the certificate. `others`: of other passages than the certified ones,
/// where what is not proven again may be so still.
fn proof(certified: &LimitVerdict, again: Option<&LimitVerdict>, others: bool) -> Check {
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
    let outcome = match (certified.verdict, verdict) {
        (Verdict::Within, Verdict::Undecided) if others => Outcome::Unknown,
        (Verdict::Within, Verdict::Undecided | Verdict::Beyond) | (Verdict::Beyond, Verdict::Within) => Outcome::Failed,
        _ => Outcome::Ok,
    };
    let found = format!(
        "{}, {} (limit {}); certified {}",
        verdict.word(),
        bound(certified.criterion, verdict, again.lower.zip(again.upper)),
        limit(certified.criterion, certified.limit),
        certified.verdict.word()
    );
    Check::new(name, outcome, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Criterion;

    fn verdict(verdict: Verdict, lower: f64, upper: f64) -> LimitVerdict {
        LimitVerdict {
            criterion: Criterion::AccuracyLoss,
            verdict,
            loss: lower,
            lower: Some(lower),
            upper: Some(upper),
            limit: 0.01,
            noise: None,
            may_stay_undecided: false,
            more_passages: None,
            detectable: None,
        }
    }

    #[test]
    fn what_is_not_proven_again_fails_on_the_same_passages_only() {
        let within = verdict(Verdict::Within, -0.01, 0.005);
        let beyond = verdict(Verdict::Beyond, 0.02, 0.03);
        let undecided = verdict(Verdict::Undecided, 0.0, 0.02);
        for (certified, again, same, others) in [
            (&within, &within, Outcome::Ok, Outcome::Ok),
            (&within, &undecided, Outcome::Failed, Outcome::Unknown),
            (&within, &beyond, Outcome::Failed, Outcome::Failed),
            (&beyond, &undecided, Outcome::Ok, Outcome::Ok),
            (&beyond, &within, Outcome::Failed, Outcome::Failed),
            (&undecided, &beyond, Outcome::Ok, Outcome::Ok),
        ] {
            let of = |others| proof(certified, Some(again), others).outcome;
            assert_eq!((of(false), of(true)), (same, others), "{:?} {:?}", certified.verdict, again.verdict);
        }
        assert_eq!(proof(&within, None, true).outcome, Outcome::Unknown);
    }
}
