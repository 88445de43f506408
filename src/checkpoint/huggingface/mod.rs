//! Models as transformers writes them: `GPTNeoXForCausalLM`, `LlamaForCausalLM` and classes like it, `GPT2LMHeadModel`.
//! `config.json` becomes gpt-neox settings (`settings`) and what is `beyond` them, its tensors the roles of the partition
//! table (`names`), so that everything above sees a model with one rank.

mod beyond;
mod config;
mod error;
pub(super) mod files;
mod keys;
mod names;
mod raw;
mod rotary_keys;
mod settings;
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub use error::HuggingFaceError;
pub use names::HuggingFaceClass;

use super::error::CheckpointError;
use super::inventory::ParamEntry;
use super::rotary_table::difference;
use super::source::{ModelSource, StageReader};
use super::torch_file::{Reading, TensorForm};
use crate::config::{Architecture, Head, Observed, Positions, QuirkOptions};
use crate::partition::{Param, PartitionTable, Role, Row, StageId, StageKind};
use crate::tensor::{DType, HostTensor};
use config::ModelConfig;
use files::WeightFiles;

/// A Hugging Face directory whose every tensor has been accounted for. No weights are held.
#[derive(Debug)]
pub struct HuggingFaceModel {
    folder: PathBuf,
    class: HuggingFaceClass,
    architecture: Architecture,
    files: WeightFiles,
    weights: Vec<Weight>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Weight {
    stage: StageId,
    role: Role,
    /// Its name is that inside the layer, with `{a,b}` where there are several tensors.
    entry: ParamEntry,
    tensors: Vec<String>,
    /// Whether it is the word embedding, used again.
    tied: bool,
}

impl HuggingFaceModel {
    /// Opens a directory with `config.json` and weights, in one file or in several with an index.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let config = config::read(&folder.join("config.json"))?;
        let files = WeightFiles::open(folder)?;
        let (architecture, weights) = examine(&folder.join("config.json"), &config, &files)?;
        check_tables(&architecture, &files)?;
        config.notes.iter().for_each(|note| tracing::warn!("{note}"));
        let (folder, class, notes) = (folder.to_owned(), config.class, config.notes);
        Ok(Self { folder, class, architecture, files, weights, notes })
    }

    /// Checks a directory that is to be written: its `config.json`, to be named `path`, and the forms of its tensors.
    ///
    /// # Errors
    /// As [`HuggingFaceModel::open`].
    pub fn check(path: &Path, config: &[u8], forms: BTreeMap<String, TensorForm>) -> Result<(), CheckpointError> {
        examine(path, &config::parse(path, config)?, &WeightFiles::of_forms(forms))?;
        Ok(())
    }

    /// All tensors of the files: name and form.
    pub fn tensors(&self) -> BTreeMap<String, TensorForm> {
        self.files.forms().map(|(name, form)| (name.clone(), form.clone())).collect()
    }

    pub fn class(&self) -> &'static str {
        self.class.name()
    }

    fn of_stage(&self, id: StageId) -> impl Iterator<Item = &Weight> {
        self.weights.iter().filter(move |weight| weight.stage == id)
    }

    /// A parameter in the layout that the architecture reads.
    fn read(&self, weight: &Weight) -> Result<HostTensor, CheckpointError> {
        let read = |name: &String| {
            let tensor = self.files.read(name)?;
            match tensor.first_non_finite() {
                None => Ok(tensor),
                Some(index) => {
                    let (path, name) = (self.files.path(name), name.clone());
                    Err(CheckpointError::from(HuggingFaceError::NonFinite { path, name, index }))
                }
            }
        };
        let tensors = weight.tensors.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        names::join(self.class, &self.architecture, weight.role, &tensors).map_err(|source| {
            let (path, name) = (self.folder.clone(), weight.entry.name.clone());
            HuggingFaceError::Tensor { path, name, source }.into()
        })
    }
}

/// A stage of a directory, whose files are opened tensor by tensor.
struct OpenStage<'a> {
    model: &'a HuggingFaceModel,
    id: StageId,
}

impl OpenStage<'_> {
    fn weight(&self, role: Role) -> Result<&Weight, CheckpointError> {
        self.model.of_stage(self.id).find(|weight| weight.role == role).ok_or_else(|| CheckpointError::MissingTensor {
            path: self.model.folder.clone(),
            name: format!("{role:?}"),
        })
    }
}

impl StageReader for OpenStage<'_> {
    fn read_shards(&self, role: Role) -> Result<Vec<HostTensor>, CheckpointError> {
        Ok(vec![self.model.read(self.weight(role)?)?])
    }

    fn read(&self, role: Role) -> Result<Param, CheckpointError> {
        let weight = self.weight(role)?;
        Ok(weight.entry.of_one(self.model.read(weight)?))
    }

    fn check_unchanged(&self) -> Result<(), CheckpointError> {
        self.model.check_unchanged(self.id)
    }
}

/// Finds out what model it is, and accounts for every tensor.
fn examine(
    path: &Path,
    config: &ModelConfig,
    files: &WeightFiles,
) -> Result<(Architecture, Vec<Weight>), HuggingFaceError> {
    let &ModelConfig { class, ref settings, beyond, mlp_inner_size, vocab_size, .. } = config;
    let embedding = class.pattern(StageId::Embedding, Role::WordEmbedding);
    let precision = embedding.and_then(|name| files.form(&files.spelled(name))).map(TensorForm::precision);
    let observed = Observed {
        tp_size: 1,
        mlp_inner_size: Some(mlp_inner_size),
        padded_vocab_size: Some(vocab_size),
        precision,
        ..Observed::default()
    };
    let (mut architecture, _) = Architecture::resolve_with(settings, &observed, &QuirkOptions::default())
        .map_err(|source| HuggingFaceError::Unsupported { path: path.to_owned(), source })?;
    beyond.apply(&mut architecture);
    let weights = account(class, &architecture, files)?;
    Ok((architecture, weights))
}

/// Every parameter that a model of this architecture has; each of its tensors is there in the right form, and no other
/// tensor is. Ends at the first that is missing: `config.json` may ask for any number of layers.
fn account(
    class: HuggingFaceClass,
    architecture: &Architecture,
    files: &WeightFiles,
) -> Result<Vec<Weight>, HuggingFaceError> {
    let mut found = Vec::new();
    for mut weight in weights(class, architecture) {
        weight.tensors = weight.tensors.into_iter().map(|name| files.spelled(name)).collect();
        weight.entry.dtype = weight.check(class, architecture, files)?;
        found.push(weight);
    }
    let known: BTreeSet<_> = found.iter().flat_map(|weight| &weight.tensors).map(String::as_str).collect();
    // A tied head may be written all the same: transformers reads the embedding in its place.
    let head = class.pattern(StageId::Output, Role::HeadWeight).unwrap_or_default();
    let tied = architecture.head == Head::Tied;
    for (name, form) in files.forms() {
        let passed_over = class.ignores(name) || (tied && *name == head);
        if !known.contains(name.as_str()) && !passed_over {
            let (path, name, found) = (files.path(name), name.clone(), form.shape.clone());
            return Err(HuggingFaceError::Unexpected { path, name, found });
        }
    }
    Ok(found)
}

/// Tables that older versions of transformers saved, and loaded over their own, must be those of `config.json`.
fn check_tables(architecture: &Architecture, files: &WeightFiles) -> Result<(), CheckpointError> {
    // Frequencies that are scaled have never been saved: older versions scaled the positions.
    let Positions::Rotary { dims, base, .. } = architecture.positions else { return Ok(()) };
    let tables = files.forms().filter(|(name, _)| name.ends_with("rotary_emb.inv_freq"));
    for (name, _) in tables.filter(|(_, form)| form.dtype.is_float()) {
        let tensor = files.read(name)?;
        let (path, name) = (files.path(name), name.clone());
        match difference(&tensor, dims, base) {
            Ok(None) => {}
            Ok(Some(found)) => return Err(HuggingFaceError::PositionTable { path, name, found, base }.into()),
            Err(source) => return Err(HuggingFaceError::Tensor { path, name, source }.into()),
        }
    }
    Ok(())
}

impl Weight {
    /// Its tensors are there, of the shapes that the architecture asks for, of one floating-point type, which is returned.
    fn check(
        &self,
        class: HuggingFaceClass,
        architecture: &Architecture,
        files: &WeightFiles,
    ) -> Result<DType, HuggingFaceError> {
        let shapes = names::shapes(class, architecture, self.role, &self.entry.rank_shape, self.tensors.len());
        let mut dtype = None;
        for (name, expected) in self.tensors.iter().zip(shapes) {
            let path = || files.path(name);
            let Some(TensorForm { dtype: found_dtype, shape: found }) = files.form(name) else {
                return Err(HuggingFaceError::Missing { path: path(), name: name.clone(), expected });
            };
            if !found_dtype.is_float() {
                let found = found_dtype.to_string();
                return Err(HuggingFaceError::NotFloat { path: path(), name: name.clone(), found });
            }
            if *found != expected {
                let (name, found) = (name.clone(), found.clone());
                return Err(HuggingFaceError::Shape { path: path(), name, expected, found });
            }
            let expected = *dtype.get_or_insert(*found_dtype);
            if expected != *found_dtype {
                let (name, found) = (name.clone(), *found_dtype);
                return Err(HuggingFaceError::Siblings { path: path(), name, expected, found });
            }
        }
        Ok(dtype.unwrap_or(DType::F32))
    }
}

/// Every parameter that a model of this architecture has, in the order of the model.
fn weights(class: HuggingFaceClass, architecture: &Architecture) -> impl Iterator<Item = Weight> {
    let table = PartitionTable::new(architecture);
    let layers = (0..architecture.layer_count).map(|number| (StageId::Layer(number), StageKind::Layer));
    let stages = std::iter::once((StageId::Embedding, StageKind::Embedding))
        .chain(layers)
        .chain([(StageId::Output, StageKind::FinalNorm), (StageId::Output, StageKind::Head)]);
    let weight = move |stage, role, row: &'static Row, named_as: Role, tied| {
        let (name, rank_shape) = (class.name_in_stage(named_as)?.to_owned(), (row.shape)(architecture));
        let entry = ParamEntry { name, row, dtype: DType::F32, rank_shape, used: true };
        Some(Weight { stage, role, entry, tensors: class.tensor_names(stage, named_as), tied })
    };
    let tied_row = if architecture.head == Head::Tied { table.row(Role::WordEmbedding) } else { None };
    let tied = tied_row.and_then(|row| weight(StageId::Output, Role::HeadWeight, row, Role::WordEmbedding, true));
    stages
        .flat_map(move |(stage, kind)| table.required(kind).map(move |row| (stage, row)))
        .filter_map(move |(stage, row)| weight(stage, row.role, row, row.role, false))
        .chain(tied)
}

impl ModelSource for HuggingFaceModel {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn tp_size(&self) -> usize {
        1
    }

    fn dtype(&self) -> DType {
        let embedding = self.of_stage(StageId::Embedding).next().and_then(|weight| weight.tensors.first());
        embedding.and_then(|name| self.files.form(name)).map_or(DType::F32, |form| form.dtype)
    }

    fn size(&self) -> (u64, u64) {
        let forms = self.weights.iter().filter(|weight| !weight.tied).flat_map(|weight| &weight.tensors);
        forms.filter_map(|name| self.files.form(name)).fold((0, 0), |(parameters, bytes), form| {
            let count = form.shape.iter().product::<usize>() as u64;
            (parameters + count, bytes + count * form.dtype.size() as u64)
        })
    }

    fn layout_name(&self) -> &'static str {
        "hugging-face"
    }

    fn describe(&self) -> String {
        format!("Hugging Face {}", self.class.name())
    }

    fn iteration(&self) -> Option<u64> {
        None
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        None
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        let names = self.of_stage(id).flat_map(|weight| &weight.tensors);
        names.map(|name| self.files.path(name)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn stage_entries(&self, id: StageId) -> Vec<(Role, &ParamEntry)> {
        self.of_stage(id).map(|weight| (weight.role, &weight.entry)).collect()
    }

    fn open_stage(&self, id: StageId, _: &[Role], _: &Reading) -> Result<Box<dyn StageReader + '_>, CheckpointError> {
        // A change is to be reported as one, not as whatever comes of it.
        self.check_unchanged(id)?;
        Ok(Box::new(OpenStage { model: self, id }))
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.of_stage(id).flat_map(|weight| &weight.tensors).try_for_each(|name| self.files.check_unchanged(name))
    }
}
