//! A model that is read a stage at a time, in whichever format its files are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::torch_file::Reading;
use crate::config::Architecture;
use crate::hub::ConfiguredTokenizer;
use crate::partition::{StageId, StageTensors};
use crate::tensor::DType;

/// A model on disk. No weights are held.
pub trait ModelSource: std::fmt::Debug + Send + Sync {
    fn folder(&self) -> &Path;

    fn architecture(&self) -> &Architecture;

    /// Number of tensor-parallel ranks; 1 for a model that is not partitioned.
    fn tp_size(&self) -> usize;

    /// Element type of the word embedding, taken as the model's.
    fn dtype(&self) -> DType;

    /// Number of parameters of the model (replicas count once) and the bytes of all its tensors.
    fn size(&self) -> (u64, u64);

    /// How its files are laid out: `layer-files`, `rank-files` or `hugging-face`.
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

    fn stage_files(&self, id: StageId) -> Vec<PathBuf>;

    /// Reads a stage: partitioned parameters joined, replicas of replicated ones side by side.
    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError>;

    /// As [`ModelSource::read_stage`], with the memory and hashing of `reading`, where the format supports it.
    fn read_stage_as(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        let _ = reading;
        self.read_stage(id)
    }

    /// Reads only what every rank holds whole, a small part of a stage.
    fn read_replicas(&self, id: StageId) -> Result<StageTensors, CheckpointError>;

    /// Refuses a stage whose files changed after they were opened. Reading a stage ends with this; to be called again after
    /// hashing its files.
    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError>;

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
