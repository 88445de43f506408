//! Opening a model in whichever format its files are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::huggingface::HuggingFaceModel;
use super::huggingface::files::is_hugging_face;
use super::inventory::{ParamEntry, RankStage};
use super::layout::Layout;
use super::megatron::{DistributedCheckpoint, MegatronCheckpoint};
use super::neox::{Checkpoint, OpenOptions, Source};
use super::other_format::OtherFormat;
use super::recognize::is_output_of_zero;
use super::source::{ModelSource, StageReader};
use super::stage_reader::OpenStage;
use super::torch_file::Reading;
use crate::config::{Architecture, NeoxConfig};
use crate::hub::ConfiguredTokenizer;
use crate::partition::{Role, StageId};
use crate::tensor::DType;

/// Opens a checkpoint of Megatron-LM, a Hugging Face directory, or a checkpoint of gpt-neox. Options apply to one format each.
pub fn open_model(path: &Path, options: &OpenOptions) -> Result<Box<dyn ModelSource>, CheckpointError> {
    let megatron = MegatronCheckpoint::is_at(path) || DistributedCheckpoint::is_at(path);
    if options.are_of_neox() && !Checkpoint::is_at(path) {
        let found = if megatron { OtherFormat::Megatron } else { OtherFormat::HuggingFace };
        return Err(CheckpointError::OptionsOfNeox { path: path.to_owned(), found });
    }
    if let Some(checkpoint) = MegatronCheckpoint::open(path, &options.megatron_args)? {
        return Ok(Box::new(checkpoint));
    }
    if let Some(checkpoint) = DistributedCheckpoint::open(path, &options.megatron_args)? {
        return Ok(Box::new(checkpoint));
    }
    if !options.megatron_args.is_empty() {
        return Err(CheckpointError::OptionsOfMegatron { path: path.to_owned() });
    }
    if Checkpoint::is_at(path) {
        return Ok(Box::new(Checkpoint::open_with(path, options)?));
    }
    Ok(Box::new(HuggingFaceModel::open(path)?))
}

impl Checkpoint {
    /// Whether a folder is taken for a checkpoint of gpt-neox: any but one of Megatron-LM or a Hugging Face directory.
    pub(crate) fn is_at(path: &Path) -> bool {
        let megatron = MegatronCheckpoint::is_at(path) || DistributedCheckpoint::is_at(path);
        !megatron && (!is_hugging_face(path) || is_output_of_zero(path))
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

    fn notes(&self) -> Vec<String> {
        let mut notes = self.warnings();
        match self.ignored() {
            [] => {}
            [only] => notes.push(format!("{only} holds no weights of the model and is ignored")),
            [first, others @ ..] => notes.push(format!(
                "{first} and {} more .pt files hold no weights of the model and are ignored",
                others.len()
            )),
        }
        notes
    }

    fn as_neox(&self) -> Option<&Checkpoint> {
        Some(self)
    }

    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        let entry = |(role, at, file_role): Source| Some((role, self.entries[at].get(&file_role)?));
        self.sources(id, |_| true).into_iter().filter_map(entry).collect()
    }

    fn open_stage(
        &self,
        id: StageId,
        roles: &[Role],
        reading: &Reading,
    ) -> Result<Box<dyn StageReader + '_>, CheckpointError> {
        let sources = self.sources(id, |_| true).into_iter().filter(|(role, ..)| roles.contains(role));
        Ok(Box::new(OpenStage::open(self, sources.collect(), reading)?))
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        let mut stages: Vec<_> = self.sources(id, |entry| entry.used).into_iter().map(|(_, stage, _)| stage).collect();
        stages.sort_unstable();
        stages.dedup();
        stages.iter().flat_map(|&stage| self.stages[stage].ranks.iter().map(|rank| rank.path.clone())).collect()
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        let stages: BTreeSet<_> = self.sources(id, |_| true).into_iter().map(|(_, stage, _)| stage).collect();
        stages.into_iter().flat_map(|stage| &self.stages[stage].ranks).try_for_each(RankStage::check_unchanged)
    }
}
