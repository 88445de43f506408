//! How transformers' classes name and lay out the parameters of the partition table.

use crate::config::{Architecture, QkvLayout};
use crate::partition::{Role, StageId};
use crate::tensor::{HostTensor, Piece, TensorError, concatenate};

/// Names inside a layer (whole names outside of layers); `{a,b}` stands for several tensors, in the order in which
/// [`join`] takes them.
const NAMES: &[(Role, &str, &str)] = &[
    (Role::WordEmbedding, "gpt_neox.embed_in.weight", "model.embed_tokens.weight"),
    (Role::InputNormGain, "input_layernorm.weight", "input_layernorm.weight"),
    (Role::InputNormBias, "input_layernorm.bias", ""),
    (Role::MlpNormGain, "post_attention_layernorm.weight", "post_attention_layernorm.weight"),
    (Role::MlpNormBias, "post_attention_layernorm.bias", ""),
    (Role::QkvWeight, "attention.query_key_value.weight", "self_attn.{q,k,v}_proj.weight"),
    (Role::QkvBias, "attention.query_key_value.bias", "self_attn.{q,k,v}_proj.bias"),
    (Role::AttentionOutputWeight, "attention.dense.weight", "self_attn.o_proj.weight"),
    (Role::AttentionOutputBias, "attention.dense.bias", "self_attn.o_proj.bias"),
    (Role::MlpInputWeight, "mlp.dense_h_to_4h.weight", "mlp.{up,gate}_proj.weight"),
    (Role::MlpInputBias, "mlp.dense_h_to_4h.bias", "mlp.{up,gate}_proj.bias"),
    (Role::MlpGateWeight, "", "mlp.gate_proj.weight"),
    (Role::MlpUpWeight, "", "mlp.up_proj.weight"),
    (Role::MlpOutputWeight, "mlp.dense_4h_to_h.weight", "mlp.down_proj.weight"),
    (Role::MlpOutputBias, "mlp.dense_4h_to_h.bias", "mlp.down_proj.bias"),
    (Role::FinalNormGain, "gpt_neox.final_layer_norm.weight", "model.norm.weight"),
    (Role::FinalNormBias, "gpt_neox.final_layer_norm.bias", ""),
    (Role::HeadWeight, "embed_out.weight", "lm_head.weight"),
];

/// The classes of transformers that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HuggingFaceClass {
    GptNeox,
    Llama,
    /// Llama with a window and without biases.
    Mistral,
}

impl HuggingFaceClass {
    pub(super) const ALL: [Self; 3] = [Self::GptNeox, Self::Llama, Self::Mistral];

    pub fn name(self) -> &'static str {
        match self {
            Self::GptNeox => "GPTNeoXForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
        }
    }

    /// `model_type` in `config.json`.
    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Self::GptNeox => "gpt_neox",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// The names of the tensors that a parameter of a stage is, in the order in which they are joined; none where the class
    /// has no such parameter.
    pub(crate) fn tensor_names(self, stage: StageId, role: Role) -> Vec<String> {
        self.pattern(stage, role).as_deref().map(expand).unwrap_or_default()
    }

    /// The name of a parameter's tensors, with `{a,b}` where there are several.
    pub(super) fn pattern(self, stage: StageId, role: Role) -> Option<String> {
        let name = self.name_in_stage(role)?;
        let prefix = match self {
            Self::GptNeox => "gpt_neox",
            Self::Llama | Self::Mistral => "model",
        };
        Some(match stage {
            StageId::Layer(number) => format!("{prefix}.layers.{number}.{name}"),
            StageId::Embedding | StageId::Output => name.to_owned(),
        })
    }

    /// As [`HuggingFaceClass::pattern`], inside a layer.
    pub(super) fn name_in_stage(self, role: Role) -> Option<&'static str> {
        let &(_, neox, llama) = NAMES.iter().find(|(known, ..)| *known == role)?;
        let name = match self {
            Self::GptNeox => neox,
            Self::Llama | Self::Mistral => llama,
        };
        (!name.is_empty()).then_some(name)
    }
}

fn expand(name: &str) -> Vec<String> {
    let braces = name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (middle, after))) => middle.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![name.to_owned()],
    }
}

/// Shapes of the tensors that make up a parameter of the given shape.
pub(super) fn shapes(architecture: &Architecture, role: Role, shape: &[usize], count: usize) -> Vec<Vec<usize>> {
    let key_value = architecture.kv_head_count * architecture.head_size;
    let rows = match (role, count) {
        (Role::QkvWeight | Role::QkvBias, 3) => vec![architecture.query_size(), key_value, key_value],
        (_, count) if count > 1 => vec![architecture.mlp_inner_size; count],
        _ => return vec![shape.to_vec()],
    };
    rows.into_iter().map(|rows| std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect()).collect()
}

/// Makes one tensor of them in the layout that the architecture reads.
pub(super) fn join(architecture: &Architecture, role: Role, tensors: &[HostTensor]) -> Result<HostTensor, TensorError> {
    let [query, key, value] = tensors else {
        let whole = |tensor| Piece { tensor, range: 0..tensor.shape().first().copied().unwrap_or(0) };
        return match tensors {
            [only] => Ok(only.clone()),
            several => concatenate(0, &several.iter().map(whole).collect::<Vec<_>>()),
        };
    };
    let size = architecture.head_size;
    let is_qkv = matches!(role, Role::QkvWeight | Role::QkvBias);
    let pieces: Vec<_> = if is_qkv && architecture.qkv == QkvLayout::Interleaved {
        let of_head =
            |head: usize| [query, key, value].map(|tensor| Piece { tensor, range: head * size..(head + 1) * size });
        (0..architecture.head_count).flat_map(of_head).collect()
    } else {
        tensors.iter().map(|tensor| Piece { tensor, range: 0..tensor.shape()[0] }).collect()
    };
    concatenate(0, &pieces)
}

/// Whether a tensor of this name is no parameter: masks and tables that older versions saved.
pub(super) fn is_ignored(name: &str) -> bool {
    [".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"].iter().any(|ending| name.ends_with(ending))
}
