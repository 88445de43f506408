//! From scores to samples.

use std::collections::BTreeMap;

use super::EvalError;
use super::data_set::Passage;
use super::passages::Passages;
use super::variant::Variant;
use crate::samples::{Sample, TokenScore};

/// The samples of every variant for the passages that have scores, in the order of the passages; `scores` are those of a
/// slice. A variant whose log-probabilities overflow is an error of its own ([`EvalError::NotFinite`]); the others are
/// unaffected.
pub fn samples(
    scores: &[BTreeMap<usize, Vec<TokenScore>>],
    variants: &[Variant],
    passages: &Passages,
) -> Vec<Result<Vec<Sample>, EvalError>> {
    let of_variant = |(variant, scores): (&Variant, &BTreeMap<usize, Vec<TokenScore>>)| {
        scores
            .iter()
            .filter_map(|(&at, scores)| Some((passages.data.passages.get(at)?, passages.tokenized.get(at)?, scores)))
            .map(|(passage, tokenized, scores)| sample(variant, passage, tokenized.target_ids.len(), scores))
            .collect()
    };
    variants.iter().zip(scores).map(of_variant).collect()
}

fn sample(
    variant: &Variant,
    passage: &Passage,
    target_count: usize,
    scores: &[TokenScore],
) -> Result<Sample, EvalError> {
    let tokens = scores.to_vec();
    let loglikelihood: f64 = tokens.iter().map(|token| token.logprob).sum();
    let mut numbers = std::iter::once(loglikelihood).chain(tokens.iter().filter_map(|token| token.kl));
    if let Some(value) =
        numbers.find(|number| !number.is_finite()).or((tokens.len() != target_count).then_some(f64::NAN))
    {
        return Err(EvalError::NotFinite { passage: passage.id, variant: variant.name.clone(), value });
    }
    Ok(Sample {
        doc_id: passage.id,
        target: passage.target.clone(),
        loglikelihood,
        is_greedy: tokens.iter().all(|token| token.id == token.greedy_id),
        tokens,
        prompt_hash: passage.prompt_hash.clone(),
        target_hash: passage.target_hash.clone(),
    })
}
