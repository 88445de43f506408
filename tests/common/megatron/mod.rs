//! Tiny checkpoints as Megatron-LM writes them, of every year, from a model in the order of the partition table. Nothing here
//! is shared with the reader.

pub mod pickle;

use std::path::Path;

use kintsugi::checkpoint::ModelSource as _;
use kintsugi::config::{Activation, Architecture, Head, Norm, Positions, QkvLayout, QueryKeyNorm};
use kintsugi::export::synth::SynthOptions;
use kintsugi::partition::{Kind, ParamValue, PartitionTable, Role, StageId, StageTensors, split};
use kintsugi::tensor::{HostTensor, Piece, concatenate};
use serde_json::{Map, Value, json};

use super::TinyModel;
pub use pickle::RankContents;

/// Whose names the parameters have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `transformer`, `attention`: 2019 to 2021.
    Oldest,
    /// `encoder`, `self_attention`: 2021 to 2023.
    Legacy,
    /// The same with `input_norm` and its siblings.
    LateLegacy,
    /// Megatron core's local layers.
    Core,
    /// Megatron core's layers of Transformer Engine.
    TransformerEngine,
}

impl Naming {
    pub const ALL: [Self; 5] = [Self::Oldest, Self::Legacy, Self::LateLegacy, Self::Core, Self::TransformerEngine];

    pub fn is_legacy(self) -> bool {
        !matches!(self, Self::Core | Self::TransformerEngine)
    }

    /// A parameter's name: whole, or in a layer.
    fn name(self, role: Role) -> &'static str {
        let (legacy, late, local, engine) = match role {
            Role::WordEmbedding => ("embedding.word_embeddings.weight", "", "embedding.word_embeddings.weight", ""),
            Role::PositionEmbedding => {
                ("embedding.position_embeddings.weight", "", "embedding.position_embeddings.weight", "")
            }
            Role::HeadWeight => ("output_layer.weight", "", "output_layer.weight", ""),
            Role::FinalNormGain => ("final_layernorm.weight", "final_norm.weight", "final_layernorm.weight", ""),
            Role::FinalNormBias => ("final_layernorm.bias", "final_norm.bias", "final_layernorm.bias", ""),
            Role::InputNormGain => (
                "input_layernorm.weight",
                "input_norm.weight",
                "input_layernorm.weight",
                "self_attention.linear_qkv.layer_norm_weight",
            ),
            Role::InputNormBias => (
                "input_layernorm.bias",
                "input_norm.bias",
                "input_layernorm.bias",
                "self_attention.linear_qkv.layer_norm_bias",
            ),
            Role::MlpNormGain => (
                "post_attention_layernorm.weight",
                "post_attention_norm.weight",
                "pre_mlp_layernorm.weight",
                "mlp.linear_fc1.layer_norm_weight",
            ),
            Role::MlpNormBias => (
                "post_attention_layernorm.bias",
                "post_attention_norm.bias",
                "pre_mlp_layernorm.bias",
                "mlp.linear_fc1.layer_norm_bias",
            ),
            Role::QkvWeight => ("self_attention.query_key_value.weight", "", "self_attention.linear_qkv.weight", ""),
            Role::QkvBias => ("self_attention.query_key_value.bias", "", "self_attention.linear_qkv.bias", ""),
            Role::AttentionOutputWeight => ("self_attention.dense.weight", "", "self_attention.linear_proj.weight", ""),
            Role::AttentionOutputBias => ("self_attention.dense.bias", "", "self_attention.linear_proj.bias", ""),
            Role::MlpInputWeight => ("mlp.dense_h_to_4h.weight", "", "mlp.linear_fc1.weight", ""),
            Role::MlpInputBias => ("mlp.dense_h_to_4h.bias", "", "mlp.linear_fc1.bias", ""),
            Role::MlpOutputWeight => ("mlp.dense_4h_to_h.weight", "", "mlp.linear_fc2.weight", ""),
            Role::MlpOutputBias => ("mlp.dense_4h_to_h.bias", "", "mlp.linear_fc2.bias", ""),
            Role::QueryNormGain => ("", "", "self_attention.q_layernorm.weight", ""),
            Role::QueryNormBias => ("", "", "self_attention.q_layernorm.bias", ""),
            Role::KeyNormGain => ("", "", "self_attention.k_layernorm.weight", ""),
            Role::KeyNormBias => ("", "", "self_attention.k_layernorm.bias", ""),
            other => panic!("Megatron has no {other:?}"),
        };
        let (name, other) = match self {
            Self::Oldest | Self::Legacy => (legacy, ""),
            Self::LateLegacy => (legacy, late),
            Self::Core => (local, ""),
            Self::TransformerEngine => (local, engine),
        };
        if other.is_empty() { name } else { other }
    }

    /// The name in a file, of a layer counted from 0 in its stage.
    fn whole_name(self, stage: StageId, layer: usize, role: Role) -> String {
        let name = self.name(role);
        let name = if self == Self::Oldest { name.replace("self_attention.", "attention.") } else { name.to_owned() };
        let stack = match self {
            Self::Oldest => "language_model.transformer.",
            Self::Legacy | Self::LateLegacy => "language_model.encoder.",
            Self::Core | Self::TransformerEngine => "decoder.",
        };
        let outer = if self.is_legacy() { "language_model." } else { "" };
        match (stage, role) {
            (StageId::Layer(_), _) => format!("{stack}layers.{layer}.{name}"),
            (_, Role::FinalNormGain | Role::FinalNormBias) => format!("{stack}{name}"),
            _ => format!("{outer}{name}"),
        }
    }
}

/// How a model is written.
#[derive(Debug, Clone)]
pub struct Writing {
    pub naming: Naming,
    /// `checkpoint_version`: `None` (rows `[3, heads, head size]`), 1.0 (`[heads, head size, 3]`) or from 2.0.
    pub version: Option<f64>,
    pub tensor_ranks: usize,
    pub pipeline_ranks: usize,
    /// Layers of every virtual pipeline stage, in the order in which they run.
    pub chunk_layers: Vec<usize>,
    pub zip: bool,
    /// Whether elements are rotated in pairs.
    pub paired_rotation: bool,
    pub zero_centred: bool,
}

impl Writing {
    /// Megatron core's files of today, without pipelines.
    pub fn new(architecture: &Architecture, tensor_ranks: usize) -> Self {
        Self {
            naming: Naming::Core,
            version: Some(3.0),
            tensor_ranks,
            pipeline_ranks: 1,
            chunk_layers: vec![architecture.layer_count],
            zip: true,
            paired_rotation: false,
            zero_centred: false,
        }
    }

    /// The arguments that Megatron of that time saves with such a model.
    pub fn args(&self, architecture: &Architecture) -> Map<String, Value> {
        let a = architecture;
        let legacy = self.naming.is_legacy();
        let mut args = json!({
            "num_layers": a.layer_count,
            "hidden_size": a.hidden_size,
            "num_attention_heads": a.head_count,
            "max_position_embeddings": a.max_position_embeddings,
            "seq_length": a.max_position_embeddings,
            "padded_vocab_size": a.padded_vocab_size,
            "make_vocab_size_divisible_by": 1,
            "layernorm_epsilon": a.norm_epsilon,
            "bias_gelu_fusion": a.tanh_gelu,
            "openai_gelu": false,
            "onnx_safe": a.onnx_gelu.then_some(true),
            "hidden_dropout": 0.1,
            "rank": 3,
        });
        let mut set = |field: &str, value: Value| args[field] = value;
        if self.version.is_some_and(|version| version >= 2.0) {
            set("tensor_model_parallel_size", self.tensor_ranks.into());
            set("pipeline_model_parallel_size", self.pipeline_ranks.into());
            set("kv_channels", a.head_size.into());
            set("ffn_hidden_size", a.mlp_inner_size.into());
        } else {
            set("model_parallel_size", self.tensor_ranks.into());
            assert!(self.pipeline_ranks == 1 && a.head_size * a.head_count == a.hidden_size);
        }
        if !matches!(self.naming, Naming::Oldest | Naming::Legacy) {
            set("normalization", if a.norm == Norm::RmsNorm { "RMSNorm" } else { "LayerNorm" }.into());
            set("group_query_attention", (a.qkv == QkvLayout::Blocks).into());
            set("num_query_groups", if a.qkv == QkvLayout::Blocks { a.kv_head_count } else { 1 }.into());
            set("add_bias_linear", a.mlp_bias.into());
            set("add_qkv_bias", a.qkv_bias.into());
            set("swiglu", (a.activation == Activation::SwiGlu).into());
            set("squared_relu", (a.activation == Activation::SquaredRelu).into());
            set("untie_embeddings_and_output_weights", (a.head == Head::Column).into());
            set("qk_layernorm", (a.query_key_norm == Some(QueryKeyNorm::PerHead)).into());
            set("rotary_interleaved", self.paired_rotation.into());
            let centred = if legacy { "apply_layernorm_1p" } else { "layernorm_zero_centered_gamma" };
            set(centred, self.zero_centred.into());
            // False whatever the positions are.
            set("use_rotary_position_embeddings", false.into());
            let kind = match a.positions {
                Positions::Rotary { dims, base, scaling } => {
                    set("rotary_percent", (dims as f64 / a.head_size as f64).into());
                    set("rotary_base", base.into());
                    set("use_rope_scaling", scaling.is_some().into());
                    "rope"
                }
                Positions::Learned { .. } => "learned_absolute",
                Positions::Absent => "none",
                _ => panic!("Megatron has no such positions"),
            };
            set("position_embedding_type", kind.into());
        }
        if let Some(tokens) = a.sliding_window {
            set("window_size", json!([tokens, 0]));
            let windowed: Vec<_> = (0..a.layer_count).map(|layer| i32::from(a.is_flash(layer))).collect();
            set("window_attn_skip_freq", json!(windowed));
        }
        match args {
            Value::Object(args) => args,
            _ => unreachable!("an object"),
        }
    }

    /// The contents of every rank's file, by pipeline rank, then tensor-parallel rank.
    pub fn files(&self, architecture: &Architecture, stages: &[StageTensors]) -> Vec<Vec<RankContents>> {
        let args = self.args(architecture);
        let virtual_stages = self.chunk_layers.len() / self.pipeline_ranks;
        let empty = RankContents {
            args: Some(args),
            version: self.version,
            iteration: 7,
            models: (0..virtual_stages)
                .map(|number| if virtual_stages == 1 { "model".to_owned() } else { format!("model{number}") })
                .map(|key| (key, Vec::new()))
                .collect(),
            nested: self.naming.is_legacy(),
            zip: self.zip,
        };
        let mut files = vec![vec![empty; self.tensor_ranks]; self.pipeline_ranks];
        let mut put = |chunk: usize, name: &str, tensors: Vec<HostTensor>| {
            let (pipeline, number) = (chunk % self.pipeline_ranks, chunk / self.pipeline_ranks);
            for (file, tensor) in files[pipeline].iter_mut().zip(tensors) {
                file.models[number].1.push((name.to_owned(), tensor));
            }
        };
        let last = self.chunk_layers.len() - 1;
        let places: Vec<(usize, usize)> = self
            .chunk_layers
            .iter()
            .enumerate()
            .flat_map(|(chunk, &layers)| (0..layers).map(move |layer| (chunk, layer)))
            .collect();
        for stage in stages {
            let (chunk, layer) = match stage.id {
                StageId::Embedding => (0, 0),
                StageId::Layer(number) => places[number],
                StageId::Output => (last, 0),
            };
            for (&role, _) in &stage.params {
                let tied = role == Role::HeadWeight && architecture.head == Head::Tied;
                // A tied head has a copy where the embedding is in another stage.
                if tied && last == 0 {
                    continue;
                }
                let name = match tied && self.naming.is_legacy() {
                    true => "word_embeddings_for_head.weight".to_owned(),
                    false => self.naming.whole_name(stage.id, layer, role),
                };
                put(chunk, &name, self.shards(architecture, stage, role));
            }
        }
        files
    }

    /// Writes a save folder of one step.
    pub fn write(&self, architecture: &Architecture, stages: &[StageTensors], folder: &Path) {
        fs_err::create_dir_all(folder).unwrap();
        fs_err::write(folder.join("latest_checkpointed_iteration.txt"), "7").unwrap();
        for (pipeline, ranks) in self.files(architecture, stages).iter().enumerate() {
            for (rank, contents) in ranks.iter().enumerate() {
                contents.write(&folder.join(rank_file(self.pipeline_ranks, pipeline, rank)));
            }
        }
    }

    /// Each rank's tensor of a parameter, in Megatron's order of rows.
    fn shards(&self, architecture: &Architecture, stage: &StageTensors, role: Role) -> Vec<HostTensor> {
        let param = &stage.params[&role];
        let shards = match &param.value {
            ParamValue::Replicas(replicas) => replicas.clone(),
            ParamValue::Joined(joined) => {
                let partition = PartitionTable::new(architecture).partition(role).unwrap();
                split(&partition, joined, self.tensor_ranks).unwrap()
            }
        };
        let stored = |shard: HostTensor| {
            if !(self.zero_centred && param.kind == Kind::NormGain) {
                return shard;
            }
            let stored: Vec<f64> = shard.to_f64().unwrap().iter().map(|gain| gain - 1.0).collect();
            HostTensor::from_f64(shard.dtype(), shard.shape().to_vec(), &stored).unwrap()
        };
        let arranged = |shard: HostTensor| match role {
            Role::QkvWeight | Role::QkvBias => gather(&shard, &self.qkv_rows(architecture)),
            Role::QueryNormGain | Role::QueryNormBias | Role::KeyNormGain | Role::KeyNormBias => gather(
                &shard,
                &(0..architecture.head_size).map(|at| self.element(architecture, at)).collect::<Vec<_>>(),
            ),
            Role::MlpInputWeight | Role::MlpInputBias if architecture.gated => {
                let half = shard.shape()[0] / 2;
                gather(&shard, &(half..2 * half).chain(0..half).collect::<Vec<_>>())
            }
            _ => shard,
        };
        shards.into_iter().map(stored).map(arranged).collect()
    }

    /// The element of a head in the table's order that Megatron has at `at`.
    fn element(&self, architecture: &Architecture, at: usize) -> usize {
        match architecture.positions {
            Positions::Rotary { dims, .. } if self.paired_rotation && at < dims => at / 2 + at % 2 * (dims / 2),
            _ => at,
        }
    }

    /// The rows of a rank in the table's order, as Megatron writes them.
    fn qkv_rows(&self, architecture: &Architecture) -> Vec<usize> {
        let heads = architecture.head_count / self.tensor_ranks;
        let groups = architecture.kv_head_count / self.tensor_ranks;
        let size = architecture.head_size;
        // In the table's order.
        let row = |part: usize, head: usize, element: usize| {
            let element = if part == 2 { element } else { self.element(architecture, element) };
            match architecture.qkv {
                QkvLayout::Interleaved => (head * 3 + part) * size + element,
                QkvLayout::Blocks => ([0, heads, heads + groups][part] + head) * size + element,
                QkvLayout::InterleavedGroups => panic!("not Megatron's"),
            }
        };
        let mut rows = Vec::new();
        match self.version {
            None => {
                for part in 0..3 {
                    for head in 0..heads {
                        rows.extend((0..size).map(|element| row(part, head, element)));
                    }
                }
            }
            Some(1.0) => {
                for head in 0..heads {
                    for element in 0..size {
                        rows.extend((0..3).map(|part| row(part, head, element)));
                    }
                }
            }
            Some(_) => {
                for group in 0..groups {
                    let queries = heads / groups;
                    for head in group * queries..(group + 1) * queries {
                        rows.extend((0..size).map(|element| row(0, head, element)));
                    }
                    rows.extend((0..size).map(|element| row(1, group, element)));
                    rows.extend((0..size).map(|element| row(2, group, element)));
                }
            }
        }
        rows
    }
}

/// A tiny model of two layers and two ranks that Megatron could have trained, and its stages.
pub fn tiny(change: impl FnOnce(&mut SynthOptions)) -> (Architecture, Vec<StageTensors>) {
    let model = TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.drift = 0.02;
        change(options);
    });
    let files = model.write();
    let checkpoint = files.open();
    let stages = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap()).collect();
    (checkpoint.architecture().clone(), stages)
}

/// A tiny checkpoint in a folder: Megatron core's, LayerNorm, rotary positions, biases, an output layer of its own.
pub fn write_tiny(folder: &Path) {
    let (architecture, stages) = tiny(|_| {});
    Writing::new(&architecture, 2).write(&architecture, &stages, folder);
}

/// Rewrites the file of a rank with other contents.
pub fn edit(folder: &Path, rank: usize, change: impl FnOnce(&mut RankContents)) {
    let (architecture, stages) = tiny(|_| {});
    let mut contents = Writing::new(&architecture, 2).files(&architecture, &stages).remove(0).remove(rank);
    change(&mut contents);
    contents.write(&folder.join(rank_file(1, 0, rank)));
}

/// The path of a rank's file in a save folder.
pub fn rank_file(pipeline_ranks: usize, pipeline: usize, rank: usize) -> String {
    let suffix = if pipeline_ranks > 1 { format!("_{pipeline:03}") } else { String::new() };
    format!("iter_0000007/mp_rank_{rank:02}{suffix}/model_optim_rng.pt")
}

fn gather(tensor: &HostTensor, rows: &[usize]) -> HostTensor {
    let pieces: Vec<_> = rows.iter().map(|&row| Piece { tensor, range: row..row + 1 }).collect();
    concatenate(0, &pieces).unwrap()
}
