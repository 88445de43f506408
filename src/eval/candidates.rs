//! Models made elsewhere among the variants: which they are, and whether they can be judged beside the checkpoint.

use super::EvalError;
use super::engine::Variant;
use super::packing::Passage;
use crate::checkpoint::ModelSource;

/// The candidates with their places among the variants.
pub(super) fn of(variants: &[Variant]) -> impl Iterator<Item = (usize, &dyn ModelSource)> {
    variants.iter().enumerate().filter_map(|(at, variant)| Some((at, variant.made_elsewhere()?)))
}

/// Residual streams that all variants together hold: one each, but one per rank for a candidate whose ranks can differ.
pub(super) fn stream_count(variants: &[Variant]) -> usize {
    let further =
        of(variants).map(
            |(_, model)| {
                if model.architecture().streams_can_differ() { model.tp_size().saturating_sub(1) } else { 0 }
            },
        );
    variants.len() + further.sum::<usize>()
}

/// Whether every candidate goes through the same stages, with residual streams of the same width, and takes the passages.
pub(super) fn check(checkpoint: &dyn ModelSource, variants: &[Variant], passages: &[Passage]) -> Result<(), EvalError> {
    let expected = checkpoint.architecture();
    let longest = passages.iter().map(Passage::length).max().unwrap_or(0);
    let ids = passages.iter().flat_map(|passage| passage.input_ids.iter().chain(&passage.target_ids));
    let largest_id = ids.copied().max().unwrap_or(0);
    for (at, model) in of(variants) {
        model.check_evaluation()?;
        let (name, found) = (|| variants[at].name.clone(), model.architecture());
        let mut sizes = vec![
            ("num_layers", expected.layer_count, found.layer_count),
            ("hidden_size", expected.hidden_size, found.hidden_size),
            ("soft prompt rows", expected.soft_prompt_length, found.soft_prompt_length),
        ];
        if expected.soft_prompt_length > 0 {
            // The rows of a prompt have the numbers after the vocabulary's.
            sizes.push(("vocabulary rows", expected.padded_vocab_size, found.padded_vocab_size));
        }
        if let Some((what, expected, found)) = sizes.into_iter().find(|(_, expected, found)| expected != found) {
            return Err(EvalError::Candidate { name: name(), what, expected, found });
        }
        if longest > found.longest_input() {
            let found = found.longest_input();
            return Err(EvalError::CandidateLength { name: name(), expected: longest, found });
        }
        let vocabulary = found.padded_vocab_size;
        if usize::try_from(largest_id).is_ok_and(|id| id >= vocabulary) {
            return Err(EvalError::CandidateVocabulary { name: name(), vocabulary, id: largest_id });
        }
    }
    Ok(())
}
