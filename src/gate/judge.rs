//! Checks every model against the unmerged baseline, and against the model of the same name in an earlier report.

use std::collections::BTreeMap;

use super::GateError;
use super::evidence::Evidence;
use super::limits::{Gates, Limits};
use crate::samples::Sample;
use crate::stats::{Confidence, Estimate, PairedBootstrap, PairedCounts, holm};

const NAMED_PASSAGES: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Criterion {
    AccuracyLoss,
    PerplexityIncrease,
    /// The passages whose outcome changes.
    Exact,
}

impl Criterion {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AccuracyLoss => "accuracy loss",
            Self::PerplexityIncrease => "perplexity increase",
            Self::Exact => "changed passages",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The unmerged model of the same report.
    Baseline,
    /// The model of the same name in the earlier report.
    Earlier,
}

impl Reference {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "the unmerged model",
            Self::Earlier => "the earlier report",
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Baseline => "unmerged",
            Self::Earlier => "earlier",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// Beyond the limit, but not significantly.
    WithinNoise,
    /// Significantly beyond the limit.
    Failed,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::WithinNoise => "pass (noise)",
            Self::Failed => "FAIL",
        }
    }
}

pub(crate) struct Check {
    pub model: String,
    pub reference: Reference,
    pub criterion: Criterion,
    pub found: String,
    pub limit: String,
    pub certainty: String,
    pub verdict: Verdict,
}

#[derive(Default)]
pub(crate) struct Judgement {
    /// In the order of the report's rows.
    pub checks: Vec<Check>,
    /// The models that were not judged, and why.
    pub remarks: Vec<String>,
}

impl Judgement {
    pub(crate) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.verdict != Verdict::Failed)
    }
}

struct Pair {
    model: String,
    reference: Reference,
    limits: Limits,
    scores: Scores,
}

struct Compared {
    pair: Pair,
    counts: PairedCounts,
    /// Perplexity over the reference's, and the interval for it; `None` where no limit needs it.
    ratio: Option<Estimate>,
    p_value: f64,
}

/// Judges the models of a report. `only` names those to judge; where it is empty, all that no gate skips.
///
/// Accuracy: lost where baseline minus model exceeds the limit and McNemar's exact test, by Holm over all models,
/// rejects equality. Perplexity: risen where the ratio exceeds the limit and its paired bootstrap interval, at the
/// significance divided by the number of models, is above 1.
pub(crate) fn judge(
    report: &Evidence,
    earlier: Option<&Evidence>,
    gates: &Gates,
    only: &[String],
) -> Result<Judgement, GateError> {
    let names = chosen(report, earlier.is_some(), gates, only)?;
    let baseline = report.samples(&report.report.baseline)?;
    let mut judgement = Judgement::default();
    let mut pairs = Vec::new();
    for name in &names {
        let Some(row) = report.row(name) else { continue };
        let samples = report.samples(row)?;
        let limits = gates.of(name);
        if *name != report.report.baseline.name {
            let (model, scores) = (name.clone(), paired(report, &baseline, &samples)?);
            pairs.push(Pair { model, reference: Reference::Baseline, limits, scores });
        }
        let Some(earlier) = earlier else { continue };
        match earlier.row(name) {
            Some(row) => {
                let before = earlier.samples(row)?;
                let (model, scores) = (name.clone(), paired(earlier, &before, &samples)?);
                pairs.push(Pair { model, reference: Reference::Earlier, limits, scores });
            }
            None => judgement.remarks.push(format!("`{name}` is not in {}: new", earlier.path.display())),
        }
    }
    let bootstrap = bootstrap(report, gates.significance, pairs.len())?;
    let mut compared = pairs.into_iter().map(|pair| compare(pair, &bootstrap)).collect::<Result<Vec<_>, _>>()?;
    let p_values: Vec<f64> = compared.iter().map(|pair| pair.p_value).collect();
    let corrected = holm(&p_values).map_err(|source| GateError::Stats { name: "gate".to_owned(), source })?;
    for (pair, p_value) in compared.iter_mut().zip(corrected) {
        pair.p_value = p_value;
    }
    judgement.checks = compared.iter().flat_map(|compared| checks(compared, gates.significance)).collect();
    if report.report.partial {
        judgement.remarks.push("the report covers only a part of the passages".to_owned());
    }
    if judgement.checks.is_empty() {
        let reason = "there is no limit for any of its models".to_owned();
        return Err(GateError::NothingToJudge { path: report.path.clone(), reason });
    }
    Ok(judgement)
}

fn chosen(report: &Evidence, has_earlier: bool, gates: &Gates, only: &[String]) -> Result<Vec<String>, GateError> {
    let path = || report.path.clone();
    if let Some(name) = only.iter().find(|name| report.row(name).is_none()) {
        let known = report.variants().collect::<Vec<_>>().join(", ");
        return Err(GateError::NoSuchModel { path: path(), name: name.clone(), known });
    }
    let mut names: Vec<String> = if only.is_empty() {
        report.variants().filter(|name| !gates.of(name).skip).map(str::to_owned).collect()
    } else {
        only.to_vec()
    };
    let baseline = &report.report.baseline.name;
    // A changed baseline means that the evaluation has changed.
    if has_earlier && !names.contains(baseline) {
        names.insert(0, baseline.clone());
    }
    if names.is_empty() {
        let reason = "it has no merges, or all of them are skipped".to_owned();
        return Err(GateError::NothingToJudge { path: path(), reason });
    }
    Ok(names)
}

#[derive(Default)]
struct Scores {
    reference: ModelScores,
    model: ModelScores,
    /// The passages of which an answer changed.
    changed: Vec<usize>,
}

#[derive(Default)]
struct ModelScores {
    loglikelihoods: Vec<f64>,
    /// Right and wrong, answer by answer: more than one a passage where every token of a text is one.
    answers: Vec<bool>,
}

/// Pairs samples by passage; `source` is the report that the reference is from.
fn paired(
    source: &Evidence,
    reference: &BTreeMap<usize, Sample>,
    model: &BTreeMap<usize, Sample>,
) -> Result<Scores, GateError> {
    let other = |what: String, expected: String, found: String| GateError::OtherPassages {
        path: source.path.clone(),
        what,
        expected,
        found,
    };
    if reference.len() != model.len() {
        return Err(other("number of passages".to_owned(), model.len().to_string(), reference.len().to_string()));
    }
    let (rolling, count) = (source.report.task.rolling, model.len());
    let mut scores = Scores::default();
    for (doc_id, sample) in model {
        let Some(before) = reference.get(doc_id) else {
            return Err(other(format!("passage {doc_id}"), "there".to_owned(), "missing".to_owned()));
        };
        for (what, expected, found) in
            [("prompt", &sample.prompt_hash, &before.prompt_hash), ("target", &sample.target_hash, &before.target_hash)]
        {
            if expected != found {
                return Err(other(format!("{what} of passage {doc_id}"), expected.clone(), found.clone()));
            }
        }
        scores.reference.loglikelihoods.push(before.scored_loglikelihood(rolling, count));
        scores.model.loglikelihoods.push(sample.scored_loglikelihood(rolling, count));
        let (old, new) = (before.answers(rolling), sample.answers(rolling));
        if old != new {
            scores.changed.push(*doc_id);
        }
        scores.reference.answers.extend(old);
        scores.model.answers.extend(new);
    }
    Ok(scores)
}

/// As the report's own, at the significance that remains for each of `count` models.
fn bootstrap(report: &Evidence, significance: f64, count: usize) -> Result<PairedBootstrap, GateError> {
    let statistics = report.report.statistics;
    #[expect(clippy::cast_precision_loss, reason = "a number of models")]
    let level = 1.0 - significance / count.max(1) as f64;
    let confidence = Confidence::new(level).map_err(|source| GateError::Stats { name: "gate".to_owned(), source })?;
    // A tail needs some replicates in it.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
    let needed = (200.0 / (1.0 - level)).ceil().min(50_000.0) as usize;
    let replicate_count = statistics.bootstrap_replicates.max(needed);
    Ok(PairedBootstrap { replicate_count, seed: statistics.bootstrap_seed, confidence })
}

fn compare(pair: Pair, bootstrap: &PairedBootstrap) -> Result<Compared, GateError> {
    let Scores { reference, model, .. } = &pair.scores;
    let stats = |source| GateError::Stats { name: pair.model.clone(), source };
    let counts = PairedCounts::from_outcomes(&reference.answers, &model.answers).map_err(stats)?;
    let losses = || bootstrap.losses(&reference.loglikelihoods, &model.loglikelihoods);
    let losses = pair.limits.max_ppl_increase.map(|_| losses()).transpose().map_err(stats)?;
    let ratio = losses.map(|losses| losses.perplexity_ratio);
    Ok(Compared { counts, ratio, p_value: counts.mcnemar_p(), pair })
}

fn checks(compared: &Compared, significance: f64) -> Vec<Check> {
    let Compared { pair, counts, ratio, p_value } = compared;
    let changed = &pair.scores.changed;
    let mut checks = Vec::new();
    let mut add = |criterion, found: String, limit: String, certainty: String, verdict| {
        let (model, reference) = (pair.model.clone(), pair.reference);
        checks.push(Check { model, reference, criterion, found, limit, certainty, verdict });
    };
    if let Some(limit) = pair.limits.max_acc_loss {
        let loss = counts.accuracy_loss();
        let verdict = verdict(loss > limit.fraction(), loss > 0.0 && *p_value < significance);
        let (lost, gained) = (counts.baseline_only(), counts.variant_only());
        let certainty = format!("{lost} lost, {gained} gained, p = {p_value:.3}");
        add(Criterion::AccuracyLoss, format!("{:+.2} points", 100.0 * loss), limit.to_string(), certainty, verdict);
    }
    if let (Some(limit), Some(ratio)) = (pair.limits.max_ppl_increase, ratio) {
        let increase = ratio.value - 1.0;
        let certain = ratio.interval.is_some_and(|interval| interval.lower > 1.0);
        let certainty = ratio.interval.map_or_else(
            || "one passage".to_owned(),
            |interval| format!("ratio {:.4} to {:.4}", interval.lower, interval.upper),
        );
        let verdict = verdict(increase > limit.fraction(), certain);
        let found = format!("{:+.3} %", 100.0 * increase);
        add(Criterion::PerplexityIncrease, found, limit.to_string(), certainty, verdict);
    }
    if pair.limits.expect_exact {
        let named: Vec<_> = changed.iter().take(NAMED_PASSAGES).map(usize::to_string).collect();
        let more = if changed.len() > NAMED_PASSAGES { ", …" } else { "" };
        let certainty =
            if named.is_empty() { "every passage".to_owned() } else { format!("passages {}{more}", named.join(", ")) };
        let verdict = if changed.is_empty() { Verdict::Passed } else { Verdict::Failed };
        add(Criterion::Exact, changed.len().to_string(), "0".to_owned(), certainty, verdict);
    }
    checks
}

fn verdict(beyond: bool, certain: bool) -> Verdict {
    match (beyond, certain) {
        (false, _) => Verdict::Passed,
        (true, false) => Verdict::WithinNoise,
        (true, true) => Verdict::Failed,
    }
}
