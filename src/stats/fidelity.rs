//! How far a variant's next-token distributions are from the baseline's: the list that llama.cpp's
//! `perplexity --kl-divergence` prints (`tools/perplexity/perplexity.cpp`, pull requests 5076 and 6936), by its names.
//!
//! Standard errors are llama.cpp's: tokens count as independent. Where a passage has several tokens they are not
//! quite, so claims about losses rest on the bootstrap over passages, and these numbers describe distance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{StatsError, check_length, check_values};
use super::mean::{mean_of, stderr_of, sum};
use super::perplexity::exp_finite;
use super::proportion::Proportion;
use super::quantile::{quantile_of_sorted, sorted};

/// The probabilities of the same tokens, in the same order, under a baseline and a variant.
#[derive(Debug, Clone, Copy)]
pub struct TokenPairs<'a> {
    /// Natural logarithm of the probability that the baseline gave the true token.
    pub baseline_logprob: &'a [f64],
    /// Natural logarithm of the probability that the variant gave the true token.
    pub variant_logprob: &'a [f64],
    /// KL(baseline ‖ variant) over the vocabulary at that position, in nats.
    pub kl: &'a [f64],
    /// Whether both models rank the same token first.
    pub same_top1: &'a [bool],
}

/// Distance of a variant from the baseline, token by token.
///
/// Quantiles interpolate linearly between sorted values. Perplexities here are per token; LAMBADA's own perplexity is
/// per passage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fidelity {
    /// Number of tokens compared.
    pub token_count: usize,
    /// Perplexity per token under the baseline, `exp(−mean(baseline logprob))`: llama.cpp's `Mean PPL(base)`.
    pub ppl_baseline: f64,
    /// Its standard error by the delta method; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppl_baseline_stderr: Option<f64>,
    /// Perplexity per token under the variant: llama.cpp's `Mean PPL(Q)`.
    pub ppl_variant: f64,
    /// Its standard error by the delta method; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppl_variant_stderr: Option<f64>,
    /// Pearson correlation between the two models' log-probabilities, llama.cpp's `Cor(ln(PPL(Q)), ln(PPL(base)))` as a
    /// fraction; absent where a model gives every token the same log-probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ln_ppl_correlation: Option<f64>,
    /// `ln(ppl_variant/ppl_baseline)`, in nats; positive where the variant is worse.
    pub ln_ppl_ratio: f64,
    /// Its standard error with the covariance of the two models taken into account; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ln_ppl_ratio_stderr: Option<f64>,
    /// `ppl_variant/ppl_baseline`; above 1 where the variant is worse.
    pub ppl_ratio: f64,
    /// Its standard error by the delta method; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppl_ratio_stderr: Option<f64>,
    /// `ppl_variant − ppl_baseline`; positive where the variant is worse.
    pub ppl_difference: f64,
    /// Its standard error by the delta method, covariance included; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppl_difference_stderr: Option<f64>,
    /// Mean over tokens of KL(baseline ‖ variant), in nats.
    pub kl_mean: f64,
    /// Its standard error; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_mean_stderr: Option<f64>,
    /// Largest of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_max: f64,
    /// 99.9 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p999: f64,
    /// 99 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p99: f64,
    /// 95 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p95: f64,
    /// 90 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p90: f64,
    /// Median of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_median: f64,
    /// 10 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p10: f64,
    /// 5 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p05: f64,
    /// 1 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p01: f64,
    /// 0.1 % quantile of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_p001: f64,
    /// Smallest of KL(baseline ‖ variant) over tokens, in nats.
    pub kl_min: f64,
    /// Mean over tokens of variant minus baseline log-probability of the true token, in nats; negative where the
    /// variant is worse.
    pub delta_logprob_mean: f64,
    /// Its standard error; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_logprob_mean_stderr: Option<f64>,
    /// Root of the mean square of that difference, in nats.
    pub delta_logprob_rms: f64,
    /// Its standard error by the delta method; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_logprob_rms_stderr: Option<f64>,
    /// Largest of that difference, in nats.
    pub delta_logprob_max: f64,
    /// 99.9 % quantile of that difference, in nats.
    pub delta_logprob_p999: f64,
    /// 99 % quantile of that difference, in nats.
    pub delta_logprob_p99: f64,
    /// 95 % quantile of that difference, in nats.
    pub delta_logprob_p95: f64,
    /// 90 % quantile of that difference, in nats.
    pub delta_logprob_p90: f64,
    /// 75 % quantile of that difference, in nats.
    pub delta_logprob_p75: f64,
    /// Median of that difference, in nats.
    pub delta_logprob_median: f64,
    /// 25 % quantile of that difference, in nats.
    pub delta_logprob_p25: f64,
    /// 10 % quantile of that difference, in nats.
    pub delta_logprob_p10: f64,
    /// 5 % quantile of that difference, in nats.
    pub delta_logprob_p05: f64,
    /// 1 % quantile of that difference, in nats.
    pub delta_logprob_p01: f64,
    /// 0.1 % quantile of that difference, in nats.
    pub delta_logprob_p001: f64,
    /// Smallest of that difference, in nats.
    pub delta_logprob_min: f64,
    /// Mean over tokens of variant minus baseline probability of the true token, llama.cpp's `Mean Δp` as a fraction
    /// (it prints percent); negative where the variant is worse.
    pub delta_p_mean: f64,
    /// Its standard error; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_p_mean_stderr: Option<f64>,
    /// Root of the mean square of that difference, a fraction: llama.cpp's `RMS Δp`.
    pub delta_p_rms: f64,
    /// Its standard error by the delta method; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_p_rms_stderr: Option<f64>,
    /// Largest of that difference, a fraction.
    pub delta_p_max: f64,
    /// 99.9 % quantile of that difference, a fraction.
    pub delta_p_p999: f64,
    /// 99 % quantile of that difference, a fraction.
    pub delta_p_p99: f64,
    /// 95 % quantile of that difference, a fraction.
    pub delta_p_p95: f64,
    /// 90 % quantile of that difference, a fraction.
    pub delta_p_p90: f64,
    /// 75 % quantile of that difference, a fraction.
    pub delta_p_p75: f64,
    /// Median of that difference, a fraction.
    pub delta_p_median: f64,
    /// 25 % quantile of that difference, a fraction.
    pub delta_p_p25: f64,
    /// 10 % quantile of that difference, a fraction.
    pub delta_p_p10: f64,
    /// 5 % quantile of that difference, a fraction.
    pub delta_p_p05: f64,
    /// 1 % quantile of that difference, a fraction.
    pub delta_p_p01: f64,
    /// 0.1 % quantile of that difference, a fraction.
    pub delta_p_p001: f64,
    /// Smallest of that difference, a fraction.
    pub delta_p_min: f64,
    /// Percentage of tokens at which both models rank the same token first: llama.cpp's `Same top p`.
    pub same_top1_pct: f64,
    /// Its standard error `√(p(1−p)/(n−1))`, in percentage points; absent for a single token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_top1_pct_stderr: Option<f64>,
}

impl Fidelity {
    /// Summarises every token of every passage.
    pub fn from_tokens(tokens: &TokenPairs<'_>) -> Result<Self, StatsError> {
        let count = tokens.baseline_logprob.len();
        check_values("baseline log-probabilities", tokens.baseline_logprob)?;
        check_length("variant log-probabilities", count, tokens.variant_logprob.len())?;
        check_values("variant log-probabilities", tokens.variant_logprob)?;
        check_length("KL divergences", count, tokens.kl.len())?;
        check_values("KL divergences", tokens.kl)?;
        check_length("same-top-token flags", count, tokens.same_top1.len())?;

        let kl = Spread::of(tokens.kl.to_vec());
        let delta_logprob = Spread::of(differences(tokens, |logprob| logprob));
        let delta_p = Spread::of(differences(tokens, f64::exp));
        let ppl_baseline = exp_finite(-mean_of(tokens.baseline_logprob));
        let ppl_variant = exp_finite(-mean_of(tokens.variant_logprob));
        let ppl_ratio = exp_finite(-delta_logprob.mean);
        // The delta method on each token: var(v − b) is llama.cpp's var(v) + var(b) − 2·cov(v, b) without the
        // cancellation, and the same goes for the difference of perplexities.
        let influence: Vec<f64> = tokens
            .variant_logprob
            .iter()
            .zip(tokens.baseline_logprob)
            .map(|(variant_logprob, baseline_logprob)| ppl_variant * variant_logprob - ppl_baseline * baseline_logprob)
            .collect();
        let scaled = |perplexity: f64, stderr: Option<f64>| {
            stderr.map(|stderr| perplexity * stderr).filter(|stderr| stderr.is_finite())
        };
        let same_top1 = Proportion::from_outcomes(tokens.same_top1)?;
        Ok(Self {
            token_count: count,
            ppl_baseline,
            ppl_baseline_stderr: scaled(ppl_baseline, stderr_of(tokens.baseline_logprob)),
            ppl_variant,
            ppl_variant_stderr: scaled(ppl_variant, stderr_of(tokens.variant_logprob)),
            ln_ppl_correlation: correlation(tokens.baseline_logprob, tokens.variant_logprob),
            // Subtracted, not negated: equal models give 0, not −0.
            ln_ppl_ratio: 0.0 - delta_logprob.mean,
            ln_ppl_ratio_stderr: delta_logprob.stderr,
            ppl_ratio,
            ppl_ratio_stderr: scaled(ppl_ratio, delta_logprob.stderr),
            ppl_difference: ppl_variant - ppl_baseline,
            ppl_difference_stderr: stderr_of(&influence),
            kl_mean: kl.mean,
            kl_mean_stderr: kl.stderr,
            kl_max: kl.quantile(1.0),
            kl_p999: kl.quantile(0.999),
            kl_p99: kl.quantile(0.99),
            kl_p95: kl.quantile(0.95),
            kl_p90: kl.quantile(0.9),
            kl_median: kl.quantile(0.5),
            kl_p10: kl.quantile(0.1),
            kl_p05: kl.quantile(0.05),
            kl_p01: kl.quantile(0.01),
            kl_p001: kl.quantile(0.001),
            kl_min: kl.quantile(0.0),
            delta_logprob_mean: delta_logprob.mean,
            delta_logprob_mean_stderr: delta_logprob.stderr,
            delta_logprob_rms: delta_logprob.root_mean_square,
            delta_logprob_rms_stderr: delta_logprob.root_mean_square_stderr,
            delta_logprob_max: delta_logprob.quantile(1.0),
            delta_logprob_p999: delta_logprob.quantile(0.999),
            delta_logprob_p99: delta_logprob.quantile(0.99),
            delta_logprob_p95: delta_logprob.quantile(0.95),
            delta_logprob_p90: delta_logprob.quantile(0.9),
            delta_logprob_p75: delta_logprob.quantile(0.75),
            delta_logprob_median: delta_logprob.quantile(0.5),
            delta_logprob_p25: delta_logprob.quantile(0.25),
            delta_logprob_p10: delta_logprob.quantile(0.1),
            delta_logprob_p05: delta_logprob.quantile(0.05),
            delta_logprob_p01: delta_logprob.quantile(0.01),
            delta_logprob_p001: delta_logprob.quantile(0.001),
            delta_logprob_min: delta_logprob.quantile(0.0),
            delta_p_mean: delta_p.mean,
            delta_p_mean_stderr: delta_p.stderr,
            delta_p_rms: delta_p.root_mean_square,
            delta_p_rms_stderr: delta_p.root_mean_square_stderr,
            delta_p_max: delta_p.quantile(1.0),
            delta_p_p999: delta_p.quantile(0.999),
            delta_p_p99: delta_p.quantile(0.99),
            delta_p_p95: delta_p.quantile(0.95),
            delta_p_p90: delta_p.quantile(0.9),
            delta_p_p75: delta_p.quantile(0.75),
            delta_p_median: delta_p.quantile(0.5),
            delta_p_p25: delta_p.quantile(0.25),
            delta_p_p10: delta_p.quantile(0.1),
            delta_p_p05: delta_p.quantile(0.05),
            delta_p_p01: delta_p.quantile(0.01),
            delta_p_p001: delta_p.quantile(0.001),
            delta_p_min: delta_p.quantile(0.0),
            same_top1_pct: 100.0 * same_top1.value(),
            same_top1_pct_stderr: same_top1.stderr().map(|stderr| 100.0 * stderr),
        })
    }
}

/// Variant minus baseline of a function of the true token's log-probability.
fn differences(tokens: &TokenPairs<'_>, value: impl Fn(f64) -> f64) -> Vec<f64> {
    let pairs = tokens.variant_logprob.iter().zip(tokens.baseline_logprob);
    pairs.map(|(variant, baseline)| value(*variant) - value(*baseline)).collect()
}

/// One quantity over all tokens.
struct Spread {
    mean: f64,
    stderr: Option<f64>,
    root_mean_square: f64,
    root_mean_square_stderr: Option<f64>,
    sorted: Vec<f64>,
}

impl Spread {
    fn of(values: Vec<f64>) -> Self {
        let squares: Vec<f64> = values.iter().map(|value| value * value).collect();
        let root_mean_square = mean_of(&squares).sqrt();
        // d√m = dm/2√m; where every square is zero there is no spread either.
        let scale = if root_mean_square > 0.0 { 0.5 / root_mean_square } else { 0.0 };
        Self {
            mean: mean_of(&values),
            stderr: stderr_of(&values),
            root_mean_square,
            root_mean_square_stderr: stderr_of(&squares).map(|stderr| scale * stderr),
            sorted: sorted(values),
        }
    }

    fn quantile(&self, fraction: f64) -> f64 {
        quantile_of_sorted(&self.sorted, fraction)
    }
}

/// Pearson correlation; `None` where one side does not vary.
fn correlation(left: &[f64], right: &[f64]) -> Option<f64> {
    let (left_mean, right_mean) = (mean_of(left), mean_of(right));
    let covariation = sum(left.iter().zip(right).map(|(x, y)| (x - left_mean) * (y - right_mean)));
    let left_variation = sum(left.iter().map(|x| (x - left_mean).powi(2)));
    let right_variation = sum(right.iter().map(|y| (y - right_mean).powi(2)));
    let scale = left_variation.sqrt() * right_variation.sqrt();
    (scale > 0.0).then(|| covariation / scale).filter(|correlation| correlation.is_finite())
}
