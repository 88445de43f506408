//! Opening a model in whichever format its files are.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::huggingface::{HuggingFaceModel, is_hugging_face};
use super::layout::Layout;
use super::neox::{Checkpoint, OpenOptions};
use super::recognize::is_output_of_zero;
use super::source::ModelSource;
use super::torch_file::Reading;
use crate::config::{Architecture, NeoxConfig};
use crate::hub::ConfiguredTokenizer;
use crate::partition::{StageId, StageTensors};
use crate::tensor::DType;

/// Opens a Hugging Face directory, or a checkpoint of gpt-neox, to which alone the options apply.
pub fn open_model(path: &Path, options: &OpenOptions) -> Result<Box<dyn ModelSource>, CheckpointError> {
    if !Checkpoint::is_at(path) {
        if *options != OpenOptions::default() {
            return Err(CheckpointError::OptionsOfNeox { path: path.to_owned() });
        }
        return Ok(Box::new(HuggingFaceModel::open(path)?));
    }
    Ok(Box::new(Checkpoint::open_with(path, options)?))
}

impl Checkpoint {
    /// Whether a folder is taken for a checkpoint of gpt-neox: any but a Hugging Face directory.
    pub(crate) fn is_at(path: &Path) -> bool {
        !is_hugging_face(path) || is_output_of_zero(path)
    }

    pub fn stage_ids(&self) -> Vec<StageId> {
        ModelSource::stage_ids(self)
    }
}

impl ModelSource for Checkpoint {
    fn folder(&self) -> &Path {
        self.folder()
    }

    fn architecture(&self) -> &Architecture {
        self.architecture()
    }

    fn tp_size(&self) -> usize {
        self.tp_size()
    }

    fn dtype(&self) -> DType {
        self.dtype()
    }

    fn size(&self) -> (u64, u64) {
        self.size()
    }

    fn layout_name(&self) -> &'static str {
        match self.layout() {
            Layout::LayerFiles => "layer-files",
            Layout::RankFiles => "rank-files",
        }
    }

    fn describe(&self) -> String {
        let ranks = self.tp_size();
        format!("gpt-neox, {ranks} rank{}", if ranks == 1 { "" } else { "s" })
    }

    fn iteration(&self) -> Option<u64> {
        let step = self.folder().file_name().map(|name| name.to_string_lossy().into_owned());
        self.client().iteration.or_else(|| step?.strip_prefix("global_step")?.parse().ok())
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        self.config().make_vocab_size_divisible_by.checked_mul(self.tp_size())
    }

    fn tokenizer(&self) -> ConfiguredTokenizer<'_> {
        let NeoxConfig { tokenizer_type, vocab_file, merge_file, .. } = self.config();
        ConfiguredTokenizer {
            kind: tokenizer_type.as_deref(),
            vocab_file: vocab_file.as_deref(),
            merge_file: merge_file.as_deref(),
        }
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        self.stage_files(id)
    }

    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        self.read_stage(id)
    }

    fn read_stage_as(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        self.read_stage_with(id, reading)
    }

    fn read_replicas(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        Ok(self.read_replicated(id)?.used)
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.check_unchanged(id)
    }
}
