//! The models of an evaluation: the checkpoint, its merges and merges made by other tools.

use std::sync::Arc;

use super::EvalError;
use super::packing::TokenizedPassage;
use crate::checkpoint::ModelSource;
use crate::config::Architecture;
use crate::merge::Strategy;

#[derive(Debug, Clone)]
pub struct Variant {
    pub name: String,
    pub weights: Weights,
    /// Whether passages go through it in chunks of another size than through the rest: evaluating the baseline so shows
    /// how far rounding alone moves the numbers.
    pub rechunked: bool,
}

#[derive(Debug, Clone)]
pub enum Weights {
    /// The checkpoint as it is, every rank with its own replicas.
    Unmerged,
    Merged(Strategy),
    /// A model of its own, such as a merge that another tool made; it has the checkpoint's depth and width.
    Candidate(Arc<dyn ModelSource>),
}

#[derive(Debug, Clone, Copy)]
pub struct Models<'a> {
    /// The unmerged model, or any model that is evaluated alone.
    pub checkpoint: &'a dyn ModelSource,
    /// The first is the baseline.
    pub variants: &'a [Variant],
}

impl Variant {
    pub fn baseline() -> Self {
        Self { name: "baseline".to_owned(), weights: Weights::Unmerged, rechunked: false }
    }

    /// The checkpoint as it is in chunks of another size, named `noise floor`.
    pub fn noise_floor() -> Self {
        Self { name: "noise floor".to_owned(), weights: Weights::Unmerged, rechunked: true }
    }

    pub fn merged(strategy: Strategy) -> Self {
        Self { name: strategy.name.clone(), weights: Weights::Merged(strategy), rechunked: false }
    }

    pub fn candidate(name: String, model: Arc<dyn ModelSource>) -> Self {
        Self { name, weights: Weights::Candidate(model), rechunked: false }
    }

    pub fn candidate_model(&self) -> Option<&dyn ModelSource> {
        match &self.weights {
            Weights::Candidate(model) => Some(model.as_ref()),
            Weights::Unmerged | Weights::Merged(_) => None,
        }
    }
}

impl<'a> Models<'a> {
    /// The candidates with their places among the variants.
    pub(super) fn candidates(self) -> impl Iterator<Item = (usize, &'a dyn ModelSource)> {
        self.variants.iter().enumerate().filter_map(|(at, variant)| Some((at, variant.candidate_model()?)))
    }

    /// That of variants that go through a stage together.
    pub(super) fn architecture_of(self, members: &[usize]) -> &'a Architecture {
        let model = members.first().and_then(|&at| self.variants[at].candidate_model());
        model.unwrap_or(self.checkpoint).architecture()
    }

    /// The strategies of the merges with their places among the variants.
    pub(super) fn strategies(self) -> impl Iterator<Item = (usize, &'a Strategy)> {
        self.variants.iter().enumerate().filter_map(|(at, variant)| match &variant.weights {
            Weights::Merged(strategy) => Some((at, strategy)),
            Weights::Unmerged | Weights::Candidate(_) => None,
        })
    }

    /// Whether the models can be evaluated: every candidate goes through the checkpoint's stages, with residual streams of
    /// the same width, and takes the passages.
    pub(super) fn check(self, passages: &[TokenizedPassage]) -> Result<(), EvalError> {
        self.checkpoint.check_evaluation()?;
        let expected = self.checkpoint.architecture();
        let longest = passages.iter().map(TokenizedPassage::length).max().unwrap_or(0);
        let ids = passages.iter().flat_map(|passage| passage.input_ids.iter().chain(&passage.target_ids));
        let largest_id = ids.copied().max().unwrap_or(0);
        for (at, model) in self.candidates() {
            model.check_evaluation()?;
            let (name, found) = (|| self.variants[at].name.clone(), model.architecture());
            let mut sizes = vec![
                ("num_layers", expected.layer_count, found.layer_count),
                ("hidden_size", expected.hidden_size, found.hidden_size),
                ("soft prompt rows", expected.soft_prompt_length, found.soft_prompt_length),
            ];
            if expected.soft_prompt_length > 0 {
                // The rows of a prompt are numbered after the vocabulary's.
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
}
