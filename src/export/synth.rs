//! Synthetic checkpoints: models of any size with random weights, in the files that gpt-neox writes. For tests,
//! benchmarks and trying things out without a download. `options` describes the model, `weights` makes the values of its
//! tensors; the partition table decides which tensors there are.

mod options;
pub(super) mod random;
mod weights;

use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;

use super::client_state::client_state;
use super::{ExportError, StoredTensor, TorchArchive, Value};
use crate::checkpoint::Layout;
use crate::config::{Architecture, Head};
use crate::files::write_atomically;
use crate::partition::{PartitionTable, Presence, Role, StageKind};
pub use options::{Shape, SynthOptions};
use weights::{Planned, Weights};

/// Writes a checkpoint into a save directory, which is made if it is missing: `latest`, and `global_stepN` with the
/// configuration and the shards. Of the weights one parameter at a time is in memory. Returns the `global_stepN`
/// directory.
///
/// # Errors
/// Settings that make no model or do not divide among the ranks, a directory that holds this step already, or the disk.
pub fn write_checkpoint(options: &SynthOptions, directory: &Path) -> Result<PathBuf, ExportError> {
    let architecture = options.architecture()?;
    let stages = plan(&architecture, options.legacy_names);
    let writer = Writer { options, weights: Weights { options, architecture: &architecture } };
    // Before anything is written, so that sizes that do not divide leave nothing behind.
    let forms = stages.iter().map(|stage| writer.forms(stage)).collect::<Result<Vec<_>, _>>()?;

    let tag = format!("global_step{}", options.iteration);
    let step = directory.join(&tag);
    if step.exists() {
        return Err(ExportError::Exists { path: step, replaceable: false });
    }
    let configs = step.join("configs");
    fs::create_dir_all(&configs).map_err(ExportError::at(&configs))?;
    write_text(&configs.join("synthetic.yml"), &options.yaml()?)?;
    match options.layout {
        Layout::LayerFiles => {
            for (planned, entries) in stages.iter().zip(forms) {
                let stage = planned[0].stage;
                let root = Value::OrderedDict(entries);
                let name = |tp_rank| format!("layer_{stage:02}-model_{tp_rank:02}-model_states.pt");
                writer.write_ranks(|tp_rank| step.join(name(tp_rank)), &root, planned)?;
            }
            let root = writer.rank_file(Value::None);
            writer.write_ranks(|tp_rank| step.join(rank_file_name(tp_rank)), &root, &[])?;
        }
        Layout::RankFiles => {
            let root = writer.rank_file(Value::OrderedDict(sequential(&stages, forms)));
            writer.write_ranks(|tp_rank| step.join(rank_file_name(tp_rank)), &root, &stages.concat())?;
        }
    }
    write_text(&directory.join("latest"), &tag)?;
    Ok(step)
}

/// The parameters of every stage that has any, in the order of gpt-neox's modules: 0 is the embedding, 2 the first
/// layer; 1 and the one after the last layer are functions.
fn plan(architecture: &Architecture, legacy_names: bool) -> Vec<Vec<Planned>> {
    let layers = architecture.layer_count;
    let mut stages = vec![(0, StageKind::Embedding)];
    stages.extend((2..layers + 2).map(|stage| (stage, StageKind::Layer)));
    stages.push((layers + 3, StageKind::FinalNorm));
    if architecture.head != Head::Tied {
        stages.push((layers + 4, StageKind::Head));
    }
    let planned = stages.into_iter().map(|(stage, kind)| plan_stage(architecture, stage, kind, legacy_names));
    planned.filter(|tensors| !tensors.is_empty()).collect()
}

fn plan_stage(architecture: &Architecture, stage: usize, kind: StageKind, legacy_names: bool) -> Vec<Planned> {
    let table = PartitionTable::new(architecture);
    // gpt-neox saves these although the model does not use them.
    let saved: &[Role] = if legacy_names {
        &[Role::MlpNormGain, Role::MlpNormBias, Role::RotaryFrequencies]
    } else {
        &[Role::MlpNormGain, Role::MlpNormBias]
    };
    let unused = saved
        .iter()
        .filter_map(|&role| table.row(role))
        .filter(|row| row.stage == kind && (row.presence)(architecture) == Presence::Unused);
    table
        .required(kind)
        .chain(unused)
        .map(|row| {
            let legacy = row.names.iter().find(|name| legacy_names && name.starts_with("mlp.dense_"));
            Planned { stage, row, name: legacy.unwrap_or(&row.names[0]) }
        })
        .collect()
}

/// Under the names that the module of a model without pipeline has, with storages numbered through.
fn sequential(stages: &[Vec<Planned>], forms: Vec<Vec<(String, Value)>>) -> Vec<(String, Value)> {
    let entries = stages.iter().flatten().zip(forms.into_iter().flatten()).enumerate();
    let renamed = entries.map(|(storage, (planned, (name, mut value)))| {
        if let Value::Tensor(tensor) = &mut value {
            tensor.storage = storage;
        }
        (format!("sequential.{}.{name}", planned.stage), value)
    });
    renamed.collect()
}

fn rank_file_name(tp_rank: usize) -> String {
    format!("mp_rank_{tp_rank:02}_model_states.pt")
}

fn write_text(path: &Path, text: &str) -> Result<(), ExportError> {
    write_atomically(path, text.as_bytes()).map_err(ExportError::at(path))
}

struct Writer<'a> {
    options: &'a SynthOptions,
    weights: Weights<'a>,
}

impl Writer<'_> {
    /// Names and forms of a stage's tensors, the same on every rank.
    fn forms(&self, stage: &[Planned]) -> Result<Vec<(String, Value)>, ExportError> {
        let form = |(storage, planned): (usize, &Planned)| {
            let shape = planned
                .row
                .rank_shape(self.weights.architecture, self.options.tp_size)
                .map_err(|source| ExportError::Partition { name: planned.name.to_owned(), source })?;
            let tensor = StoredTensor { storage, dtype: self.options.dtype, shape };
            Ok((planned.name.to_owned(), Value::Tensor(tensor)))
        };
        stage.iter().enumerate().map(form).collect()
    }

    /// Writes one file a rank, side by side: each parameter is made once and divided among them.
    fn write_ranks(
        &self,
        path: impl Fn(usize) -> PathBuf,
        root: &Value,
        tensors: &[Planned],
    ) -> Result<(), ExportError> {
        let mut archives = (0..self.options.tp_size)
            .map(|tp_rank| TorchArchive::create(&path(tp_rank), root))
            .collect::<Result<Vec<_>, _>>()?;
        for &planned in tensors {
            let shards = self.weights.shards(planned)?;
            archives.par_iter_mut().zip(shards).try_for_each(|(archive, shard)| archive.push(&shard))?;
        }
        archives.into_par_iter().try_for_each(TorchArchive::finish)
    }

    /// `module` is the model, or `None` where layers have files of their own.
    fn rank_file(&self, module: Value) -> Value {
        let options = self.options;
        client_state(module, options.iteration, options.tp_size, &options.client_args())
    }
}
