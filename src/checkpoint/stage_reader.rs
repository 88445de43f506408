//! A stage whose files are open, for readers that take its parameters one by one and want no more of it in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use rayon::prelude::*;

use super::error::CheckpointError;
use super::inventory::{ParamEntry, RankStage};
use super::neox::{Checkpoint, Source};
use super::torch_file::{Reading, TorchFile};
use crate::partition::{Param, ParamValue, Role, StageId, StageTensors, join};
use crate::tensor::HostTensor;

/// The parameters of a stage that every rank holds whole.
#[derive(Debug)]
pub struct ReplicatedParams {
    /// Those that the model uses, as a stage without its partitioned parameters.
    pub used: StageTensors,
    pub unused: Vec<Param>,
}

pub struct StageReader<'a> {
    checkpoint: &'a Checkpoint,
    sources: Vec<Source>,
    shards: BTreeMap<usize, Vec<TorchFile>>,
}

impl Checkpoint {
    /// Opens the files of a stage; nothing is read yet. Also offers what the model does not use.
    pub fn open_stage(&self, id: StageId, reading: &Reading) -> Result<StageReader<'_>, CheckpointError> {
        StageReader::open(self, self.sources(id, |_| true), reading)
    }

    /// Reads a stage: partitioned parameters joined, replicas of replicated ones side by side. Parameters are read in
    /// parallel; a shard is dropped as soon as it has been copied into the joined tensor.
    pub fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        self.read_stage_with(id, &Reading::default())
    }

    /// Reads only what every rank holds whole, a small part: norms, row-parallel biases, learned positions, buffers.
    pub fn read_replicated(&self, id: StageId) -> Result<ReplicatedParams, CheckpointError> {
        let replicated = |entry: &ParamEntry| entry.row.kind.partition_dim().is_none();
        let reading = Reading::default();
        let params = self.read_sources(&self.sources(id, |entry| entry.used && replicated(entry)), &reading)?;
        let unused = self.read_sources(&self.sources(id, |entry| !entry.used && replicated(entry)), &reading)?;
        let used = StageTensors { id, tp_size: self.tp_size(), params };
        Ok(ReplicatedParams { used, unused: unused.into_values().collect() })
    }

    pub(super) fn read_stage_with(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        let params = self.read_sources(&self.sources(id, |entry| entry.used), reading)?;
        Ok(StageTensors { id, tp_size: self.tp_size(), params })
    }

    fn read_sources(&self, sources: &[Source], reading: &Reading) -> Result<BTreeMap<Role, Param>, CheckpointError> {
        let reader = StageReader::open(self, sources.to_vec(), reading)?;
        let params = sources
            .par_iter()
            .map(|&(role, ..)| Ok((role, reader.read(role)?)))
            .collect::<Result<_, CheckpointError>>()?;
        reader.check_unchanged()?;
        Ok(params)
    }

    /// The parameters of a stage in the files, also those that the model does not use. A tied head has its own role and the
    /// word embedding's entry.
    pub fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        let entry = |(role, at, file_role): Source| Some((role, self.entries[at].get(&file_role)?));
        self.sources(id, |_| true).into_iter().filter_map(entry).collect()
    }

    /// Every file that holds weights, in the order of the stages.
    pub fn weight_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = Vec::new();
        for rank in self.stages.iter().flat_map(|stage| &stage.ranks) {
            if !files.contains(&rank.path) {
                files.push(rank.path.clone());
            }
        }
        files
    }
}

impl<'a> StageReader<'a> {
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

    /// Each rank's tensor of a parameter, in rank order: shards of one tensor, or replicas. The files are read in parallel.
    pub fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError> {
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

    /// A parameter of all ranks: joined where it is partitioned, replicas side by side where it is not.
    pub fn read(&self, role: Role) -> Result<Param, CheckpointError> {
        let (_, entry) = self.entry(role)?;
        let tensors = self.read_shards(role)?;
        let value = match entry.row.partition(self.checkpoint.architecture()) {
            None => ParamValue::Replicas(tensors),
            Some(partition) => {
                let joined = join(&partition, &tensors).map_err(|source| CheckpointError::Partition {
                    folder: self.checkpoint.folder.clone(),
                    name: entry.name.clone(),
                    source,
                })?;
                ParamValue::Joined(joined)
            }
        };
        Ok(Param { name: entry.name.clone(), kind: entry.row.kind, value })
    }

    /// Refuses files that changed after they were opened. To be called once everything was read.
    pub fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let stages = self.shards.keys().map(|&at| &self.checkpoint.stages[at]);
        stages.flat_map(|stage| &stage.ranks).try_for_each(RankStage::check_unchanged)
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
