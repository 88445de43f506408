//! Accounting: every tensor of every file belongs to exactly one row of the partition table, every required row finds
//! its tensor on every rank, and all shapes and types agree. Opens every file, reads no tensor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::CheckpointError;
use super::layout::{Layout, StepFiles};
use super::torch_file::{Reading, TensorForm, TorchFile};
use super::unchanged;
use crate::config::{Architecture, Unsupported};
use crate::files::FileStat;
use crate::partition::{
    Param, ParamValue, PartitionTable, Presence, Role, Row, StageKind, classify_stage, ignored_name, join, refused_name,
};
use crate::tensor::{DType, HostTensor};

/// One stage of the files: a layer file of every rank, or one `sequential.N` group of every rank file.
#[derive(Debug)]
pub(super) struct FileStage {
    /// Number in the file name or in `sequential.N`.
    pub index: usize,
    pub kind: StageKind,
    pub ranks: Vec<RankStage>,
}

#[derive(Debug)]
pub(super) struct RankStage {
    pub path: PathBuf,
    pub identity: FileStat,
    /// Precedes the parameter names in the file: `sequential.N.` or nothing.
    pub prefix: String,
    pub forms: BTreeMap<String, TensorForm>,
}

/// A parameter, accounted for on every rank.
#[derive(Debug, Clone)]
pub struct ParamEntry {
    /// Name inside the stage.
    pub name: String,
    pub row: &'static Row,
    pub dtype: DType,
    pub rank_shape: Vec<usize>,
    pub used: bool,
}

impl ParamEntry {
    /// The parameter that these tensors are, one a rank: joined where it is partitioned, side by side where it is not.
    pub(super) fn of_ranks(
        &self,
        architecture: &Architecture,
        folder: &Path,
        tensors: Vec<HostTensor>,
    ) -> Result<Param, CheckpointError> {
        let value = match self.row.partition(architecture) {
            None => ParamValue::Replicas(tensors),
            Some(partition) => {
                let joined = join(&partition, &tensors).map_err(|source| CheckpointError::Partition {
                    folder: folder.to_owned(),
                    name: self.name.clone(),
                    source,
                })?;
                ParamValue::Joined(joined)
            }
        };
        Ok(Param { name: self.name.clone(), kind: self.row.kind, value })
    }

    /// The parameter of a model that is not partitioned.
    pub(super) fn of_one(&self, tensor: HostTensor) -> Param {
        let value = match self.row.kind.partition_dim() {
            None => ParamValue::Replicas(vec![tensor]),
            Some(_) => ParamValue::Joined(tensor),
        };
        Param { name: self.name.clone(), kind: self.row.kind, value }
    }
}

impl RankStage {
    pub(super) fn open(&self, layout: Layout, reading: &Reading) -> Result<TorchFile, CheckpointError> {
        self.check_unchanged()?;
        let shard = match layout {
            Layout::LayerFiles => TorchFile::open(&self.path),
            Layout::RankFiles => TorchFile::open_model(&self.path),
        };
        Ok(shard?.reading(reading.clone()))
    }

    pub(super) fn check_unchanged(&self) -> Result<(), CheckpointError> {
        unchanged::check(&self.path, &self.identity)
    }
}

/// Lists what every file holds, in stage order.
pub(super) fn list_stages(files: &StepFiles) -> Result<Vec<FileStage>, CheckpointError> {
    let mut stages: BTreeMap<usize, Vec<RankStage>> = BTreeMap::new();
    match files.layout {
        Layout::LayerFiles => {
            let jobs: Vec<_> =
                files.layers.iter().flat_map(|(&index, ranks)| ranks.values().map(move |path| (index, path))).collect();
            let opened: Vec<_> = jobs
                .into_par_iter()
                .map(|(index, path)| Ok((index, TorchFile::open(path)?)))
                .collect::<Result<_, CheckpointError>>()?;
            for (index, shard) in opened {
                let (path, identity, forms) = (shard.path().to_owned(), shard.identity(), shard.forms()?);
                stages.entry(index).or_default().push(RankStage { path, identity, prefix: String::new(), forms });
            }
        }
        Layout::RankFiles => {
            for path in files.rank_files.values() {
                let mut groups: BTreeMap<usize, RankStage> = BTreeMap::new();
                let shard = TorchFile::open_model(path)?;
                let identity = shard.identity();
                for (name, form) in shard.forms()? {
                    let Some((index, inner)) = sequential_name(&name) else {
                        return Err(CheckpointError::UnknownStage { path: path.clone(), names: name });
                    };
                    let prefix = name[..name.len() - inner.len()].to_owned();
                    let inner = inner.to_owned();
                    groups
                        .entry(index)
                        .or_insert_with(|| RankStage { path: path.clone(), identity, prefix, forms: BTreeMap::new() })
                        .forms
                        .insert(inner, form);
                }
                for (index, group) in groups {
                    stages.entry(index).or_default().push(group);
                }
            }
        }
    }
    // A norm without parameters leaves empty files.
    let holds_tensors = |ranks: &[RankStage]| ranks.iter().any(|rank| !rank.forms.is_empty());
    let filled = stages.into_iter().filter(|(_, ranks)| holds_tensors(ranks));
    filled.map(|(index, ranks)| classify(files, index, ranks)).collect()
}

/// `sequential.12.mlp.linear1.weight` (also with `module.` before it) → (12, `mlp.linear1.weight`).
fn sequential_name(name: &str) -> Option<(usize, &str)> {
    let rest = name.strip_prefix("module.").unwrap_or(name).strip_prefix("sequential.")?;
    let (number, inner) = rest.split_once('.')?;
    Some((number.parse().ok()?, inner))
}

fn classify(files: &StepFiles, index: usize, ranks: Vec<RankStage>) -> Result<FileStage, CheckpointError> {
    let tp_size = files.tp_size();
    // A rank file without a stage that others have.
    if ranks.len() != tp_size {
        let present: Vec<_> = ranks.iter().map(|rank| &rank.path).collect();
        let (tp_rank, path) = files
            .rank_files
            .iter()
            .find(|(_, path)| !present.contains(path))
            .map_or((0, files.folder.clone()), |(&tp_rank, path)| (tp_rank, path.clone()));
        return Err(CheckpointError::MissingParameter { path, tp_rank, name: format!("sequential.{index}.*") });
    }
    for rank in &ranks {
        if let Some((name, (reason, needed))) = rank.forms.keys().find_map(|name| Some((name, refused_name(name)?))) {
            let setting = format!("{}: tensor `{name}`", rank.path.display());
            return Err(Unsupported::new(setting, reason, needed).into());
        }
    }
    let first = &ranks[0];
    let kind = classify_stage(first.forms.keys().map(String::as_str)).ok_or_else(|| {
        let names: Vec<_> = first.forms.keys().take(5).map(String::as_str).collect();
        CheckpointError::UnknownStage { path: first.path.clone(), names: names.join(", ") }
    })?;
    Ok(FileStage { index, kind, ranks })
}

pub(super) fn account(
    stage: &FileStage,
    architecture: &Architecture,
) -> Result<BTreeMap<Role, ParamEntry>, CheckpointError> {
    let table = PartitionTable::new(architecture);
    let tp_size = stage.ranks.len();
    let mut entries: BTreeMap<Role, ParamEntry> = BTreeMap::new();
    for (tp_rank, rank) in stage.ranks.iter().enumerate() {
        let path = || rank.path.clone();
        let missing = |name: &str| CheckpointError::MissingParameter { path: path(), tp_rank, name: name.to_owned() };
        let mut seen: BTreeMap<Role, &str> = BTreeMap::new();
        for (name, form) in &rank.forms {
            if ignored_name(name) || table.is_left_over(stage.kind, name, &form.shape) {
                continue;
            }
            let row = table.lookup(stage.kind, name).map_err(|source| CheckpointError::Name {
                path: path(),
                tp_rank,
                source,
            })?;
            if let Some(other) = seen.insert(row.role, name) {
                let (name, other) = (name.clone(), other.to_owned());
                return Err(CheckpointError::SameParameter { path: path(), tp_rank, name, other });
            }
            if !form.dtype.is_float() {
                return Err(CheckpointError::NotFloat { path: path(), name: name.clone(), found: form.dtype });
            }
            let expected = row.rank_shape(architecture, tp_size).map_err(|source| CheckpointError::Partition {
                folder: path(),
                name: name.clone(),
                source,
            })?;
            if form.shape != expected {
                let (name, found) = (name.clone(), form.shape.clone());
                return Err(CheckpointError::Shape { path: path(), tp_rank, name, expected, found });
            }
            let entry = entries.entry(row.role).or_insert_with(|| ParamEntry {
                name: name.clone(),
                row,
                dtype: form.dtype,
                rank_shape: expected,
                used: (row.presence)(architecture) == Presence::Required,
            });
            if entry.dtype != form.dtype {
                let (name, expected, found) = (name.clone(), entry.dtype, form.dtype);
                return Err(CheckpointError::DTypeAcrossRanks { path: path(), tp_rank, name, expected, found });
            }
            if entry.name != *name {
                return Err(missing(&entry.name));
            }
        }
        for row in table.required(stage.kind) {
            if !seen.contains_key(&row.role) {
                return Err(missing(entries.get(&row.role).map_or(row.names[0], |entry| &entry.name)));
            }
        }
        if let Some(entry) = entries.values().find(|entry| !seen.contains_key(&entry.row.role)) {
            return Err(missing(&entry.name));
        }
    }
    Ok(entries)
}
