//! What each parameter becomes in transformers' models: names, and the rows of the joined tensor that go there.

use std::ops::Range;

use super::model::{Class, HfModel, gate_comes_first};
use crate::config::{Architecture, MlpInput, QkvLayout};
use crate::export::plan::PlannedParam;
use crate::partition::{Role, StageId};

/// What a tensor of the output is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Take {
    /// The whole parameter.
    All,
    /// These of its rows, one behind another.
    Rows(Vec<Range<usize>>),
    /// Nothing of it: a tensor of this number, for what the class has and the model does without.
    Fill(f64, Vec<usize>),
}

impl Take {
    /// Shape of the tensor, of a parameter of this shape.
    pub(super) fn shape(&self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::All => shape.to_vec(),
            Self::Rows(ranges) => {
                let rows = ranges.iter().map(Range::len).sum();
                std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect()
            }
            Self::Fill(_, shape) => shape.clone(),
        }
    }
}

/// Maps parameters to tensors.
pub(super) struct TensorMap<'a> {
    pub architecture: &'a Architecture,
    pub model: &'a HfModel,
}

impl TensorMap<'_> {
    /// The tensors that a parameter becomes, none if the model does not use it.
    pub(super) fn tensors(&self, param: &PlannedParam) -> Vec<(String, Take)> {
        if !param.used {
            return Vec::new();
        }
        let named = match self.model.class {
            Class::GptNeox => self.gpt_neox(param.role),
            Class::Llama => self.llama(param.role),
        };
        let full = |(name, take): (&str, Take)| {
            let name = match (param.stage, self.model.class) {
                (StageId::Layer(layer), Class::GptNeox) => format!("gpt_neox.layers.{layer}.{name}"),
                (StageId::Layer(layer), Class::Llama) => format!("model.layers.{layer}.{name}"),
                _ => name.to_owned(),
            };
            (name, take)
        };
        named.into_iter().map(full).collect()
    }

    fn gpt_neox(&self, role: Role) -> Vec<(&'static str, Take)> {
        let one = |name| vec![(name, Take::All)];
        let hidden = self.architecture.hidden_size;
        let shared_norm = self.architecture.mlp_input == MlpInput::AttentionNorm;
        let norm = |own, other| {
            let both = [(own, Take::All), (other, Take::All)];
            both.into_iter().take(if shared_norm { 2 } else { 1 }).collect::<Vec<_>>()
        };
        // A lost attention branch adds nothing.
        let attention_output = |take| if self.architecture.attention_dropped { take } else { Take::All };
        match role {
            Role::WordEmbedding => {
                let mut tensors = one("gpt_neox.embed_in.weight");
                tensors.extend(self.plain_norms(&["gpt_neox.final_layer_norm"]));
                tensors
            }
            Role::HeadWeight => one("embed_out.weight"),
            Role::InputNormGain => norm("input_layernorm.weight", "post_attention_layernorm.weight"),
            Role::InputNormBias => norm("input_layernorm.bias", "post_attention_layernorm.bias"),
            Role::MlpNormGain => one("post_attention_layernorm.weight"),
            Role::MlpNormBias => one("post_attention_layernorm.bias"),
            Role::QkvWeight => {
                let mut tensors = one("attention.query_key_value.weight");
                tensors.extend(self.plain_norms(&["input_layernorm", "post_attention_layernorm"]));
                tensors
            }
            Role::QkvBias => one("attention.query_key_value.bias"),
            Role::AttentionOutputWeight => {
                vec![("attention.dense.weight", attention_output(Take::Fill(0.0, vec![hidden, hidden])))]
            }
            Role::AttentionOutputBias => {
                vec![("attention.dense.bias", attention_output(Take::Fill(0.0, vec![hidden])))]
            }
            Role::MlpInputWeight => {
                self.with_bias("mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias", self.architecture.mlp_inner_size)
            }
            Role::MlpInputBias => one("mlp.dense_h_to_4h.bias"),
            Role::MlpOutputWeight => self.with_bias("mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.bias", hidden),
            Role::MlpOutputBias => one("mlp.dense_4h_to_h.bias"),
            Role::FinalNormGain => one("gpt_neox.final_layer_norm.weight"),
            Role::FinalNormBias => one("gpt_neox.final_layer_norm.bias"),
            _ => Vec::new(),
        }
    }

    /// The class's MLP has biases; those of a model without are zero.
    fn with_bias(&self, weight: &'static str, bias: &'static str, width: usize) -> Vec<(&'static str, Take)> {
        let zeros = (!self.architecture.mlp_bias).then(|| (bias, Take::Fill(0.0, vec![width])));
        std::iter::once((weight, Take::All)).chain(zeros).collect()
    }

    /// The class's norms have gain and bias; those of a norm without parameters are one and zero.
    fn plain_norms(&self, norms: &[&'static str]) -> Vec<(&'static str, Take)> {
        if self.architecture.norm.has_gain() {
            return Vec::new();
        }
        let names = |norm: &&'static str| match *norm {
            "input_layernorm" => ("input_layernorm.weight", "input_layernorm.bias"),
            "post_attention_layernorm" => ("post_attention_layernorm.weight", "post_attention_layernorm.bias"),
            _ => ("gpt_neox.final_layer_norm.weight", "gpt_neox.final_layer_norm.bias"),
        };
        let shape = vec![self.architecture.hidden_size];
        let pair = |(weight, bias)| [(weight, Take::Fill(1.0, shape.clone())), (bias, Take::Fill(0.0, shape.clone()))];
        norms.iter().map(names).flat_map(pair).collect()
    }

    fn llama(&self, role: Role) -> Vec<(&'static str, Take)> {
        let one = |name| vec![(name, Take::All)];
        match role {
            Role::WordEmbedding => one("model.embed_tokens.weight"),
            Role::HeadWeight => one("lm_head.weight"),
            Role::InputNormGain => one("input_layernorm.weight"),
            Role::MlpNormGain => one("post_attention_layernorm.weight"),
            Role::QkvWeight => {
                self.three(["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"])
            }
            Role::QkvBias => self.three(["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]),
            Role::AttentionOutputWeight => one("self_attn.o_proj.weight"),
            Role::AttentionOutputBias => one("self_attn.o_proj.bias"),
            Role::MlpInputWeight => self.halves("mlp.up_proj.weight", "mlp.gate_proj.weight"),
            Role::MlpInputBias => self.halves("mlp.up_proj.bias", "mlp.gate_proj.bias"),
            Role::MlpGateWeight => one("mlp.gate_proj.weight"),
            Role::MlpUpWeight => one("mlp.up_proj.weight"),
            Role::MlpOutputWeight => one("mlp.down_proj.weight"),
            Role::MlpOutputBias => one("mlp.down_proj.bias"),
            Role::FinalNormGain => one("model.norm.weight"),
            _ => Vec::new(),
        }
    }

    fn three(&self, names: [&'static str; 3]) -> Vec<(&'static str, Take)> {
        names.into_iter().zip(qkv_rows(self.architecture)).map(|(name, rows)| (name, Take::Rows(rows))).collect()
    }

    fn halves(&self, up: &'static str, gate: &'static str) -> Vec<(&'static str, Take)> {
        let inner = self.architecture.mlp_inner_size;
        let (first, second) = if gate_comes_first(self.architecture) { (gate, up) } else { (up, gate) };
        vec![
            (first, Take::Rows(std::iter::once(0..inner).collect())),
            (second, Take::Rows(std::iter::once(inner..2 * inner).collect())),
        ]
    }
}

/// The rows of queries, keys and values in the joined matrix, head by head.
fn qkv_rows(architecture: &Architecture) -> [Vec<Range<usize>>; 3] {
    let (heads, size) = (architecture.head_count, architecture.head_size());
    // The width of one head's part of queries, of keys, of values.
    let parts = match architecture.qkv {
        QkvLayout::Blocks => {
            let key_value = architecture.kv_head_count * size;
            let starts = [0, heads * size, heads * size + key_value];
            let widths = [heads * size, key_value, key_value];
            return [0, 1, 2].map(|part| std::iter::once(starts[part]..starts[part] + widths[part]).collect());
        }
        QkvLayout::Interleaved => [size, size, size],
        QkvLayout::InterleavedGroups => {
            let share = size * architecture.kv_head_count / heads;
            [size, share, share]
        }
    };
    let width: usize = parts.iter().sum();
    let starts = [0, parts[0], parts[0] + parts[1]];
    [0, 1, 2].map(|part| {
        (0..heads).map(|head| head * width + starts[part]).map(|start| start..start + parts[part]).collect()
    })
}
