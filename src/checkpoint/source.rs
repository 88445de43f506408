//! A model that can be read a stage at a time, whoever wrote its files: what an evaluation needs to know of it.

use std::path::{Path, PathBuf};

use super::{Checkpoint, CheckpointError, HuggingFaceModel, Layout, OpenOptions, Reading, huggingface};
use crate::config::Architecture;
use crate::partition::{StageId, StageTensors};
use crate::tensor::DType;

/// A model on disk. No weights are held.
pub trait ModelSource: std::fmt::Debug + Send + Sync {
    /// The folder that holds its files.
    fn folder(&self) -> &Path;

    /// What the model is.
    fn architecture(&self) -> &Architecture;

    /// Number of tensor-parallel ranks; 1 for a model that is in one piece.
    fn tp_size(&self) -> usize;

    /// Element type of the word embedding, which stands for the model's.
    fn dtype(&self) -> DType;

    /// Number of parameters of the model (replicas count once) and the bytes of all its tensors.
    fn size(&self) -> (u64, u64);

    /// How its files are laid out: `layer-files`, `rank-files` or `hugging-face`.
    fn layout_name(&self) -> &'static str;

    /// What it is, in a word or two: `gpt-neox, 2 ranks` or `Hugging Face LlamaForCausalLM`.
    fn describe(&self) -> String;

    /// The training iteration, where the files tell it.
    fn iteration(&self) -> Option<u64>;

    /// The vocabulary was padded to a multiple of this; `None` where nobody can tell.
    fn vocabulary_multiple(&self) -> Option<usize>;

    /// The tokenizer file that the model's own configuration names, as a path on the machine that trained.
    fn tokenizer_file(&self) -> Option<&str> {
        None
    }

    /// The files that hold a stage.
    fn stage_files(&self, id: StageId) -> Vec<PathBuf>;

    /// Reads a stage: partitioned parameters joined, replicas of replicated ones side by side.
    ///
    /// # Errors
    /// A file that cannot be read (any more), or a weight that is NaN or infinite.
    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError>;

    /// As [`ModelSource::read_stage`], with memory and hashing as `reading` says, where the files allow it.
    ///
    /// # Errors
    /// As [`ModelSource::read_stage`].
    fn read_stage_as(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        let _ = reading;
        self.read_stage(id)
    }

    /// Reads only what every rank holds whole, a small part of a stage.
    ///
    /// # Errors
    /// As [`ModelSource::read_stage`].
    fn read_replicas(&self, id: StageId) -> Result<StageTensors, CheckpointError>;

    /// Refuses a stage whose files are no longer those that were opened: what was read of them need not belong together,
    /// nor be what is hashed afterwards. Reading a stage ends with this; to be called again after hashing its files.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`], or a file that is gone.
    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError>;

    /// Refuses a model whose parameters are understood, so that it can be compared and merged, but not evaluated.
    ///
    /// # Errors
    /// [`CheckpointError::Unsupported`], with the reason and what would be needed.
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
}

/// Opens whatever is there: a Hugging Face directory, or a checkpoint of gpt-neox, which alone the options speak of.
///
/// # Errors
/// As [`Checkpoint::open_with`] and [`HuggingFaceModel::open`].
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
    /// Whether a checkpoint of gpt-neox is what the folder is taken for: anything but a Hugging Face directory.
    #[must_use]
    pub fn is_at(path: &Path) -> bool {
        !huggingface::is_hugging_face(path)
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

    fn tokenizer_file(&self) -> Option<&str> {
        // The files of gpt-neox's other tokenizers are no tokenizer.json.
        let kind = self.config().tokenizer_type.as_deref();
        self.config().vocab_file.as_deref().filter(|_| kind.is_none_or(|kind| kind == "HFTokenizer"))
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        self.stage_files(id)
    }

    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        self.read_stage(id)
    }

    fn read_stage_as(&self, id: StageId, reading: &Reading) -> Result<StageTensors, CheckpointError> {
        let params = self.read_sources(&self.sources(id, |entry| entry.used), reading)?;
        Ok(StageTensors { id, tp_size: self.tp_size(), params })
    }

    fn read_replicas(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        Ok(self.read_replicated(id)?.used)
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.check_unchanged(id)
    }
}
