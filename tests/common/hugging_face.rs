//! Hugging Face directories for tests, made of tiny checkpoints.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, ModelSource as _};
use kintsugi::config::{Architecture, Positions, Residual};
use kintsugi::export::save_tensors;
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::{Role, StageId};
use kintsugi::tensor::{DType, HostTensor, Piece, concatenate};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

/// `config.json` and weights of a GPT-NeoX model in transformers' names, to be changed before they are written.
#[derive(Debug, Clone)]
pub struct HuggingFace {
    pub config: Map<String, Value>,
    pub tensors: BTreeMap<String, HostTensor>,
}

impl HuggingFace {
    /// What a strategy makes of a checkpoint.
    pub fn merged(checkpoint: &Checkpoint, strategy: &str) -> Self {
        let (architecture, strategy) = (checkpoint.architecture(), Strategy::resolve(strategy).unwrap());
        let mut tensors = BTreeMap::new();
        for id in checkpoint.stage_ids() {
            let stage = checkpoint.read_stage(id).unwrap();
            let merged = StageMerger::new(&stage, architecture).merge(&strategy, &mut Exactness::default()).unwrap();
            for (&role, param) in &merged.params {
                if let Some(name) = name(id, role).filter(|_| !(tied(architecture) && role == Role::HeadWeight)) {
                    tensors.insert(name, param.value.tensors()[0].clone());
                }
            }
        }
        let Value::Object(config) = config(architecture) else { unreachable!() };
        Self { config, tensors }
    }

    /// A directory with one safetensors file.
    pub fn read(folder: &Path) -> Self {
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let bytes = fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (String, TensorView<'_>)| {
            let dtype = match view.dtype() {
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::F32 => DType::F32,
                other => panic!("{other:?}"),
            };
            (name, HostTensor::new(dtype, view.shape().to_vec(), view.data().to_vec()).unwrap())
        };
        Self { config, tensors: tensors.tensors().into_iter().map(tensor).collect() }
    }

    /// Writes `pytorch_model.bin`.
    pub fn write_pickled(&self, folder: &Path) {
        self.write_config(folder);
        save_tensors(
            &folder.join("pytorch_model.bin"),
            self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)),
        )
        .unwrap();
    }

    /// The same with another number of vocabulary rows; further ones are like the first.
    pub fn with_vocabulary(mut self, rows: usize) -> Self {
        for name in ["gpt_neox.embed_in.weight", "embed_out.weight"] {
            let Some(tensor) = self.tensors.get(name) else { continue };
            let (kept, further) = (rows.min(tensor.shape()[0]), rows.saturating_sub(tensor.shape()[0]));
            let pieces = [Piece { tensor, range: 0..kept }, Piece { tensor, range: 0..further }];
            self.tensors.insert(name.to_owned(), concatenate(0, &pieces).unwrap());
        }
        self.config.insert("vocab_size".to_owned(), json!(rows));
        self
    }

    /// Writes one safetensors file.
    pub fn write(&self, folder: &Path) {
        self.write_config(folder);
        write_safetensors(&folder.join("model.safetensors"), self.tensors.iter());
    }

    /// Writes two safetensors files and their index.
    pub fn write_sharded(&self, folder: &Path) {
        self.write_config(folder);
        let mut places = Map::new();
        for (shard, file) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate()
        {
            let part = || self.tensors.iter().skip(shard).step_by(2);
            write_safetensors(&folder.join(file), part());
            places.extend(part().map(|(name, _)| (name.clone(), json!(file))));
        }
        let index = json!({ "metadata": { "total_size": 0 }, "weight_map": places });
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    fn write_config(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("config.json"), Value::Object(self.config.clone()).to_string()).unwrap();
    }

    /// Changes one element of a tensor.
    pub fn set_element(&mut self, name: &str, index: usize, value: f64) {
        let tensor = &self.tensors[name];
        let mut values = tensor.to_f64().unwrap();
        values[index] = value;
        let changed = HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &values).unwrap();
        self.tensors.insert(name.to_owned(), changed);
    }
}

pub fn write_safetensors<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a HostTensor)>) {
    let view = |tensor: &'a HostTensor| {
        let dtype = match tensor.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::F32 => Dtype::F32,
            DType::U8 => Dtype::U8,
            other => panic!("{other}"),
        };
        TensorView::new(dtype, tensor.shape().to_vec(), tensor.bytes()).unwrap()
    };
    let views: Vec<_> = tensors.map(|(name, tensor)| (name.as_str(), view(tensor))).collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn tied(architecture: &Architecture) -> bool {
    architecture.head == kintsugi::config::Head::Tied
}

/// After transformers' `modeling_gpt_neox.py`.
fn name(stage: StageId, role: Role) -> Option<String> {
    let name = match role {
        Role::WordEmbedding => "gpt_neox.embed_in.weight",
        Role::FinalNormGain => "gpt_neox.final_layer_norm.weight",
        Role::FinalNormBias => "gpt_neox.final_layer_norm.bias",
        Role::HeadWeight => "embed_out.weight",
        Role::InputNormGain => "input_layernorm.weight",
        Role::InputNormBias => "input_layernorm.bias",
        Role::MlpNormGain => "post_attention_layernorm.weight",
        Role::MlpNormBias => "post_attention_layernorm.bias",
        Role::QkvWeight => "attention.query_key_value.weight",
        Role::QkvBias => "attention.query_key_value.bias",
        Role::AttentionOutputWeight => "attention.dense.weight",
        Role::AttentionOutputBias => "attention.dense.bias",
        Role::MlpInputWeight => "mlp.dense_h_to_4h.weight",
        Role::MlpInputBias => "mlp.dense_h_to_4h.bias",
        Role::MlpOutputWeight => "mlp.dense_4h_to_h.weight",
        Role::MlpOutputBias => "mlp.dense_4h_to_h.bias",
        _ => return None,
    };
    Some(match stage {
        StageId::Layer(number) => format!("gpt_neox.layers.{number}.{name}"),
        _ => name.to_owned(),
    })
}

fn config(architecture: &Architecture) -> Value {
    let Positions::Rotary { dims, base, .. } = architecture.positions else { panic!("not rotary") };
    #[expect(clippy::cast_precision_loss, reason = "elements of a head")]
    let share = dims as f64 / architecture.head_size as f64;
    json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.layer_count,
        "num_attention_heads": architecture.head_count,
        "intermediate_size": architecture.mlp_inner_size,
        "vocab_size": architecture.padded_vocab_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        "hidden_act": if architecture.tanh_gelu { "gelu_new" } else { "gelu" },
        "layer_norm_eps": architecture.norm_epsilon,
        "rotary_pct": share,
        "rotary_emb_base": base,
        "use_parallel_residual": architecture.residual == Residual::Parallel,
        "tie_word_embeddings": tied(architecture),
        "torch_dtype": "float32",
    })
}
