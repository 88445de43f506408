//! How transformers' classes name and lay out the parameters of the partition table.

use crate::config::{Architecture, QkvLayout};
use crate::partition::{Role, StageId};
use crate::tensor::{HostTensor, Piece, TensorError, concatenate};

/// Names inside a layer (whole names outside of layers) in GPT-NeoX, in Llama and the classes with its names, in GPT-2;
/// `{a,b}` stands for several tensors, in the order in which [`join`] takes them.
const NAMES: &[(Role, [&str; 3])] = &[
    (Role::WordEmbedding, ["gpt_neox.embed_in.weight", "model.embed_tokens.weight", "transformer.wte.weight"]),
    (Role::PositionEmbedding, ["", "", "transformer.wpe.weight"]),
    (Role::InputNormGain, ["input_layernorm.weight", "input_layernorm.weight", "ln_1.weight"]),
    (Role::InputNormBias, ["input_layernorm.bias", "", "ln_1.bias"]),
    (Role::MlpNormGain, ["post_attention_layernorm.weight", "post_attention_layernorm.weight", "ln_2.weight"]),
    (Role::MlpNormBias, ["post_attention_layernorm.bias", "", "ln_2.bias"]),
    (Role::QkvWeight, ["attention.query_key_value.weight", "self_attn.{q,k,v}_proj.weight", "attn.c_attn.weight"]),
    (Role::QkvBias, ["attention.query_key_value.bias", "self_attn.{q,k,v}_proj.bias", "attn.c_attn.bias"]),
    (Role::QueryNormGain, ["", "self_attn.q_norm.weight", ""]),
    (Role::KeyNormGain, ["", "self_attn.k_norm.weight", ""]),
    (Role::AttentionOutputWeight, ["attention.dense.weight", "self_attn.o_proj.weight", "attn.c_proj.weight"]),
    (Role::AttentionOutputBias, ["attention.dense.bias", "self_attn.o_proj.bias", "attn.c_proj.bias"]),
    (Role::MlpInputWeight, ["mlp.dense_h_to_4h.weight", "mlp.{up,gate}_proj.weight", "mlp.c_fc.weight"]),
    (Role::MlpInputBias, ["mlp.dense_h_to_4h.bias", "mlp.{up,gate}_proj.bias", "mlp.c_fc.bias"]),
    (Role::MlpGateWeight, ["", "mlp.gate_proj.weight", ""]),
    (Role::MlpUpWeight, ["", "mlp.up_proj.weight", ""]),
    (Role::MlpOutputWeight, ["mlp.dense_4h_to_h.weight", "mlp.down_proj.weight", "mlp.c_proj.weight"]),
    (Role::MlpOutputBias, ["mlp.dense_4h_to_h.bias", "mlp.down_proj.bias", "mlp.c_proj.bias"]),
    (Role::FinalNormGain, ["gpt_neox.final_layer_norm.weight", "model.norm.weight", "transformer.ln_f.weight"]),
    (Role::FinalNormBias, ["gpt_neox.final_layer_norm.bias", "", "transformer.ln_f.bias"]),
    (Role::HeadWeight, ["embed_out.weight", "lm_head.weight", "lm_head.weight"]),
];

/// What GPT-2's names begin with; files that hold the model without its head lack it.
pub(super) const GPT2_PREFIX: &str = "transformer.";

/// The classes of transformers that are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HuggingFaceClass {
    GptNeox,
    Llama,
    /// Llama with a window and without biases.
    Mistral,
    /// Llama with biases of queries, keys and values, with and without a window.
    Qwen2,
    /// Llama with norms of queries and keys, with and without a window.
    Qwen3,
    /// Learned positions; its linear layers store their weights transposed.
    Gpt2,
}

impl HuggingFaceClass {
    pub(super) const ALL: [Self; 6] = [Self::GptNeox, Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gpt2];

    pub fn name(self) -> &'static str {
        match self {
            Self::GptNeox => "GPTNeoXForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
        }
    }

    /// `model_type` in `config.json`.
    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Self::GptNeox => "gpt_neox",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gpt2 => "gpt2",
        }
    }

    /// Whether it has Llama's tensors: RMS norms, a gated MLP, queries, keys and values apart.
    pub(crate) fn is_like_llama(self) -> bool {
        matches!(self, Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3)
    }

    /// Whether the files hold a parameter's matrix with rows and columns exchanged (`Conv1D`).
    pub(crate) fn stores_transposed(self, role: Role) -> bool {
        let linear =
            [Role::QkvWeight, Role::AttentionOutputWeight, Role::MlpInputWeight, Role::MlpOutputWeight].contains(&role);
        self == Self::Gpt2 && linear
    }

    /// The names of the tensors that a parameter of a stage is, in the order in which they are joined; none where the class
    /// has no such parameter.
    pub(crate) fn tensor_names(self, stage: StageId, role: Role) -> Vec<String> {
        self.pattern(stage, role).as_deref().map(expand).unwrap_or_default()
    }

    /// The name of a parameter's tensors, with `{a,b}` where there are several.
    pub(super) fn pattern(self, stage: StageId, role: Role) -> Option<String> {
        let name = self.name_in_stage(role)?;
        let layers = match self {
            Self::GptNeox => "gpt_neox.layers",
            Self::Gpt2 => "transformer.h",
            _ => "model.layers",
        };
        Some(match stage {
            StageId::Layer(number) => format!("{layers}.{number}.{name}"),
            StageId::Embedding | StageId::Output => name.to_owned(),
        })
    }

    /// As [`HuggingFaceClass::pattern`], inside a layer.
    pub(super) fn name_in_stage(self, role: Role) -> Option<&'static str> {
        let &(_, [neox, llama, gpt2]) = NAMES.iter().find(|(known, ..)| *known == role)?;
        let name = match self {
            Self::GptNeox => neox,
            Self::Gpt2 => gpt2,
            _ => llama,
        };
        (!name.is_empty()).then_some(name)
    }

    /// Whether a tensor of this name is no parameter: masks and tables that older versions saved.
    pub(super) fn ignores(self, name: &str) -> bool {
        let ignored: &[&str] = match self {
            Self::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
            _ => &[".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"],
        };
        ignored.iter().any(|ending| name.ends_with(ending))
    }
}

fn expand(name: &str) -> Vec<String> {
    let braces = name.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (middle, after))) => middle.split(',').map(|part| format!("{before}{part}{after}")).collect(),
        None => vec![name.to_owned()],
    }
}

/// Shapes of the tensors that make up a parameter of the given shape, as the files hold them.
pub(super) fn shapes(
    class: HuggingFaceClass,
    architecture: &Architecture,
    role: Role,
    shape: &[usize],
    count: usize,
) -> Vec<Vec<usize>> {
    let key_value = architecture.kv_head_count * architecture.head_size;
    let rows = match (role, count) {
        (Role::QkvWeight | Role::QkvBias, 3) => vec![architecture.query_size(), key_value, key_value],
        (_, count) if count > 1 => vec![architecture.mlp_inner_size; count],
        _ if class.stores_transposed(role) => return vec![shape.iter().rev().copied().collect()],
        _ => return vec![shape.to_vec()],
    };
    rows.into_iter().map(|rows| std::iter::once(rows).chain(shape.iter().skip(1).copied()).collect()).collect()
}

/// Makes one tensor of a parameter's, as the files hold them, in the layout that the architecture reads.
pub(super) fn join(
    class: HuggingFaceClass,
    architecture: &Architecture,
    role: Role,
    tensors: &[HostTensor],
) -> Result<HostTensor, TensorError> {
    let is_qkv = matches!(role, Role::QkvWeight | Role::QkvBias);
    match tensors {
        [only] if class.stores_transposed(role) => {
            let turned = only.transposed()?;
            if is_qkv { join_qkv(architecture, &parts_of(architecture, &turned)) } else { Ok(turned) }
        }
        // Queries, keys and values one after another, as in the weight.
        [only] if is_qkv && class == HuggingFaceClass::Gpt2 => join_qkv(architecture, &parts_of(architecture, only)),
        [only] => Ok(only.clone()),
        [query, key, value] if is_qkv => join_qkv(architecture, &[query, key, value].map(whole)),
        several => concatenate(0, &several.iter().map(whole).collect::<Vec<_>>()),
    }
}

fn whole(tensor: &HostTensor) -> Piece<'_> {
    Piece { tensor, range: 0..tensor.shape().first().copied().unwrap_or(0) }
}

/// Queries, keys and values of a tensor that holds them one after another.
fn parts_of<'a>(architecture: &Architecture, tensor: &'a HostTensor) -> [Piece<'a>; 3] {
    let (query, key_value) = (architecture.query_size(), architecture.kv_head_count * architecture.head_size);
    let (first, second) = (query, query + key_value);
    [0..first, first..second, second..second + key_value].map(|range| Piece { tensor, range })
}

/// Head by head where the architecture has them so, else one after another.
fn join_qkv(architecture: &Architecture, parts: &[Piece<'_>; 3]) -> Result<HostTensor, TensorError> {
    if architecture.qkv != QkvLayout::Interleaved {
        return concatenate(0, parts);
    }
    let size = architecture.head_size;
    let of_head = |head: usize| {
        parts.clone().map(|Piece { tensor, range }| {
            let start = range.start + head * size;
            Piece { tensor, range: start..start + size }
        })
    };
    concatenate(0, &(0..architecture.head_count).flat_map(of_head).collect::<Vec<_>>())
}
