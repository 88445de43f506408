//! Perplexity per document and its standard error, two ways.

use rayon::prelude::*;

use super::error::{StatsError, check_values};
use super::mean::{float, mean_of, stddev_of, stderr_of};
use super::python_random::PythonRandom;

/// Iterations that lm-evaluation-harness bootstraps with unless told otherwise.
pub const LM_EVAL_BOOTSTRAP_ITERATIONS: usize = 100_000;

/// Most replicates that lm-evaluation-harness draws from one generator (`bootstrap_stderr`).
const LM_EVAL_CHUNK: usize = 1000;

/// `exp` held at `f64::MAX`: a ruined model has a perplexity beyond `f64`, and JSON has no infinity.
pub(super) fn exp_finite(exponent: f64) -> f64 {
    exponent.exp().min(f64::MAX)
}

/// Perplexity per document, `exp(−mean(loglikelihood))`; `f64::MAX` where it would be larger.
///
/// lm-evaluation-harness's `perplexity` (`lm_eval/api/metrics.py`): each value is a document's summed log-likelihood,
/// so on LAMBADA this is the perplexity of the last word, not of its tokens.
///
/// # Errors
/// No values, or one that is not finite.
pub fn perplexity(loglikelihoods: &[f64]) -> Result<f64, StatsError> {
    check_values("log-likelihoods", loglikelihoods)?;
    Ok(exp_finite(-mean_of(loglikelihoods)))
}

/// Standard error of [`perplexity`] by the delta method, `perplexity · stderr(mean(loglikelihood))`.
///
/// The first-order limit of the bootstrap and what llama.cpp prints after its perplexity; free of chance, hence the
/// default. `None` for a single document, or where the product exceeds `f64`.
///
/// # Errors
/// No values, or one that is not finite.
pub fn perplexity_stderr(loglikelihoods: &[f64]) -> Result<Option<f64>, StatsError> {
    let perplexity = perplexity(loglikelihoods)?;
    Ok(stderr_of(loglikelihoods).map(|stderr| perplexity * stderr).filter(|stderr| stderr.is_finite()))
}

/// Standard error of [`perplexity`] exactly as lm-evaluation-harness bootstraps it (`bootstrap_stderr`).
///
/// Chunk `i` of `min(1000, iterations)` replicates draws documents with Python's `random.Random(i).choices`; the result
/// is the sample standard deviation of all replicates. Iterations beyond a whole number of chunks are dropped, as
/// there. Chunks run in parallel and the result does not depend on how many threads there are; it equals the harness's
/// up to the rounding of sums. `None` for a single document, for fewer than two iterations, or where it exceeds `f64`.
///
/// # Errors
/// No values, or one that is not finite.
pub fn perplexity_stderr_bootstrap(loglikelihoods: &[f64], iterations: usize) -> Result<Option<f64>, StatsError> {
    check_values("log-likelihoods", loglikelihoods)?;
    if loglikelihoods.len() < 2 || iterations < 2 {
        return Ok(None);
    }
    let chunk_size = iterations.min(LM_EVAL_CHUNK);
    let chunk_count = iterations / chunk_size;
    let replicates: Vec<f64> = (0..chunk_count)
        .into_par_iter()
        .flat_map_iter(|chunk| {
            let mut random = PythonRandom::from_seed(chunk as u64);
            (0..chunk_size).map(move |_| replicate(loglikelihoods, &mut random))
        })
        .collect();
    Ok(stddev_of(&replicates))
}

/// The perplexity of one resample, summed plainly and from the left, as `sum` of Python below 3.12 does.
fn replicate(loglikelihoods: &[f64], random: &mut PythonRandom) -> f64 {
    let count = float(loglikelihoods.len());
    let total: f64 = (0..loglikelihoods.len()).map(|_| loglikelihoods[random.index(count)]).sum();
    exp_finite(-total / count)
}
