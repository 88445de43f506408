//! A model that is read a stage at a time, in whichever format its files are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::CheckpointError;
use super::inventory::ParamEntry;
use super::neox::Checkpoint;
use super::torch_file::Reading;
use crate::config::Architecture;
use crate::hub::ConfiguredTokenizer;
use crate::partition::{Param, Role, StageId, StageTensors};
use crate::tensor::{DType, HostTensor};

/// What is lost in a model of [`ModelSource::stored_once`].
pub const STORED_ONCE: &str = "stored once: drift cannot be seen here; rank 0's copies were kept when it was saved";

/// A model on disk. No weights are held.
pub trait ModelSource: std::fmt::Debug + Send + Sync {
    fn folder(&self) -> &Path;

    fn architecture(&self) -> &Architecture;

    /// Number of tensor-parallel ranks; 1 for a model that is not partitioned.
    fn tp_size(&self) -> usize;

    /// Whether it was trained on ranks of which only one's copies of the replicated parameters are in the files: what a merge
    /// would lose, saving has lost already, and nothing shows how much.
    fn stored_once(&self) -> bool {
        false
    }

    /// Element type of the word embedding, taken as the model's.
    fn dtype(&self) -> DType;

    /// Number of parameters of the model (replicas count once) and the bytes of all its tensors.
    fn size(&self) -> (u64, u64);

    /// How its files are laid out: `layer-files`, `rank-files`, `megatron`, `torch-dist` or `hugging-face`.
    fn layout_name(&self) -> &'static str;

    /// Format and size for people: `gpt-neox, 2 ranks` or `Hugging Face LlamaForCausalLM`.
    fn describe(&self) -> String;

    fn iteration(&self) -> Option<u64>;

    /// The vocabulary was padded to a multiple of this; `None` where that is unknown.
    fn vocabulary_multiple(&self) -> Option<usize>;

    /// The tokenizer that the model's own configuration names.
    fn tokenizer(&self) -> ConfiguredTokenizer<'_> {
        ConfiguredTokenizer::default()
    }

    /// How rows in the files come into the order of the partition table, where more than the architecture decides it.
    fn row_orders(&self) -> String {
        String::new()
    }

    /// What is unusual in the files or easily misread, a sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// The checkpoint with what only gpt-neox's has, where it is one.
    fn as_neox(&self) -> Option<&Checkpoint> {
        None
    }

    /// The parameters of a stage in the files, also those that the model does not use. A tied head has its own role and the
    /// word embedding's entry.
    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)>;

    /// Opens the files that hold these parameters of a stage; nothing is read yet.
    fn open_stage(
        &self,
        id: StageId,
        roles: &[Role],
        reading: &Reading,
    ) -> Result<Box<dyn StageReader + '_>, CheckpointError>;

    fn stage_files(&self, id: StageId) -> Vec<PathBuf>;

    /// Refuses a stage whose files changed after they were opened. Reading a stage ends with this; to be called again after
    /// hashing its files.
    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError>;

    /// Every file that holds weights, in the order of the stages.
    fn weight_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = Vec::new();
        for path in self.stage_ids().into_iter().flat_map(|id| self.stage_files(id)) {
            if !files.contains(&path) {
                files.push(path);
            }
        }
        files
    }

    /// The parameters of a stage that the model uses.
    fn stage_params(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        self.stage_entries(id).into_iter().filter(|(_, entry)| entry.used).collect()
    }

    /// Bytes of the used parameters of a stage, all ranks together.
    fn stage_bytes(&self, id: StageId) -> u64 {
        let bytes = |entry: &ParamEntry| entry.rank_shape.iter().product::<usize>() * entry.dtype.size();
        self.stage_params(id).into_iter().map(|(_, entry)| (bytes(entry) * self.tp_size()) as u64).sum()
    }

    /// Reads a stage: partitioned parameters joined, replicas of replicated ones side by side. Parameters are read in
    /// parallel; a shard is dropped as soon as it has been copied into the joined tensor.
    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        self.read_stage_as(id, &Reading::default())
    }

    /// As [`ModelSource::read_stage`], with the memory and hashing of `reading`, where the format supports it.
    fn read_stage_as(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        let params = self.read_params(id, reading, &|entry| entry.used)?;
        Ok(StageTensors { id, tp_size: self.tp_size(), params })
    }

    /// Reads only what every rank holds whole, a small part: norms, row-parallel biases, learned positions, buffers.
    fn read_replicated(&self, id: StageId) -> Result<ReplicatedParams, CheckpointError> {
        let replicated = |entry: &ParamEntry| entry.row.kind.partition_dim().is_none();
        let reading = Reading::default();
        let params = self.read_params(id, &reading, &|entry| entry.used && replicated(entry))?;
        let unused = self.read_params(id, &reading, &|entry| !entry.used && replicated(entry))?;
        let used = StageTensors { id, tp_size: self.tp_size(), params };
        Ok(ReplicatedParams { used, unused: unused.into_values().collect() })
    }

    /// Reads the parameters of a stage whose entries are wanted.
    fn read_params(
        &self,
        id: StageId,
        reading: &Reading,
        wanted: &dyn Fn(&ParamEntry) -> bool,
    ) -> Result<BTreeMap<Role, Param>, CheckpointError> {
        let entries = self.stage_entries(id).into_iter().filter(|(_, entry)| wanted(entry));
        let roles: Vec<Role> = entries.map(|(role, _)| role).collect();
        let reader = self.open_stage(id, &roles, reading)?;
        let params =
            roles.par_iter().map(|&role| Ok((role, reader.read(role)?))).collect::<Result<_, CheckpointError>>()?;
        reader.check_unchanged()?;
        Ok(params)
    }

    /// Refuses a model whose parameters are understood, so that it can be compared and merged, but not evaluated.
    fn check_evaluation(&self) -> Result<(), CheckpointError> {
        match &self.architecture().not_evaluated {
            Some(refusal) => Err(refusal.clone().into()),
            None => Ok(()),
        }
    }

    /// The stages in the order in which they run.
    fn stage_ids(&self) -> Vec<StageId> {
        let layers = (0..self.architecture().layer_count).map(StageId::Layer);
        std::iter::once(StageId::Embedding).chain(layers).chain(std::iter::once(StageId::Output)).collect()
    }

    /// The files that no later stage reads, by stage, where stages are read in this order.
    fn last_files(&self, stages: &[StageId]) -> HashMap<StageId, Vec<PathBuf>> {
        let files = stages.iter().flat_map(|&id| self.stage_files(id).into_iter().map(move |path| (path, id)));
        let last: BTreeMap<PathBuf, StageId> = files.collect();
        let mut by_stage: HashMap<StageId, Vec<PathBuf>> = HashMap::new();
        for (path, id) in last {
            by_stage.entry(id).or_default().push(path);
        }
        by_stage
    }
}

/// A stage whose files are open, for readers that take its parameters one by one and want no more of it in memory.
pub trait StageReader: Send + Sync {
    /// Each rank's tensor of a parameter, in rank order: shards of one tensor, or replicas.
    fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError>;

    /// A parameter of all ranks: joined where it is partitioned, replicas side by side where it is not.
    fn read(&self, role: Role) -> Result<Param, CheckpointError>;

    /// Refuses files that changed after they were opened. To be called once everything was read.
    fn check_unchanged(&self) -> Result<(), CheckpointError>;
}

/// The parameters of a stage that every rank holds whole.
#[derive(Debug)]
pub struct ReplicatedParams {
    /// Those that the model uses, as a stage without its partitioned parameters.
    pub used: StageTensors,
    pub unused: Vec<Param>,
}
