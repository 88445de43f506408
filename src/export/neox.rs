//! gpt-neox's own format for any number of ranks: the source's layout, the source's names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::client_state::client_state;
use super::drift::Drift;
use super::neox_check::{self, Inventory};
use super::neox_config::Changes;
use super::pipeline::Target;
use super::plan::{Plan, PlannedParam};
use super::reopen::{compare, reopen};
use super::sharded_tensor::{ByteSpan, ShardedTensor};
use super::writer::{Content, FilePlan, Output};
use super::{ExportError, StoredTensor, Value};
use crate::checkpoint::{Checkpoint, Layout, OpenOptions, ParamEntry, TensorForm};
use crate::partition::{Kind, PartitionError, rank_ranges};
use crate::tensor::{HostTensor, TensorError, round};

/// A gpt-neox checkpoint that is to be written.
pub(super) struct NeoxTarget {
    /// Whether the model adds up the ranks' row-parallel biases, so that each must be a share.
    sums_biases: bool,
    drift: Option<Drift>,
    inventory: Inventory,
    notes: Vec<String>,
    tp_size: usize,
    files: Vec<FilePlan>,
    /// Number of the first rank's file by stage; with [`Layout::RankFiles`] all stages are in file 0 and on.
    first_file: BTreeMap<usize, usize>,
    bytes: u64,
    texts: Vec<(PathBuf, String)>,
}

impl NeoxTarget {
    /// Plans the files of a `global_stepN` directory.
    ///
    /// # Errors
    /// Files that nothing could read: what does not divide among the ranks.
    pub(super) fn new(plan: &Plan, changes: &Changes<'_>) -> Result<Self, ExportError> {
        let Changes { source, origin, tp_size, .. } = *changes;
        let inventory = neox_check::check(plan, changes)?;
        let mut stages: BTreeMap<usize, Vec<(String, StoredTensor)>> = BTreeMap::new();
        let mut bytes = 0;
        for param in &plan.params {
            let Some(form) = inventory.get(&param.file_stage).and_then(|stage| stage.get(&param.name)) else {
                continue;
            };
            bytes += (form.shape.iter().product::<usize>() * form.dtype.size() * tp_size) as u64;
            let tensor = StoredTensor { storage: 0, dtype: form.dtype, shape: form.shape.clone() };
            stages.entry(param.file_stage).or_default().push((param.name.clone(), tensor));
        }
        let iteration = source.iteration().unwrap_or(0);
        let step = format!("global_step{iteration}");
        let folder = Path::new(&step);
        let state = |module| client_state(module, iteration, tp_size, &changes.client_args());
        let rank_path = |tp_rank: usize| folder.join(format!("mp_rank_{tp_rank:02}_model_states.pt"));
        let (mut files, mut first_file) = (Vec::new(), BTreeMap::new());
        match origin.layout {
            Layout::LayerFiles => {
                for (&stage, tensors) in &stages {
                    first_file.insert(stage, files.len());
                    let content = Value::OrderedDict(numbered(tensors.iter().map(|(name, t)| (name.clone(), t))));
                    let path = |rank: usize| folder.join(format!("layer_{stage:02}-model_{rank:02}-model_states.pt"));
                    files.extend((0..tp_size).map(|rank| torch(path(rank), content.clone(), tensors.len())));
                }
                files.extend((0..tp_size).map(|rank| torch(rank_path(rank), state(Value::None), 0)));
            }
            Layout::RankFiles => {
                // In the order in which they come: stage by stage as planned, not by number.
                let named = plan.params.iter().filter_map(|param| {
                    let tensors = stages.get(&param.file_stage)?;
                    let (name, tensor) = tensors.iter().find(|(name, _)| *name == param.name)?;
                    Some((format!("sequential.{}.{name}", param.file_stage), tensor))
                });
                let state = state(Value::OrderedDict(numbered(named)));
                files.extend((0..tp_size).map(|rank| torch(rank_path(rank), state.clone(), plan.params.len())));
                first_file.extend(stages.keys().map(|&stage| (stage, 0)));
            }
        }
        let texts = vec![(folder.join("configs/config.yml"), changes.text()), ("latest".into(), step.clone())];
        let notes = padding(source.architecture().padded_vocab_size, plan.vocab_size).into_iter().collect();
        let sums_biases = tp_size > 1 && !source.architecture().biases_after_reduction();
        Ok(Self { sums_biases, drift: changes.drift, inventory, notes, tp_size, files, first_file, bytes, texts })
    }
}

impl Target for NeoxTarget {
    fn files(&self) -> &[FilePlan] {
        &self.files
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn texts(&self) -> &[(PathBuf, String)] {
        &self.texts
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn check_written(&self, folder: &Path) -> Result<(), ExportError> {
        let written = reopen(folder, || Checkpoint::open_with(folder, &OpenOptions::default()))?;
        let form = |entry: &ParamEntry| TensorForm { dtype: entry.dtype, shape: entry.rank_shape.clone() };
        let found = written.parameters().map(|(stage, _, entry)| ((stage, entry.name.clone()), form(entry)));
        let expected = self.inventory.iter().flat_map(|(&stage, tensors)| {
            tensors.iter().map(move |(name, form)| ((stage, name.clone()), form.clone()))
        });
        compare(folder, &expected.collect(), &found.collect())
    }

    fn tensors(&self, param: &PlannedParam, value: &ShardedTensor) -> Result<Vec<Output>, ExportError> {
        let first = self.first_file.get(&param.file_stage).copied().unwrap_or(0);
        let of_rank = |rank: usize| -> Result<Vec<ByteSpan>, PartitionError> {
            match &param.partition {
                Some(partition) => Ok(value.ranges(partition.dim, &rank_ranges(partition, self.tp_size, rank)?)?),
                None => Ok(self.replica(param, value, rank)?),
            }
        };
        (0..self.tp_size)
            .map(|rank| {
                let spans = of_rank(rank).map_err(|source| indivisible(param, source))?;
                Ok(Output { file: first + rank, dtype: value.dtype(), spans })
            })
            .collect()
    }
}

impl NeoxTarget {
    /// What a rank holds of a parameter that is not partitioned.
    fn replica(&self, param: &PlannedParam, value: &ShardedTensor, rank: usize) -> Result<Vec<ByteSpan>, TensorError> {
        let is_share = self.sums_biases && param.kind == Kind::RowParallelBias;
        if !is_share && self.drift.is_none() {
            return value.all();
        }
        let mut tensor = value.joined()?;
        if is_share {
            tensor = share(&tensor, self.tp_size, rank)?;
        }
        if let Some(drift) = &self.drift {
            tensor = drift.replica(param, &tensor, rank)?;
        }
        Ok(vec![ByteSpan::whole(tensor)])
    }
}

/// What rows of zeros behind the vocabulary do.
fn padding(rows: usize, written: usize) -> Option<String> {
    (written > rows).then(|| {
        format!(
            "the vocabulary is padded from {rows} to {written} rows with zeros: the logits of these rows are 0 and take part \
             in the softmax, which can cost several percent of perplexity"
        )
    })
}

/// A rank's share of a bias that the ranks' all-reduce adds up: an equal part, and on rank 0 the remainder after rounding,
/// so that the sum is the bias.
fn share(bias: &HostTensor, tp_size: usize, rank: usize) -> Result<HostTensor, TensorError> {
    let dtype = bias.dtype();
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let count = tp_size as f64;
    let mut values = bias.to_f64()?;
    for value in &mut values {
        let part = round(*value / count, dtype);
        // The sum of negative zeros is negative zero; a remainder would not be.
        if *value != 0.0 {
            *value = if rank == 0 { *value - part * (count - 1.0) } else { part };
        }
    }
    HostTensor::from_f64(dtype, bias.shape().to_vec(), &values)
}

fn torch(path: PathBuf, root: Value, tensor_count: usize) -> FilePlan {
    FilePlan { path, content: Content::Torch(root), tensor_count }
}

/// The tensors under their names, with storages numbered in this order.
fn numbered<'t>(tensors: impl Iterator<Item = (String, &'t StoredTensor)>) -> Vec<(String, Value)> {
    let number = |(storage, (name, tensor)): (usize, (String, &StoredTensor))| {
        (name, Value::Tensor(StoredTensor { storage, ..tensor.clone() }))
    };
    tensors.enumerate().map(number).collect()
}

fn indivisible(param: &PlannedParam, source: PartitionError) -> ExportError {
    ExportError::Partition { name: param.name.clone(), source }
}
