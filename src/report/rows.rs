//! The rows of a report: one model each, computed from its samples.

use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::candidate::CandidateInfo;
use super::error::ReportError;
use super::judged::LimitVerdict;
use super::model::{Exact, ModelRecord, StrategyDigest};
use crate::samples::{RollingText, Sample, TokenScore};
use crate::stats::{self, Fidelity, Interval, PairedBootstrap, PairedCounts, Proportion, StatsError, TokenPairs};

/// A model and its scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRow {
    /// The model: `baseline`, or the strategy or candidate.
    pub name: String,
    /// Other strategies that make the same model of this checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// A sentence about it.
    pub description: String,
    /// Where it comes from: a strategy file, a directory, or the paper or script it follows.
    pub source: String,
    /// Its samples, relative to the output directory.
    pub samples: String,
    /// Perplexity per passage, `exp(−mean(loglikelihood))`; smaller is better.
    pub perplexity: f64,
    /// Its standard error by the delta method; absent for a single passage, and where it exceeds the range of numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_stderr: Option<f64>,
    /// Accuracy, a fraction: how often greedy decoding gives the whole target; larger is better.
    pub acc: f64,
    /// Its standard error `√(p(1−p)/(n−1))`; absent for a single passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acc_stderr: Option<f64>,
    /// Wilson's score interval for the accuracy, at the level in `statistics.confidence`.
    pub acc_wilson: Interval,
    /// Number of passages.
    pub n: usize,
}

impl ModelRow {
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.also).map(String::as_str)
    }

    /// All its names: `mean, reduce-aware`.
    pub(crate) fn title(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    /// Whether this is one of its names.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.names().any(|own| own == name)
    }

    /// Where its samples are, the report being in `folder`: nowhere outside of it.
    pub(crate) fn samples_file(&self, folder: &Path) -> Result<PathBuf, ReportError> {
        let relative = Path::new(&self.samples);
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if inside && relative.file_name().is_some() {
            return Ok(folder.join(relative));
        }
        let (folder, name, found) = (folder.to_owned(), self.name.clone(), self.samples.clone());
        Err(ReportError::Outside { folder, name, found })
    }
}

/// One variant beside the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VariantRow {
    /// The model and its scores.
    #[serde(flatten)]
    pub model: ModelRow,
    /// Its loss against the baseline, passage by passage.
    pub loss: Loss,
    /// How far its distributions over the next token are from the baseline's, target token by target token; absent
    /// where the divergences were not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<Fidelity>,
    /// What was proven of its losses; empty where there is no limit for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<LimitVerdict>,
    /// Of a merge: the strategies that make it of this checkpoint, its own first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strategies: Vec<StrategyDigest>,
    /// Whether it is the baseline by construction; absent where this is unknown, as for a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// Of a candidate: its format, and how it was made. Absent for a merge of this program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateInfo>,
}

/// The loss of a variant against the baseline on the same passages. Intervals are at `statistics.confidence`, one
/// variant at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Loss {
    /// Baseline minus variant accuracy, a fraction; positive where the variant is worse.
    pub acc: f64,
    /// Tango's paired score interval for it.
    pub acc_interval: Interval,
    /// Variant minus baseline perplexity; positive where the variant is worse.
    pub perplexity: f64,
    /// Paired bootstrap interval for it; absent for a single passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_interval: Option<Interval>,
    /// Variant over baseline perplexity; above 1 where the variant is worse.
    pub perplexity_ratio: f64,
    /// Paired bootstrap interval for it; absent for a single passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity_ratio_interval: Option<Interval>,
    /// Mean over passages of variant minus baseline log-likelihood, in nats; negative where the variant is worse.
    pub delta_loglikelihood: f64,
    /// Paired bootstrap interval for it; absent for a single passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_loglikelihood_interval: Option<Interval>,
    /// Largest absolute difference of a passage's log-likelihood, in nats; 0 where all agree to the last bit.
    pub max_abs_delta_loglikelihood: f64,
    /// Two-sided p-value of the exact `McNemar` test on the discordant passages.
    pub mcnemar_p: f64,
    /// The same after Holm's correction over the variants of this report. The noise floor is no variant: there it equals
    /// `mcnemar_p`.
    pub mcnemar_p_holm: f64,
    /// Discordant passages that only the baseline answers correctly.
    pub baseline_only: usize,
    /// Discordant passages that only the variant answers correctly.
    pub variant_only: usize,
}

/// The columns of a model's samples, as the statistics take them.
struct Columns {
    loglikelihoods: Vec<f64>,
    correct: Vec<bool>,
}

impl Columns {
    /// Of whole texts, likelihoods are scaled so that their mean is that of a word, and every token is an answer.
    fn of(samples: &[Sample], rolling: Option<RollingText>) -> Self {
        let count = samples.len();
        Self {
            loglikelihoods: samples.iter().map(|sample| sample.scored_loglikelihood(rolling, count)).collect(),
            correct: samples.iter().flat_map(|sample| sample.answers(rolling)).collect(),
        }
    }
}

/// The baseline's row, against which the others are computed.
pub(super) struct Baseline<'a> {
    samples: &'a [Sample],
    columns: Columns,
    bootstrap: PairedBootstrap,
    rolling: Option<RollingText>,
}

impl<'a> Baseline<'a> {
    pub(super) fn new(samples: &'a [Sample], bootstrap: PairedBootstrap, rolling: Option<RollingText>) -> Self {
        Self { samples, columns: Columns::of(samples, rolling), bootstrap, rolling }
    }

    /// The row of any model; `file` is where its samples go.
    pub(super) fn model_row(
        &self,
        model: &ModelRecord,
        samples: &[Sample],
        file: String,
    ) -> Result<ModelRow, ReportError> {
        let columns = Columns::of(samples, self.rolling);
        let stats = |source| ReportError::Stats { name: model.name.clone(), source };
        let accuracy = Proportion::from_outcomes(&columns.correct).map_err(stats)?;
        Ok(ModelRow {
            name: model.name.clone(),
            also: model.also.clone(),
            description: model.description.clone(),
            source: model.source.clone(),
            samples: file,
            perplexity: stats::perplexity(&columns.loglikelihoods).map_err(stats)?,
            perplexity_stderr: stats::perplexity_stderr(&columns.loglikelihoods).map_err(stats)?,
            acc: accuracy.value(),
            acc_stderr: accuracy.stderr(),
            acc_wilson: accuracy.wilson(self.bootstrap.confidence),
            n: samples.len(),
        })
    }

    /// The row of a variant, `mcnemar_p_holm` not yet corrected.
    pub(super) fn variant_row(
        &self,
        model: &ModelRecord,
        samples: &[Sample],
        file: String,
    ) -> Result<VariantRow, ReportError> {
        let stats = |source| ReportError::Stats { name: model.name.clone(), source };
        self.check_passages(&model.name, samples)?;
        Ok(VariantRow {
            model: self.model_row(model, samples, file)?,
            loss: self.loss(samples).map_err(stats)?,
            fidelity: match divergences(&model.name, samples)? {
                Some(kl) => Some(self.fidelity(samples, &kl).map_err(stats)?),
                None => None,
            },
            verdicts: Vec::new(),
            strategies: model.strategies.clone(),
            exact: model.exact.clone(),
            candidate: model.candidate.clone(),
        })
    }

    /// Every sample of the variant is of the baseline's passage at the same position.
    fn check_passages(&self, name: &str, samples: &[Sample]) -> Result<(), ReportError> {
        let (expected, found) = (self.samples.len(), samples.len());
        if expected != found {
            return Err(ReportError::PassageCount { name: name.to_owned(), expected, found });
        }
        for (position, (baseline, variant)) in self.samples.iter().zip(samples).enumerate() {
            if let Some((what, expected, found)) = difference(baseline, variant) {
                let (name, doc_id) = (name.to_owned(), baseline.doc_id);
                return Err(ReportError::PassageMismatch { name, doc_id, position, what, expected, found });
            }
        }
        Ok(())
    }

    fn loss(&self, samples: &[Sample]) -> Result<Loss, StatsError> {
        let variant = Columns::of(samples, self.rolling);
        let losses = self.bootstrap.losses(&self.columns.loglikelihoods, &variant.loglikelihoods)?;
        let counts = PairedCounts::from_outcomes(&self.columns.correct, &variant.correct)?;
        let pairs = self.samples.iter().zip(samples);
        Ok(Loss {
            acc: counts.accuracy_loss(),
            acc_interval: counts.accuracy_loss_interval(self.bootstrap.confidence),
            perplexity: losses.perplexity_difference.value,
            perplexity_interval: losses.perplexity_difference.interval,
            perplexity_ratio: losses.perplexity_ratio.value,
            perplexity_ratio_interval: losses.perplexity_ratio.interval,
            delta_loglikelihood: losses.delta_loglikelihood.value,
            delta_loglikelihood_interval: losses.delta_loglikelihood.interval,
            max_abs_delta_loglikelihood: pairs
                .map(|(baseline, variant)| (variant.loglikelihood - baseline.loglikelihood).abs())
                .fold(0.0, f64::max),
            mcnemar_p: counts.mcnemar_p(),
            mcnemar_p_holm: counts.mcnemar_p(),
            baseline_only: counts.baseline_only(),
            variant_only: counts.variant_only(),
        })
    }

    fn fidelity(&self, samples: &[Sample], kl: &[f64]) -> Result<Fidelity, StatsError> {
        let logprob: fn(&TokenScore) -> f64 = |token| token.logprob;
        let same_top1: Vec<bool> =
            tokens(self.samples).zip(tokens(samples)).map(|(one, other)| one.greedy_id == other.greedy_id).collect();
        Fidelity::from_tokens(&TokenPairs {
            baseline_logprob: &tokens(self.samples).map(logprob).collect::<Vec<_>>(),
            variant_logprob: &tokens(samples).map(logprob).collect::<Vec<_>>(),
            kl,
            same_top1: &same_top1,
        })
    }
}

fn tokens(samples: &[Sample]) -> impl Iterator<Item = &TokenScore> {
    samples.iter().flat_map(|sample| &sample.tokens)
}

/// KL(baseline ‖ variant) of every token; `None` where none was measured.
fn divergences(name: &str, samples: &[Sample]) -> Result<Option<Vec<f64>>, ReportError> {
    if tokens(samples).all(|token| token.kl.is_none()) {
        return Ok(None);
    }
    let missing = |doc_id| ReportError::MissingKl { name: name.to_owned(), doc_id };
    let all = samples
        .iter()
        .flat_map(|sample| sample.tokens.iter().map(move |token| token.kl.ok_or_else(|| missing(sample.doc_id))));
    all.collect::<Result<_, _>>().map(Some)
}

/// The first field that shows two samples to be of different passages, with the baseline's value and the variant's.
fn difference(baseline: &Sample, variant: &Sample) -> Option<(&'static str, String, String)> {
    if baseline.doc_id != variant.doc_id {
        return Some(("doc_id", baseline.doc_id.to_string(), variant.doc_id.to_string()));
    }
    let texts = [
        ("prompt_hash", &baseline.prompt_hash, &variant.prompt_hash),
        ("target_hash", &baseline.target_hash, &variant.target_hash),
        ("target", &baseline.target, &variant.target),
    ];
    if let Some((what, expected, found)) = texts.into_iter().find(|(_, expected, found)| expected != found) {
        return Some((what, format!("{expected:?}"), format!("{found:?}")));
    }
    let ids = |sample: &Sample| sample.tokens.iter().map(|token| token.id).collect::<Vec<_>>();
    let (expected, found) = (ids(baseline), ids(variant));
    (expected != found).then(|| ("target tokens", format!("{expected:?}"), format!("{found:?}")))
}
