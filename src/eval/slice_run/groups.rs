//! Which variants go through a stage together, and with which weights.

use std::collections::BTreeMap;

use crate::eval::EvalError;
use crate::eval::variant::{Models, Weights};
use crate::merge::{Exactness, Signature, StageMerger};
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

type Groups = Vec<(Key, Vec<usize>)>;

pub(super) struct Group {
    pub key: Key,
    pub members: Vec<usize>,
    pub weights: StageTensors,
}

/// A stage and those who go through it.
pub(super) struct Grouping<'a> {
    pub models: Models<'a>,
    pub stage: &'a StageTensors,
    /// The weights of variants that have their own.
    pub own: &'a BTreeMap<usize, StageTensors>,
}

impl Grouping<'_> {
    /// Variants that go through the stage together, with their weights. The baseline's group comes first. `streams` are the
    /// variants' input streams.
    pub(super) fn groups(
        &self,
        streams: &[Option<usize>],
        merger: &mut StageMerger<'_>,
        exactness: &mut [Exactness],
    ) -> Result<Vec<Group>, EvalError> {
        let groups = self.by_key(streams, merger)?;
        self.with_weights(groups, merger, exactness)
    }

    fn by_key(&self, streams: &[Option<usize>], merger: &StageMerger<'_>) -> Result<Groups, EvalError> {
        let stage = self.stage;
        // Looking up word embeddings is the same with one rank and with many: the unmerged model shares the merges' stream.
        let start = stage.id == StageId::Embedding;
        let shared_start =
            start && [Role::PositionEmbedding, Role::SoftPrompt].iter().all(|&role| stage.get(role).is_none());
        let mut groups: Groups = Vec::new();
        for (at, (variant, &input)) in self.models.variants.iter().zip(streams).enumerate() {
            let signature = match &variant.weights {
                Weights::Unmerged | Weights::Candidate(_) => None,
                Weights::Merged(strategy) => Some(merger.signature(strategy)?).filter(|_| !shared_start),
            };
            let own = self.own.contains_key(&at).then_some(at);
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
    fn with_weights(
        &self,
        groups: Groups,
        merger: &mut StageMerger<'_>,
        exactness: &mut [Exactness],
    ) -> Result<Vec<Group>, EvalError> {
        let mut distinct: Vec<Group> = Vec::new();
        for (key, members) in groups {
            let weights = self.weights(&members, merger, exactness)?;
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

    /// The group's weights; every merged member's exactness is judged on the way.
    fn weights(
        &self,
        members: &[usize],
        merger: &mut StageMerger<'_>,
        exactness: &mut [Exactness],
    ) -> Result<StageTensors, EvalError> {
        let mut weights = None;
        for at in members {
            if let Some(own) = self.own.get(at) {
                return Ok(own.clone());
            }
            match &self.models.variants[*at].weights {
                Weights::Unmerged | Weights::Candidate(_) => weights = Some(self.stage.clone()),
                Weights::Merged(strategy) => {
                    let merged = merger.merge(strategy, &mut exactness[*at])?;
                    weights = Some(weights.unwrap_or(merged));
                }
            }
        }
        Ok(weights.unwrap_or_else(|| self.stage.clone()))
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
