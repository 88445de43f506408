//! Two models' outcomes on the same passages, as limits take them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::samples::{RollingText, Sample};
use crate::stats::{Measured, PairedCounts, SampledMean, StatsError};

/// What a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Accuracy of the baseline minus that of the model, a fraction.
    AccuracyLoss,
    /// The mean by which log-likelihoods fall, in nats: the logarithm of the ratio of perplexities.
    PerplexityIncrease,
    /// The mean KL(baseline ‖ model) over target positions, in nats.
    KlDivergence,
    /// The share of passages where the two models' top tokens differ at a target position; of whole texts the share of
    /// tokens.
    TopTokenChange,
}

impl Criterion {
    pub(crate) const ALL: [Self; 4] =
        [Self::KlDivergence, Self::PerplexityIncrease, Self::TopTokenChange, Self::AccuracyLoss];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AccuracyLoss => "accuracy loss",
            Self::PerplexityIncrease => "perplexity increase",
            Self::KlDivergence => "KL divergence",
            Self::TopTokenChange => "same top token",
        }
    }
}

/// The answers to one passage: more than one where every token of a text is an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Answers {
    count: usize,
    /// Right in the baseline only.
    lost: usize,
    /// Right in the variant only.
    gained: usize,
}

/// The outcomes of a baseline and a variant, passage by passage. What was not measured is absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct PairedOutcomes {
    answers: Vec<Answers>,
    /// How far the log-likelihood of each passage fell.
    falls: Option<Vec<f64>>,
    /// Over how many words a passage's fall counts, where perplexity is that of a word.
    words: Option<Vec<usize>>,
    /// Sums of KL(baseline ‖ variant) over the passage's tokens.
    divergences: Option<Vec<f64>>,
    /// Tokens whose top token differs.
    top_changes: Option<Vec<usize>>,
    tokens: Vec<usize>,
    whole_texts: bool,
}

impl PairedOutcomes {
    /// Pairs of samples of the same passages. The divergences are the variant's own record, and so count only where the
    /// baseline is the model that they were measured from (`own_baseline`).
    pub(crate) fn of_samples(pairs: &[(&Sample, &Sample)], rolling: Option<RollingText>, own_baseline: bool) -> Self {
        let count = pairs.len();
        let fall = |(baseline, variant): &(&Sample, &Sample)| {
            baseline.scored_loglikelihood(rolling, count) - variant.scored_loglikelihood(rolling, count)
        };
        let divergence = |(_, variant): &(&Sample, &Sample)| variant.tokens.iter().map(|token| token.kl).sum();
        let changes = |(baseline, variant): &(&Sample, &Sample)| {
            let tokens = baseline.tokens.iter().zip(&variant.tokens);
            tokens.filter(|(baseline, variant)| baseline.greedy_id != variant.greedy_id).count()
        };
        Self {
            answers: pairs
                .iter()
                .map(|(baseline, variant)| Answers::of(&baseline.answers(rolling), &variant.answers(rolling)))
                .collect(),
            falls: Some(pairs.iter().map(fall).collect()),
            words: None,
            divergences: if own_baseline { pairs.iter().map(divergence).collect() } else { None },
            top_changes: Some(pairs.iter().map(changes).collect()),
            tokens: pairs.iter().map(|(baseline, _)| baseline.tokens.len()).collect(),
            whole_texts: rolling.is_some(),
        }
    }

    /// One answer a passage, right or wrong, of the baseline and the variant.
    pub(crate) fn of_answers(pairs: &[(bool, bool)]) -> Self {
        let answers = pairs.iter().map(|(baseline, variant)| Answers::of(&[*baseline], &[*variant])).collect();
        Self { answers, ..Self::default() }
    }

    /// The same with how far each passage's log-likelihood fell, and with the words over which that counts where it counts by
    /// words.
    pub(crate) fn with_falls(self, falls: Vec<f64>, words: Option<Vec<usize>>) -> Self {
        Self { falls: Some(falls), words, ..self }
    }

    /// The passages of which an answer changed, by position.
    pub(crate) fn changed(&self) -> Vec<usize> {
        let answers = self.answers.iter().enumerate();
        answers.filter(|(_, answers)| answers.lost + answers.gained > 0).map(|(position, _)| position).collect()
    }

    /// Answers right in the baseline only and in the variant only.
    pub(crate) fn discordant(&self) -> (usize, usize) {
        self.answers.iter().fold((0, 0), |(lost, gained), answers| (lost + answers.lost, gained + answers.gained))
    }

    /// Answers lost with each passage, in their order: −1, 0 or 1 where a passage has one answer.
    pub(super) fn losses(&self) -> Vec<i8> {
        let loss = |answers: &Answers| i8::from(answers.lost > 0) - i8::from(answers.gained > 0);
        self.answers.iter().map(loss).collect()
    }

    /// Whether a top token of each passage differs, in their order.
    pub(super) fn differing(&self) -> Vec<bool> {
        self.top_changes.iter().flatten().map(|changes| *changes > 0).collect()
    }

    /// The loss that a limit is for; `None` where it was not measured.
    ///
    /// Passages are what is independent. Where a passage has several answers or tokens, the bound is that of a mean over
    /// passages.
    pub(crate) fn measured(&self, criterion: Criterion) -> Result<Option<Measured>, StatsError> {
        match criterion {
            Criterion::AccuracyLoss => self.accuracy_loss(),
            Criterion::PerplexityIncrease => match (&self.falls, &self.words) {
                (Some(falls), Some(words)) => {
                    SampledMean::of_ratio(falls, words, false).map(|mean| Some(Measured::Mean(mean)))
                }
                (Some(falls), None) => SampledMean::of(falls).map(|mean| Some(Measured::Mean(mean))),
                (None, _) => Ok(None),
            },
            Criterion::KlDivergence => self
                .divergences
                .as_ref()
                .map(|totals| SampledMean::of_ratio(totals, &self.tokens, true).map(Measured::Mean))
                .transpose(),
            Criterion::TopTokenChange => self.top_changes.as_deref().map(|changes| self.share(changes)).transpose(),
        }
    }

    fn accuracy_loss(&self) -> Result<Option<Measured>, StatsError> {
        if self.answers.is_empty() {
            return Ok(None);
        }
        if self.answers.iter().all(|answers| answers.count == 1) {
            let (lost, gained) = self.discordant();
            return PairedCounts::new(lost, gained, self.answers.len()).map(|counts| Some(Measured::paired(counts)));
        }
        let losses: Vec<f64> = self.answers.iter().map(|answers| real(answers.lost) - real(answers.gained)).collect();
        let sizes: Vec<usize> = self.answers.iter().map(|answers| answers.count).collect();
        SampledMean::of_ratio(&losses, &sizes, false).map(|mean| Some(Measured::Mean(mean)))
    }

    fn share(&self, changes: &[usize]) -> Result<Measured, StatsError> {
        if self.whole_texts {
            let totals: Vec<f64> = changes.iter().copied().map(real).collect();
            return SampledMean::of_ratio(&totals, &self.tokens, true).map(Measured::Mean);
        }
        if changes.is_empty() {
            return Err(StatsError::Empty { what: "passages" });
        }
        Ok(Measured::share(changes.iter().filter(|changes| **changes > 0).count(), changes.len()))
    }
}

impl Answers {
    fn of(baseline: &[bool], variant: &[bool]) -> Self {
        let only =
            |one: &[bool], other: &[bool]| one.iter().zip(other).filter(|(one, other)| **one && !**other).count();
        Self { count: baseline.len(), lost: only(baseline, variant), gained: only(variant, baseline) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of tokens")]
fn real(count: usize) -> f64 {
    count as f64
}
