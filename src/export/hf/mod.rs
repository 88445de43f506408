//! Directories that Hugging Face's transformers loads: `GPTNeoXForCausalLM` for models with LayerNorm, `GPT2LMHeadModel`
//! where their positions are learned; `LlamaForCausalLM` for those with an RMS norm and a gated MLP,
//! `MistralForCausalLM` where their attention has a window, `Qwen2ForCausalLM` where only queries, keys and values have
//! biases, `Qwen3ForCausalLM` where queries and keys are normalised. `model` chooses, or explains why none can be this model; `tensors` maps parameters to tensors; `config` writes
//! the JSON.

mod config;
mod model;
mod tensors;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use self::model::HfModel;
use self::tensors::{Take, TensorMap};
use super::ExportError;
use super::pipeline::Target;
use super::plan::{MergeChoice, Plan, PlannedParam};
use super::reopen::{compare, reopen};
use super::safetensors::TensorHeader;
use super::sharded_tensor::{ByteSpan, ShardedTensor};
use super::tokenizer_files::TokenizerFiles;
use super::writer::{Content, FilePlan, Output};
use crate::checkpoint::{HuggingFaceModel, ModelSource, TensorForm};
use crate::config::Architecture;
use crate::tensor::{DType, HostTensor, TensorError};

/// A directory for transformers that is to be written.
pub(super) struct HfTarget<'a> {
    architecture: &'a Architecture,
    model: HfModel,
    files: Vec<FilePlan>,
    file_of: BTreeMap<String, usize>,
    bytes: u64,
    texts: Vec<(PathBuf, String)>,
}

impl<'a> HfTarget<'a> {
    /// Distributes the tensors over files of at most `max_shard_bytes` (a larger tensor has a file of its own).
    ///
    /// # Errors
    /// transformers has no model that is this one, or would not read it.
    pub(super) fn new(
        source: &'a dyn ModelSource,
        plan: &Plan,
        choice: &MergeChoice<'_>,
        tokenizer: Option<&TokenizerFiles>,
        max_shard_bytes: u64,
    ) -> Result<Self, ExportError> {
        let architecture = source.architecture();
        let model = HfModel::of(architecture, choice.strategy.allow_inexact)?;
        let map = TensorMap { architecture, model: &model };
        let mut shards: Vec<Vec<TensorHeader>> = Vec::new();
        let (mut filled, mut bytes) = (0_u64, 0);
        for param in &plan.params {
            for (name, take) in map.tensors(param) {
                let tensor = TensorHeader { name, dtype: param.dtype, shape: take.shape(&param.shape) };
                if shards.is_empty() || filled.saturating_add(tensor.bytes()) > max_shard_bytes {
                    shards.push(Vec::new());
                    filled = 0;
                }
                filled += tensor.bytes();
                bytes += tensor.bytes();
                if let Some(shard) = shards.last_mut() {
                    shard.push(tensor);
                }
            }
        }
        let (mut files, mut file_of) = (Vec::new(), BTreeMap::new());
        let count = shards.len();
        for (at, tensors) in shards.into_iter().enumerate() {
            let path = if count == 1 {
                PathBuf::from("model.safetensors")
            } else {
                PathBuf::from(format!("model-{:05}-of-{count:05}.safetensors", at + 1))
            };
            file_of.extend(tensors.iter().map(|tensor| (tensor.name.clone(), at)));
            files.push(FilePlan { path, tensor_count: tensors.len(), content: Content::Safetensors(tensors) });
        }
        let mut texts = config::texts(&config::Settings {
            architecture,
            model: &model,
            vocab_size: plan.vocab_size,
            dtype: plan.params.first().map_or(source.dtype(), |param| param.dtype),
            unties_head: plan.unties_head,
            tokenizer,
        });
        if count > 1 {
            let file = |(name, &at): (&String, &usize)| (name.clone(), json!(files[at].path.to_string_lossy()));
            let weight_map: Map<String, Value> = file_of.iter().map(file).collect();
            let index = json!({ "metadata": { "total_size": bytes }, "weight_map": weight_map });
            texts.push(("model.safetensors.index.json".into(), config::pretty(&index)));
        }
        let target = Self { architecture, model, files, file_of, bytes, texts };
        let config = target.texts.first().map(|(_, text)| text.as_bytes()).unwrap_or_default();
        HuggingFaceModel::check(Path::new("config.json"), config, target.forms())?;
        Ok(target)
    }

    fn forms(&self) -> BTreeMap<String, TensorForm> {
        let headers = self.files.iter().flat_map(|file| match &file.content {
            Content::Safetensors(tensors) => tensors.as_slice(),
            Content::Torch(_) => &[],
        });
        let form = |tensor: &TensorHeader| TensorForm { dtype: tensor.dtype, shape: tensor.shape.clone() };
        headers.map(|tensor| (tensor.name.clone(), form(tensor))).collect()
    }
}

impl Target for HfTarget<'_> {
    fn files(&self) -> &[FilePlan] {
        &self.files
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn texts(&self) -> &[(PathBuf, String)] {
        &self.texts
    }

    fn check_written(&self, folder: &Path) -> Result<(), ExportError> {
        let written = reopen(folder, || HuggingFaceModel::open(folder))?;
        compare(folder, &self.forms(), &written.tensors())
    }

    fn tensors(&self, param: &PlannedParam, value: &ShardedTensor) -> Result<Vec<Output>, ExportError> {
        let map = TensorMap { architecture: self.architecture, model: &self.model };
        let output = |(name, take): (String, Take)| {
            let spans = match &take {
                Take::All => value.all(),
                Take::Rows(ranges) => value.ranges(0, ranges),
                Take::Transposed(ranges) => transposed(value, ranges.as_deref()),
                Take::Fill(number, shape) => {
                    fill(*number, shape, value.dtype()).map(|tensor| vec![ByteSpan::whole(tensor)])
                }
            };
            let spans = spans.map_err(|source| ExportError::Tensor { name: name.clone(), source })?;
            let file = self.file_of.get(&name).copied().unwrap_or(0);
            Ok(Output { file, dtype: value.dtype(), spans })
        };
        map.tensors(param).into_iter().map(output).collect()
    }
}

fn transposed(value: &ShardedTensor, rows: Option<&[Range<usize>]>) -> Result<Vec<ByteSpan>, TensorError> {
    let spans = rows.map_or_else(|| value.all(), |rows| value.ranges(0, rows))?;
    let bytes = spans.iter().map(ByteSpan::bytes).collect::<Vec<_>>().concat();
    let tensor = HostTensor::new(value.dtype(), value.shape().to_vec(), bytes)?;
    Ok(vec![ByteSpan::whole(tensor.transposed()?)])
}

fn fill(number: f64, shape: &[usize], dtype: DType) -> Result<HostTensor, TensorError> {
    HostTensor::from_f64(dtype, shape.to_vec(), &vec![number; shape.iter().product()])
}
