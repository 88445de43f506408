//! Properties of the model that only the files of a checkpoint show.

use super::choices::{MlpType, OutputLayerParallelism, Precision};
use super::forms::Head;
use super::neox::NeoxConfig;
use super::quirk_setting::QuirkSetting;

/// A module that has a name of its own in the files.
struct Module {
    setting: &'static str,
    is_set: bool,
    name: &'static str,
    others: &'static [&'static str],
}

const MLP: &[&str] = &["mlp.linear1", "mlp.dense_h_to_4h", "mlp.fc1", "mlp.w1"];

#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub tp_size: usize,
    /// Width of the MLP between its two layers, all ranks together (after gating).
    pub mlp_inner_size: Option<usize>,
    /// Rows of the MLP's first layer, all ranks together, where it is one matrix.
    pub mlp_first_size: Option<usize>,
    /// Rows of the word embedding, all ranks together.
    pub padded_vocab_size: Option<usize>,
    /// Shape of one rank's output head, where there is one.
    pub head_shape: Option<Vec<usize>>,
    /// Names of the tensors of the transformer layers; empty where nothing was observed.
    pub layer_tensors: Vec<String>,
    pub soft_prompt_length: Option<usize>,
    pub precision: Option<Precision>,
    /// What the client state says of gpt-neox's version.
    pub stated: Vec<QuirkSetting>,
}

impl Observed {
    /// Whether a layer was observed to hold a tensor of this name.
    pub(crate) fn has_layer_tensor(&self, name: &str) -> bool {
        self.layer_tensors.iter().any(|known| known == name)
    }

    /// Whether a layer holds a tensor of this name; as the settings have it where nothing was observed.
    fn shows(&self, name: &str, settings: bool) -> bool {
        if self.layer_tensors.is_empty() { settings } else { self.has_layer_tensor(name) }
    }

    /// Whether the attention is Transformer Engine's.
    pub(super) fn engine_attention(&self, config: &NeoxConfig) -> bool {
        let switched_on = config.transformer_engine.attention || config.transformer_engine.fp8_attention;
        self.shows("attention.qkv.weight", switched_on)
    }

    /// Whether the MLP has three matrices `w1`, `w2`, `w3`.
    pub(super) fn separate_mlp(&self, config: &NeoxConfig) -> bool {
        self.shows("mlp.w1.weight", config.mlp_type == MlpType::Llama)
    }

    /// Settings that the names and shapes in the files contradict, a sentence each: the files decide.
    pub fn contradictions(&self, config: &NeoxConfig) -> Vec<String> {
        if self.layer_tensors.is_empty() {
            return Vec::new();
        }
        let engine = config.transformer_engine;
        let modules = [
            Module {
                setting: "mlp_type: llama",
                is_set: config.mlp_type == MlpType::Llama,
                name: "mlp.w1",
                others: MLP,
            },
            Module { setting: "te_layernorm_mlp: true", is_set: engine.layernorm_mlp, name: "mlp.fc1", others: MLP },
            Module {
                setting: "te_mha: true",
                is_set: engine.attention || engine.fp8_attention,
                name: "attention.qkv",
                others: &["attention.query_key_value"],
            },
        ];
        let mut sentences: Vec<_> = modules.iter().filter_map(|module| self.contradiction(module)).collect();
        if let (Some(stated), Some(found)) = (config.padded_vocab_size, self.padded_vocab_size)
            && stated != found
        {
            sentences.push(format!(
                "padded_vocab_size: {stated}, but the word embedding in the files has {found} rows; the files decide"
            ));
        }
        sentences
    }

    fn contradiction(&self, module: &Module) -> Option<String> {
        let Module { setting, is_set, name, others } = module;
        let holds = |prefix: &str| self.layer_tensors.iter().any(|name| name.starts_with(prefix));
        match (is_set, holds(name)) {
            (false, true) => Some(format!(
                "the files hold `{name}`, as with {setting}, which the configuration does not have; the files decide"
            )),
            (true, false) => {
                let found = others.iter().find(|other| holds(other))?;
                Some(format!("{setting}, but the files hold `{found}` where it would be `{name}`; the files decide"))
            }
            _ => None,
        }
    }

    pub(super) fn engine_mlp(&self, config: &NeoxConfig) -> bool {
        self.shows("mlp.fc1_weight", config.transformer_engine.layernorm_mlp)
    }
}

/// A head that the configuration does not describe is recognised by its shape: gpt-neox's default was `row` until
/// 2023-05-02 and is `column` since.
pub(super) fn resolve_head(config: &NeoxConfig, observed: &Observed, padded_vocab_size: usize) -> Head {
    if config.tied_embeddings() {
        return Head::Tied;
    }
    if config.is_reward_model() {
        return Head::Reward;
    }
    let stated = config.raw.contains_key("output_layer_parallelism");
    let is_row = match observed.head_shape.as_deref() {
        Some([rows, _]) if !stated && observed.tp_size > 1 => *rows == padded_vocab_size,
        _ => config.output_layer_parallelism == OutputLayerParallelism::Row,
    };
    if is_row { Head::Row } else { Head::Column }
}
