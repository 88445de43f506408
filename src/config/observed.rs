//! Properties of the model that only the tensors of a checkpoint show.

use super::choices::{MlpType, OutputLayerParallelism, Precision};
use super::forms::Head;
use super::neox::NeoxConfig;

/// Prefixes of the MLP's first layer.
const MLP: &[&str] = &["mlp.linear1", "mlp.dense_h_to_4h", "mlp.fc1", "mlp.w1"];

/// Names, shapes and types seen in the files.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Number of ranks that hold shards.
    pub tp_size: usize,
    /// Width of the MLP between its two layers, all ranks together (after gating).
    pub mlp_inner_size: Option<usize>,
    /// Rows of the MLP's first layer, all ranks together, where it is one matrix.
    pub mlp_first_size: Option<usize>,
    /// Rows of the word embedding, all ranks together.
    pub padded_vocab_size: Option<usize>,
    /// Shape of one rank's output head, where there is one.
    pub head_shape: Option<Vec<usize>>,
    /// Names of the tensors of one transformer layer; empty where nothing was observed.
    pub layer_tensors: Vec<String>,
    /// Rows of the trained prompt.
    pub soft_prompt_length: Option<usize>,
    /// Number format of the word embedding.
    pub precision: Option<Precision>,
}

impl Observed {
    /// Whether a layer was observed to hold a tensor of this name.
    #[must_use]
    pub fn has_layer_tensor(&self, name: &str) -> bool {
        self.layer_tensors.iter().any(|known| known == name)
    }

    /// Whether the attention is Transformer Engine's: by the names, where there are any.
    pub(super) fn engine_attention(&self, config: &NeoxConfig) -> bool {
        let switched_on = config.transformer_engine.attention || config.transformer_engine.fp8_attention;
        if self.layer_tensors.is_empty() { switched_on } else { self.has_layer_tensor("attention.qkv.weight") }
    }

    /// Whether the MLP has three matrices `w1`, `w2`, `w3`: by the names, where there are any.
    pub(super) fn separate_mlp(&self, config: &NeoxConfig) -> bool {
        if self.layer_tensors.is_empty() {
            return config.mlp_type == MlpType::Llama;
        }
        self.has_layer_tensor("mlp.w1.weight")
    }

    /// Settings that the names in the files contradict, a sentence each: the files decide.
    #[must_use]
    pub fn contradictions(&self, config: &NeoxConfig) -> Vec<String> {
        if self.layer_tensors.is_empty() {
            return Vec::new();
        }
        let engine = config.transformer_engine;
        let names = [
            (
                "mlp_type: llama",
                config.mlp_type == MlpType::Llama,
                self.has_layer_tensor("mlp.w1.weight"),
                "mlp.w1",
                MLP,
            ),
            ("te_layernorm_mlp: true", engine.layernorm_mlp, self.engine_mlp(config), "mlp.fc1", MLP),
            (
                "te_mha: true",
                engine.attention || engine.fp8_attention,
                self.engine_attention(config),
                "attention.qkv",
                &["attention.query_key_value", "attention.qkv"][..],
            ),
        ];
        let wrong = names.into_iter().filter(|(_, stated, found, ..)| stated != found);
        let rows = match (config.padded_vocab_size, self.padded_vocab_size) {
            (Some(stated), Some(found)) if stated != found => Some(format!(
                "padded_vocab_size: {stated}, but the word embedding in the files has {found} rows; the files decide"
            )),
            _ => None,
        };
        let sentence = |(setting, stated, _, expected, known): (&str, bool, bool, &str, &[&'static str])| {
            if !stated {
                return format!(
                    "the files hold `{expected}`, as with {setting}, which the configuration does not have; the files decide"
                );
            }
            let starts = |known: &&&str| self.layer_tensors.iter().any(|name| name.starts_with(**known));
            let found = known.iter().find(starts).copied().unwrap_or_default();
            format!("{setting}, but the files hold `{found}` where it would be `{expected}`; the files decide")
        };
        wrong.map(sentence).chain(rows).collect()
    }

    /// Whether the MLP is Transformer Engine's: by the names, where there are any.
    pub(super) fn engine_mlp(&self, config: &NeoxConfig) -> bool {
        let switched_on = config.transformer_engine.layernorm_mlp;
        if self.layer_tensors.is_empty() { switched_on } else { self.has_layer_tensor("mlp.fc1_weight") }
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
    let by_config = match config.output_layer_parallelism {
        OutputLayerParallelism::Column => Head::Column,
        OutputLayerParallelism::Row => Head::Row,
    };
    let stated = config.raw.contains_key("output_layer_parallelism");
    match observed.head_shape.as_deref() {
        Some([rows, _]) if !stated && observed.tp_size > 1 => {
            if *rows == padded_vocab_size {
                Head::Row
            } else {
                Head::Column
            }
        }
        _ => by_config,
    }
}
