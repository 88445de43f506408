//! The checkpoint as a source of stages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::MegatronCheckpoint;
use super::stages::Entry;
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::inventory::ParamEntry;
use crate::checkpoint::source::{ModelSource, StageReader};
use crate::checkpoint::torch_file::{Reading, TorchFile};
use crate::checkpoint::unchanged;
use crate::config::{Architecture, Head};
use crate::hub::ConfiguredTokenizer;
use crate::partition::{Param, Role, StageId};
use crate::tensor::{DType, HostTensor};

impl MegatronCheckpoint {
    /// The parameters of a stage. A tied head has its own role and the word embedding's entry.
    fn entries(&self, id: StageId) -> impl Iterator<Item = (Role, &Entry)> {
        let stage = |id: StageId| self.stages.iter().filter(move |(of, _)| *of == id).flat_map(|(_, stage)| stage);
        let tied = id == StageId::Output && self.architecture.head == Head::Tied;
        let head = tied.then(|| stage(StageId::Embedding).find(|(role, _)| **role == Role::WordEmbedding));
        let head = head.flatten().map(|(_, entry)| (Role::HeadWeight, entry));
        stage(id).map(|(&role, entry)| (role, entry)).chain(head)
    }

    /// The files that hold a stage, by pipeline rank.
    fn pipeline_ranks(&self, id: StageId) -> BTreeSet<usize> {
        self.entries(id).map(|(_, entry)| entry.pipeline).collect()
    }

    fn check_files(&self, pipeline: usize) -> Result<(), CheckpointError> {
        self.files[pipeline].iter().try_for_each(|file| unchanged::check(file.path(), &file.identity()))
    }
}

impl ModelSource for MegatronCheckpoint {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn tp_size(&self) -> usize {
        self.files.first().map_or(1, Vec::len)
    }

    fn dtype(&self) -> DType {
        let words = self.entries(StageId::Embedding).find(|(role, _)| *role == Role::WordEmbedding);
        words.map_or(DType::F32, |(_, entry)| entry.param.dtype)
    }

    fn size(&self) -> (u64, u64) {
        let (mut parameters, mut bytes) = (0_u64, 0_u64);
        let ranks = self.tp_size() as u64;
        for Entry { param, .. } in self.stages.iter().flat_map(|(_, stage)| stage.values()) {
            let count = param.rank_shape.iter().product::<usize>() as u64;
            bytes += count * ranks * param.dtype.size() as u64;
            parameters += if param.row.kind.partition_dim().is_some() { count * ranks } else { count };
        }
        (parameters, bytes)
    }

    fn layout_name(&self) -> &'static str {
        "megatron"
    }

    fn describe(&self) -> String {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let pipeline = match self.files.len() {
            1 => String::new(),
            stages => format!(", {}", count(stages, "pipeline stage")),
        };
        format!("Megatron-LM, {}{pipeline}", count(self.tp_size(), "rank"))
    }

    fn iteration(&self) -> Option<u64> {
        self.iteration
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        self.settings.vocabulary_multiple.checked_mul(self.tp_size())
    }

    fn tokenizer(&self) -> ConfiguredTokenizer<'_> {
        self.tokenizer.configured()
    }

    fn row_orders(&self) -> String {
        format!("{:?}", self.orders)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        self.entries(id).map(|(role, entry)| (role, &entry.param)).collect()
    }

    fn open_stage(
        &self,
        id: StageId,
        roles: &[Role],
        reading: &Reading,
    ) -> Result<Box<dyn StageReader + '_>, CheckpointError> {
        let params: Vec<_> = self.entries(id).filter(|(role, _)| roles.contains(role)).collect();
        let pipeline: BTreeSet<usize> = params.iter().map(|(_, entry)| entry.pipeline).collect();
        // Before, so that a change is reported as one; the caller checks again, to be sure there was none.
        pipeline.iter().try_for_each(|&rank| self.check_files(rank))?;
        Ok(Box::new(OpenStage { checkpoint: self, params, reading: reading.clone() }))
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        let ranks = self.pipeline_ranks(id).into_iter();
        ranks.flat_map(|rank| self.files[rank].iter().map(|file| file.path().to_owned())).collect()
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.pipeline_ranks(id).into_iter().try_for_each(|rank| self.check_files(rank))
    }
}

struct OpenStage<'a> {
    checkpoint: &'a MegatronCheckpoint,
    params: Vec<(Role, &'a Entry)>,
    reading: Reading,
}

impl OpenStage<'_> {
    fn entry(&self, role: Role) -> Result<&Entry, CheckpointError> {
        let found = self.params.iter().find(|(of, _)| *of == role);
        found.map(|(_, entry)| *entry).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.checkpoint.folder.clone(),
            name: format!("{role:?}"),
        })
    }

    fn read_shard(&self, entry: &Entry, tp_rank: usize, file: &TorchFile) -> Result<HostTensor, CheckpointError> {
        let file = file.clone().reading(self.reading.clone());
        let (tensor, non_finite) = file.read_and_search(&entry.file_name)?;
        let (path, name) = (|| file.path().to_owned(), || entry.file_name.clone());
        if let Some(index) = non_finite {
            return Err(CheckpointError::NonFinite { path: path(), tp_rank, name: name(), index });
        }
        let MegatronCheckpoint { architecture, orders, .. } = self.checkpoint;
        let row = entry.param.row;
        let arranged = orders.arrange(architecture, (row.role, row.kind), self.checkpoint.tp_size(), tensor);
        arranged.map_err(|source| CheckpointError::Tensor { path: path(), name: name(), source })
    }
}

impl StageReader for OpenStage<'_> {
    fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError> {
        let entry = self.entry(role)?;
        let files = &self.checkpoint.files[entry.pipeline];
        files.par_iter().enumerate().map(|(tp_rank, file)| self.read_shard(entry, tp_rank, file)).collect()
    }

    fn read(&self, role: Role) -> Result<Param, CheckpointError> {
        let entry = &self.entry(role)?.param;
        entry.of_ranks(&self.checkpoint.architecture, &self.checkpoint.folder, self.read_shards(role)?)
    }

    fn check_unchanged(&self) -> Result<(), CheckpointError> {
        let pipeline: BTreeSet<usize> = self.params.iter().map(|(_, entry)| entry.pipeline).collect();
        pipeline.into_iter().try_for_each(|rank| self.checkpoint.check_files(rank))
    }
}
