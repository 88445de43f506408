//! Which variants go through a stage together, and with which weights.

use std::collections::BTreeMap;

use super::SliceRun;
use crate::config::Architecture;
use crate::eval::EvalError;
use crate::eval::variant::Weights;
use crate::merge::{Signature, StageMerger};
use crate::partition::{Role, StageId, StageTensors};

/// Variants with the same input stream and the same weights in a stage, which go through it as one.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    pub input: Option<usize>,
    signature: Option<Signature>,
    /// The variant whose weights are its own: corrected for it alone, or a candidate's.
    own: Option<usize>,
    pub rechunked: bool,
}

pub(super) type Groups = Vec<(Key, Vec<usize>)>;

pub(super) struct Group {
    pub key: Key,
    pub members: Vec<usize>,
    pub weights: StageTensors,
}

impl<'a> SliceRun<'a> {
    /// Variants that go through the stage together. The baseline's group comes first.
    pub(super) fn group(
        &self,
        merger: &StageMerger<'_>,
        stage: &StageTensors,
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<Groups, EvalError> {
        // Looking up word embeddings is the same with one rank and with many: the unmerged model shares the merges' stream.
        let start = stage.id == StageId::Embedding;
        let shared_start =
            start && [Role::PositionEmbedding, Role::SoftPrompt].iter().all(|&role| stage.get(role).is_none());
        let mut groups: Groups = Vec::new();
        for (at, (variant, &input)) in self.models.variants.iter().zip(&self.streams).enumerate() {
            let signature = match &variant.weights {
                Weights::Unmerged | Weights::Candidate(_) => None,
                Weights::Merged(strategy) => Some(merger.signature(strategy)?).filter(|_| !shared_start),
            };
            let own = own.contains_key(&at).then_some(at);
            // Chunks make no difference where rows do not meet.
            let rechunked = variant.rechunked && matches!(stage.id, StageId::Layer(_));
            let key = Key { input, signature, own, rechunked };
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, members)) => members.push(at),
                None => groups.push((key, vec![at])),
            }
        }
        Ok(groups)
    }

    /// Merges every group's weights, and joins groups whose rules differ but give the same bits:
    /// of two ranks' float16 replicas, for example, the sum is the same in float16 and in float32.
    pub(super) fn with_weights(
        &mut self,
        groups: Groups,
        merger: &mut StageMerger<'_>,
        stage: &StageTensors,
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<Vec<Group>, EvalError> {
        let mut distinct: Vec<Group> = Vec::new();
        for (key, members) in groups {
            let weights = self.weights(merger, stage, &members, own)?;
            let same = |other: &&mut Group| {
                // Equal weights of another architecture are another model.
                (other.key.input, other.key.own, other.key.rechunked) == (key.input, None, key.rechunked)
                    && key.own.is_none()
                    && other.weights.same_bits(&weights)
            };
            match distinct.iter_mut().find(same) {
                Some(same) => same.members.extend(members),
                None => distinct.push(Group { key, members, weights }),
            }
        }
        Ok(distinct)
    }

    pub(super) fn architecture_of(&self, members: &[usize]) -> &'a Architecture {
        match members.first().map(|&at| &self.models.variants[at].weights) {
            Some(Weights::Candidate(model)) => model.architecture(),
            _ => self.models.checkpoint.architecture(),
        }
    }

    /// The group's weights; every merged member's exactness is judged on the way.
    fn weights(
        &mut self,
        merger: &mut StageMerger<'_>,
        stage: &StageTensors,
        members: &[usize],
        own: &BTreeMap<usize, StageTensors>,
    ) -> Result<StageTensors, EvalError> {
        let mut weights = None;
        for at in members {
            if let Some(own) = own.get(at) {
                return Ok(own.clone());
            }
            match &self.models.variants[*at].weights {
                Weights::Unmerged | Weights::Candidate(_) => weights = Some(stage.clone()),
                Weights::Merged(strategy) => {
                    let merged = merger.merge(strategy, &mut self.outcome.exactness[*at])?;
                    weights = Some(weights.unwrap_or(merged));
                }
            }
        }
        Ok(weights.unwrap_or_else(|| stage.clone()))
    }
}

/// Variants that were the same so far are so no longer where they are in different groups.
pub(super) fn part_those_of_other_groups(same_as: &mut [usize], groups: &[Group]) {
    let mut first_of: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut group_of = vec![0; same_as.len()];
    for (number, group) in groups.iter().enumerate() {
        group.members.iter().for_each(|&member| group_of[member] = number);
    }
    for (at, same_as) in same_as.iter_mut().enumerate() {
        *same_as = *first_of.entry((*same_as, group_of[at])).or_insert(at);
    }
}
