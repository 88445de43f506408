//! The tensors of transformers' models that each parameter becomes: names, and rows of the joined tensor.

use std::ops::Range;

use super::model::{HfModel, gate_comes_first};
use crate::checkpoint::HuggingFaceClass;
use crate::config::{Architecture, MlpInput, QkvLayout};
use crate::export::plan::PlannedParam;
use crate::partition::{Role, StageId};

/// The source of a tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Take {
    /// The whole parameter.
    All,
    /// These of its rows, one behind another.
    Rows(Vec<Range<usize>>),
    /// These of its rows, all where there are none, with rows and columns exchanged.
    Transposed(Option<Vec<Range<usize>>>),
    /// A constant tensor, which the class has and the model lacks.
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
            Self::Transposed(_) => shape.iter().rev().copied().collect(),
            Self::Fill(_, shape) => shape.clone(),
        }
    }
}

pub(super) struct TensorMap<'a> {
    pub architecture: &'a Architecture,
    pub model: &'a HfModel,
}

impl TensorMap<'_> {
    /// The tensors that a parameter becomes, and those that the class has beside it; none if the model does not use it.
    pub(super) fn tensors(&self, param: &PlannedParam) -> Vec<(String, Take)> {
        if !param.used {
            return Vec::new();
        }
        let names = |stage, role| self.model.class.tensor_names(stage, role).into_iter();
        let own = names(param.stage, param.role).zip(self.own(param.role));
        let beside = self.beside(param.role).into_iter().flat_map(|(stage, role, take)| {
            names(stage.unwrap_or(param.stage), role).map(move |name| (name, take.clone()))
        });
        own.chain(beside).collect()
    }

    /// A parameter's own tensors, in the order of their names.
    fn own(&self, role: Role) -> Vec<Take> {
        let Architecture { hidden_size: hidden, mlp_inner_size: inner, .. } = *self.architecture;
        let rows = |range: Range<usize>| Take::Rows(std::iter::once(range).collect());
        let is_qkv = matches!(role, Role::QkvWeight | Role::QkvBias);
        match (self.model.class, role) {
            (class, _) if class.is_like_llama() && is_qkv => qkv_rows(self.architecture).map(Take::Rows).into(),
            // Named up before gate.
            (class, Role::MlpInputWeight | Role::MlpInputBias) if class.is_like_llama() => {
                let (first, second) = (rows(0..inner), rows(inner..2 * inner));
                if gate_comes_first(self.architecture) { vec![second, first] } else { vec![first, second] }
            }
            (HuggingFaceClass::Gpt2, _) if is_qkv => {
                let parts = qkv_rows(self.architecture).concat();
                vec![if role == Role::QkvWeight { Take::Transposed(Some(parts)) } else { Take::Rows(parts) }]
            }
            (class, role) if class.stores_transposed(role) => vec![Take::Transposed(None)],
            // A lost attention branch adds nothing.
            (HuggingFaceClass::GptNeox, Role::AttentionOutputWeight) if self.architecture.attention_dropped => {
                vec![Take::Fill(0.0, vec![hidden, hidden])]
            }
            (HuggingFaceClass::GptNeox, Role::AttentionOutputBias) if self.architecture.attention_dropped => {
                vec![Take::Fill(0.0, vec![hidden])]
            }
            _ => vec![Take::All],
        }
    }

    /// Tensors that the class has and the model lacks, each written with a parameter that every such model has. A stage is
    /// given where it is not the parameter's.
    fn beside(&self, role: Role) -> Vec<(Option<StageId>, Role, Take)> {
        let architecture = self.architecture;
        let Architecture { hidden_size: hidden, mlp_inner_size: inner, ref norm, .. } = *architecture;
        let fill = |number, width| Take::Fill(number, vec![width]);
        // Norms have gain and bias: one and zero where the model's have none.
        let plain_norm = |stage, gain, bias| [(stage, gain, fill(1.0, hidden)), (stage, bias, fill(0.0, hidden))];
        let (class, no_norm) = (self.model.class, !self.model.class.is_like_llama() && !norm.has_gain());
        // A class with biases of queries, keys and values, Qwen2 aside, has one of the attention's output.
        let no_output_bias = !architecture.attention_output_bias
            && (architecture.qkv_bias || class == HuggingFaceClass::Gpt2)
            && class != HuggingFaceClass::Qwen2;
        match role {
            Role::WordEmbedding if no_norm => {
                plain_norm(Some(StageId::Output), Role::FinalNormGain, Role::FinalNormBias).into()
            }
            Role::QkvWeight => {
                let mut beside = Vec::new();
                if no_norm {
                    beside.extend(plain_norm(None, Role::InputNormGain, Role::InputNormBias));
                    beside.extend(plain_norm(None, Role::MlpNormGain, Role::MlpNormBias));
                }
                if class == HuggingFaceClass::Gpt2 && !architecture.qkv_bias {
                    beside.push((None, Role::QkvBias, fill(0.0, architecture.qkv_size())));
                }
                beside
            }
            Role::AttentionOutputWeight if no_output_bias => {
                vec![(None, Role::AttentionOutputBias, fill(0.0, hidden))]
            }
            _ if class.is_like_llama() => Vec::new(),
            // The MLP reads a norm of its own.
            Role::InputNormGain if self.shares_norm() => vec![(None, Role::MlpNormGain, Take::All)],
            Role::InputNormBias if self.shares_norm() => vec![(None, Role::MlpNormBias, Take::All)],
            // The MLP has biases.
            Role::MlpInputWeight if !architecture.mlp_bias => vec![(None, Role::MlpInputBias, fill(0.0, inner))],
            Role::MlpOutputWeight if !architecture.mlp_bias => {
                vec![(None, Role::MlpOutputBias, fill(0.0, hidden))]
            }
            _ => Vec::new(),
        }
    }

    fn shares_norm(&self) -> bool {
        self.architecture.mlp_input == MlpInput::AttentionNorm
    }
}

/// The rows of queries, keys and values in the joined matrix, head by head.
fn qkv_rows(architecture: &Architecture) -> [Vec<Range<usize>>; 3] {
    let (heads, size) = (architecture.head_count, architecture.head_size);
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
