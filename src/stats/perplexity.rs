//! Perplexity per passage and its standard error.

use super::error::{StatsError, check_values};
use super::mean::{mean_of, stderr_of};

/// `exp` clamped to `f64::MAX`: a ruined model has a perplexity beyond `f64`, and JSON has no infinity.
pub(super) fn exp_finite(exponent: f64) -> f64 {
    exponent.exp().min(f64::MAX)
}

/// Perplexity per passage, `exp(−mean(loglikelihood))`; `f64::MAX` where it would be larger.
///
/// lm-evaluation-harness's `perplexity` (`lm_eval/api/metrics.py`): each value is a passage's summed log-likelihood,
/// so on LAMBADA this is the perplexity of the last word, not of its tokens.
pub fn perplexity(loglikelihoods: &[f64]) -> Result<f64, StatsError> {
    check_values("log-likelihoods", loglikelihoods)?;
    Ok(exp_finite(-mean_of(loglikelihoods)))
}

/// Standard error of [`perplexity`] by the delta method, `perplexity · stderr(mean(loglikelihood))`.
///
/// The first-order limit of the bootstrap with which lm-evaluation-harness estimates the same, and what llama.cpp prints
/// after its perplexity; free of chance, and of the harness's 100,000 resamples. `None` for a single passage, or where the product exceeds `f64`.
pub fn perplexity_stderr(loglikelihoods: &[f64]) -> Result<Option<f64>, StatsError> {
    let perplexity = perplexity(loglikelihoods)?;
    Ok(stderr_of(loglikelihoods).map(|stderr| perplexity * stderr).filter(|stderr| stderr.is_finite()))
}
