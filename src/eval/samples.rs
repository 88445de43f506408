//! From scores to samples.

use std::collections::BTreeMap;

use super::EvalError;
use super::documents::Document;
use super::engine::Variant;
use super::packing::Passage;
use super::tokenizer::TokenPair;
use crate::samples::{Sample, TokenScore};

/// Makes passages of tokenized documents, cut from the left to `max_length` input tokens; also says how many were cut.
///
/// # Errors
/// A document without context or target tokens, or a target that is too long.
pub fn passages(pairs: &[TokenPair], max_length: usize) -> Result<(Vec<Passage>, usize), EvalError> {
    let mut truncated = 0;
    let passages = pairs
        .iter()
        .enumerate()
        .map(|(index, (context, target))| {
            if super::packing::truncated_count(context.len(), target.len(), max_length) > 0 {
                truncated += 1;
            }
            Passage::new(index, context, target, max_length)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok((passages, truncated))
}

/// The samples of every variant for the passages that have scores, in the order of the documents; `scores` are those of a
/// slice, by the places of documents and tokens. A variant whose numbers overflow is an error of its own
/// ([`EvalError::NotFinite`]); the others are none the worse for it.
#[must_use]
pub fn samples(
    scores: &[BTreeMap<usize, Vec<TokenScore>>],
    variants: &[Variant],
    documents: &[Document],
    pairs: &[TokenPair],
) -> Vec<Result<Vec<Sample>, EvalError>> {
    let of_variant = |(variant, scores): (&Variant, &BTreeMap<usize, Vec<TokenScore>>)| {
        scores
            .iter()
            .filter_map(|(&place, scores)| Some((documents.get(place)?, &pairs.get(place)?.1, scores)))
            .map(|(document, target, scores)| sample(variant, document, target, scores))
            .collect()
    };
    variants.iter().zip(scores).map(of_variant).collect()
}

fn sample(variant: &Variant, document: &Document, target: &[u32], scores: &[TokenScore]) -> Result<Sample, EvalError> {
    let tokens = scores.to_vec();
    let loglikelihood: f64 = tokens.iter().map(|token| token.logprob).sum();
    let mut numbers = std::iter::once(loglikelihood).chain(tokens.iter().filter_map(|token| token.kl));
    if let Some(value) =
        numbers.find(|number| !number.is_finite()).or((tokens.len() != target.len()).then_some(f64::NAN))
    {
        let (doc_id, variant) = (document.doc_id, variant.name.clone());
        return Err(EvalError::NotFinite { doc_id, variant, value });
    }
    Ok(Sample {
        doc_id: document.doc_id,
        target: document.target.clone(),
        loglikelihood,
        is_greedy: tokens.iter().all(|token| token.id == token.greedy_id),
        tokens,
        prompt_hash: document.prompt_hash.clone(),
        target_hash: document.target_hash.clone(),
    })
}
