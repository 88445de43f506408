//! A stage of a gpt-neox checkpoint whose files are open.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rayon::prelude::*;

use super::error::CheckpointError;
use super::inventory::{ParamEntry, RankStage};
use super::neox::{Checkpoint, Source};
use super::source::StageReader;
use super::torch_file::{Reading, TorchFile};
use crate::partition::{Param, Role};
use crate::tensor::HostTensor;

pub(super) struct OpenStage<'a> {
    checkpoint: &'a Checkpoint,
    sources: Vec<Source>,
    shards: BTreeMap<usize, Vec<TorchFile>>,
}

impl<'a> OpenStage<'a> {
    pub(super) fn open(
        checkpoint: &'a Checkpoint,
        sources: Vec<Source>,
        reading: &Reading,
    ) -> Result<Self, CheckpointError> {
        let mut shards: BTreeMap<usize, Vec<TorchFile>> = BTreeMap::new();
        for &(_, stage, _) in &sources {
            if let Entry::Vacant(vacant) = shards.entry(stage) {
                let ranks = &checkpoint.stages[stage].ranks;
                let open = ranks.iter().map(|rank| rank.open(checkpoint.layout, reading));
                vacant.insert(open.collect::<Result<_, _>>()?);
            }
        }
        Ok(Self { checkpoint, sources, shards })
    }

    fn entry(&self, role: Role) -> Result<(usize, &'a ParamEntry), CheckpointError> {
        let source = self.sources.iter().find(|&&(of, ..)| of == role);
        let found = source.and_then(|&(_, at, file_role)| Some((at, self.checkpoint.entries[at].get(&file_role)?)));
        found.ok_or_else(|| CheckpointError::MissingTensor {
            path: self.checkpoint.folder.clone(),
            name: format!("{role:?}"),
        })
    }
}

impl StageReader for OpenStage<'_> {
    fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError> {
        let (at, entry) = self.entry(role)?;
        self.shards[&at]
            .par_iter()
            .zip(&self.checkpoint.stages[at].ranks)
            .enumerate()
            .map(|(tp_rank, (shard, rank))| {
                let (tensor, non_finite) = shard.read_and_search(&format!("{}{}", rank.prefix, entry.name))?;
                match non_finite {
                    None => Ok(tensor),
                    Some(index) => {
                        let (path, name) = (rank.path.clone(), entry.name.clone());
                        Err(CheckpointError::NonFinite { path, tp_rank, name, index })
                    }
                }
            })
            .collect()
    }

    fn read(&self, role: Role) -> Result<Param, CheckpointError> {
        let (_, entry) = self.entry(role)?;
        entry.of_ranks(self.checkpoint.architecture(), &self.checkpoint.folder, self.read_shards(role)?)
    }

    fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let stages = self.shards.keys().map(|&at| &self.checkpoint.stages[at]);
        stages.flat_map(|stage| &stage.ranks).try_for_each(RankStage::check_unchanged)
    }
}
