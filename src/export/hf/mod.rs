//! Directories that Hugging Face's transformers loads: `GPTNeoXForCausalLM` for models with LayerNorm,
//! `LlamaForCausalLM` for those with an RMS norm and a gated MLP. `model` says which, or why neither can be this model;
//! `tensors` what each parameter becomes; `config` writes the JSON.

mod config;
mod model;
mod tensors;

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use self::model::HfModel;
use self::tensors::{Take, TensorMap};
use super::ExportError;
use super::pipeline::Target;
use super::plan::{Plan, PlannedParam};
use super::safetensors::TensorHeader;
use super::spread::{Span, Spread};
use super::tokenizer_files::TokenizerFiles;
use super::writer::{Content, FilePlan, Output};
use crate::checkpoint::Checkpoint;
use crate::config::Architecture;
use crate::tensor::{DType, HostTensor, TensorError};

/// A directory for transformers that is to be written.
pub(super) struct HfTarget<'a> {
    architecture: &'a Architecture,
    model: HfModel,
    files: Vec<FilePlan>,
    /// The file of each tensor.
    file_of: HashMap<String, usize>,
    bytes: u64,
    dtype: DType,
}

impl<'a> HfTarget<'a> {
    /// Distributes the tensors over files of at most `max_shard_bytes` (a larger tensor has a file of its own).
    ///
    /// # Errors
    /// transformers has no model that is this one.
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        plan: &Plan,
        max_shard_bytes: u64,
        allow_inexact: bool,
    ) -> Result<Self, ExportError> {
        let architecture = checkpoint.architecture();
        let model = HfModel::of(architecture, allow_inexact)?;
        let map = TensorMap { architecture, model: &model };
        let mut shards: Vec<Vec<TensorHeader>> = Vec::new();
        let (mut filled, mut bytes) = (u64::MAX, 0);
        for param in &plan.params {
            for (name, take) in map.tensors(param) {
                let tensor = TensorHeader { name, dtype: param.dtype, shape: take.shape(&param.shape) };
                if filled.saturating_add(tensor.bytes()) > max_shard_bytes {
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
        let (mut files, mut file_of) = (Vec::new(), HashMap::new());
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
        let dtype = plan.params.first().map_or(checkpoint.dtype(), |param| param.dtype);
        Ok(Self { architecture, model, files, file_of, bytes, dtype })
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The texts beside the weights.
    ///
    /// # Errors
    /// None in practice: JSON of our own making.
    pub(super) fn texts(
        &self,
        plan: &Plan,
        vocab_size: usize,
        tokenizer: Option<&TokenizerFiles>,
    ) -> Vec<(PathBuf, String)> {
        let mut texts = config::texts(&config::Facts {
            architecture: self.architecture,
            model: &self.model,
            vocab_size,
            dtype: self.dtype,
            unties_head: plan.unties_head,
            tokenizer,
        });
        if self.files.len() > 1 {
            let mut places: Vec<_> = self.file_of.iter().collect();
            places.sort();
            let weight_map: Map<String, Value> = places
                .into_iter()
                .map(|(name, &file)| (name.clone(), json!(self.files[file].path.to_string_lossy())))
                .collect();
            let index = json!({ "metadata": { "total_size": self.bytes }, "weight_map": weight_map });
            texts.push(("model.safetensors.index.json".into(), config::pretty(&index)));
        }
        texts
    }
}

impl Target for HfTarget<'_> {
    fn files(&self) -> &[FilePlan] {
        &self.files
    }

    fn tensors(&self, param: &PlannedParam, value: &Spread) -> Result<Vec<Output>, ExportError> {
        let map = TensorMap { architecture: self.architecture, model: &self.model };
        let output = |(name, take): (String, Take)| {
            let spans = match &take {
                Take::All => value.all(),
                Take::Rows(ranges) => value.ranges(0, ranges),
                Take::Fill(number, shape) => {
                    fill(*number, shape, value.dtype()).map(|tensor| vec![Span::whole(tensor)])
                }
            };
            let spans = spans.map_err(|source| ExportError::Tensor { name: name.clone(), source })?;
            let file = self.file_of.get(&name).copied().unwrap_or(0);
            Ok(Output { file, dtype: value.dtype(), spans })
        };
        map.tensors(param).into_iter().map(output).collect()
    }
}

/// A tensor of one number.
fn fill(number: f64, shape: &[usize], dtype: DType) -> Result<HostTensor, TensorError> {
    HostTensor::from_f64(dtype, shape.to_vec(), &vec![number; shape.iter().product()])
}
