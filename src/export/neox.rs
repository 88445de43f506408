//! gpt-neox's own format for any number of ranks: the source's layout, the source's names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::pipeline::Target;
use super::plan::{Plan, PlannedParam};
use super::spread::{Span, Spread};
use super::writer::{Content, FilePlan, Output};
use super::{ExportError, StoredTensor, Value};
use crate::checkpoint::{Checkpoint, Layout};
use crate::config::{Architecture, ClientArgs};
use crate::partition::{Kind, PartitionError, rank_ranges};
use crate::tensor::{DType, HostTensor, TensorError, round};

/// A gpt-neox checkpoint that is to be written.
pub(super) struct NeoxTarget<'a> {
    architecture: &'a Architecture,
    tp_size: usize,
    files: Vec<FilePlan>,
    /// Number of the first rank's file by stage; with [`Layout::RankFiles`] all stages are in file 0 and on.
    first_file: BTreeMap<usize, usize>,
}

/// What stands in the client state.
#[derive(Debug, Clone)]
pub(super) struct ClientState {
    pub iteration: u64,
    pub args: ClientArgs,
}

impl<'a> NeoxTarget<'a> {
    /// Plans the files below `step`, the name of the `global_stepN` directory.
    ///
    /// # Errors
    /// A parameter that does not divide among the ranks.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &Plan,
        tp_size: usize,
        step: &str,
        client: &ClientState,
    ) -> Result<Self, ExportError> {
        let (architecture, layout) = (checkpoint.architecture(), checkpoint.layout());
        let mut stages: BTreeMap<usize, Vec<(String, StoredTensor)>> = BTreeMap::new();
        for param in &plan.params {
            let mut shape = param.shape.clone();
            if let Some(partition) = &param.partition {
                rank_ranges(partition, tp_size, 0).map_err(|source| indivisible(param, source))?;
                shape[partition.dim] /= tp_size;
            }
            let tensor = StoredTensor { storage: 0, dtype: param.dtype, shape };
            stages.entry(param.file_stage).or_default().push((param.name.clone(), tensor));
        }
        let step = Path::new(step);
        let rank_path = |tp_rank: usize| step.join(format!("mp_rank_{tp_rank:02}_model_states.pt"));
        let (mut files, mut first_file) = (Vec::new(), BTreeMap::new());
        match layout {
            Layout::LayerFiles => {
                for (&stage, tensors) in &stages {
                    first_file.insert(stage, files.len());
                    let content = Value::OrderedDict(numbered(tensors.iter().map(|(name, t)| (name.clone(), t))));
                    let path = |rank: usize| step.join(format!("layer_{stage:02}-model_{rank:02}-model_states.pt"));
                    files.extend((0..tp_size).map(|rank| torch(path(rank), content.clone(), tensors.len())));
                }
                let state = client.value(Value::None, tp_size);
                files.extend((0..tp_size).map(|rank| torch(rank_path(rank), state.clone(), 0)));
            }
            Layout::RankFiles => {
                // In the order in which they come: stage by stage as planned, not by number.
                let named = plan.params.iter().filter_map(|param| {
                    let tensors = stages.get(&param.file_stage)?;
                    let (name, tensor) = tensors.iter().find(|(name, _)| *name == param.name)?;
                    Some((format!("sequential.{}.{name}", param.file_stage), tensor))
                });
                let module = Value::OrderedDict(numbered(named));
                let state = client.value(module, tp_size);
                files.extend((0..tp_size).map(|rank| torch(rank_path(rank), state.clone(), plan.params.len())));
                first_file.extend(stages.keys().map(|&stage| (stage, 0)));
            }
        }
        Ok(Self { architecture, tp_size, files, first_file })
    }
}

impl Target for NeoxTarget<'_> {
    fn files(&self) -> &[FilePlan] {
        &self.files
    }

    fn tensors(&self, param: &PlannedParam, value: &Spread) -> Result<Vec<Output>, ExportError> {
        let first = self.first_file.get(&param.file_stage).copied().unwrap_or(0);
        let of_rank = |rank: usize| -> Result<Vec<Span>, PartitionError> {
            match &param.partition {
                Some(partition) => Ok(value.ranges(partition.dim, &rank_ranges(partition, self.tp_size, rank)?)?),
                None if self.is_summed(param) => Ok(vec![Span::whole(share(value, self.tp_size, rank)?)]),
                None => Ok(value.all()?),
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

impl NeoxTarget<'_> {
    /// Whether the model adds up what the ranks hold, so that each must hold a share.
    fn is_summed(&self, param: &PlannedParam) -> bool {
        self.tp_size > 1 && param.kind == Kind::RowParallelBias && !self.architecture.biases_after_reduction()
    }
}

/// A rank's share of a bias that the ranks' all-reduce adds up: an equal part, and on rank 0 what rounding leaves, so
/// that the sum is the bias.
fn share(bias: &Spread, tp_size: usize, rank: usize) -> Result<HostTensor, TensorError> {
    let dtype = bias.dtype();
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let count = tp_size as f64;
    let bytes: Vec<u8> = bias.all()?.iter().flat_map(|span| span.bytes().to_vec()).collect();
    let mut values = HostTensor::new(dtype, bias.shape().to_vec(), bytes)?.to_f64()?;
    for value in &mut values {
        let part = round(*value / count, dtype);
        *value = if rank == 0 { *value - part * (count - 1.0) } else { part };
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

impl ClientState {
    /// What `mp_rank_*` files hold: what gpt-neox and DeepSpeed ask for on loading, without optimizer and random states.
    fn value(&self, module: Value, tp_size: usize) -> Value {
        let int = |value: usize| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
        let iteration = Value::Int(i64::try_from(self.iteration).unwrap_or(i64::MAX));
        let size = |value: Option<usize>| value.map_or(Value::None, int);
        let args = &self.args;
        let args = [
            ("num_layers", size(args.num_layers)),
            ("hidden_size", size(args.hidden_size)),
            ("num_attention_heads", size(args.num_attention_heads)),
            ("max_position_embeddings", size(args.max_position_embeddings)),
            ("make_vocab_size_divisible_by", size(args.make_vocab_size_divisible_by)),
            ("padded_vocab_size", size(args.padded_vocab_size)),
            ("tokenizer_type", args.tokenizer_type.clone().map_or(Value::None, Value::Str)),
            ("model_parallel_size", size(args.model_parallel_size)),
        ];
        let keyed = |entries: Vec<(&str, Value)>| {
            Value::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        };
        keyed(vec![
            ("module", module),
            ("optimizer", Value::None),
            ("lr_scheduler", Value::None),
            // DeeperSpeed of 2021 asks for the one, DeepSpeed since for the other.
            ("csr_tensor_module_names", Value::List(Vec::new())),
            ("sparse_tensor_module_names", Value::List(Vec::new())),
            ("skipped_steps", Value::Int(0)),
            ("global_steps", iteration.clone()),
            ("global_samples", Value::Int(0)),
            ("dp_world_size", Value::Int(1)),
            ("mp_world_size", int(tp_size)),
            ("iteration", iteration),
            ("args", keyed(args.to_vec())),
        ])
    }
}

/// The type whose name stands in a configuration for most of a model's tensors.
pub(super) fn precision_word(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "fp16",
        DType::BF16 => "bfloat16",
        _ => "fp32",
    }
}
