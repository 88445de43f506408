//! Groups of replicated parameters.

use crate::config::{Architecture, Positions, QueryKeyNorm};
use crate::partition::{Kind, StageId};

/// A group of replicated parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    /// The norms inside the layers, those of queries and keys aside.
    LayerNorms,
    /// The norms of queries and of keys over the elements of each head.
    QueryKeyNorms,
    /// The norm before the head.
    FinalNorm,
    /// The bias of the attention's output projection.
    AttentionBias,
    /// The bias of the MLP's second layer.
    MlpBias,
    /// Both row-parallel biases.
    RowParallelBiases,
    /// Learned positions.
    Positions,
}

/// How the names of these norms are told, in Megatron's files and transformers'.
const QUERY_KEY_NORMS: [&str; 4] = ["q_layernorm.", "k_layernorm.", "q_norm.", "k_norm."];

impl Factor {
    /// The groups that a model has.
    pub fn of(architecture: &Architecture) -> Vec<Self> {
        let mut factors =
            if architecture.norm.has_gain() { vec![Self::LayerNorms, Self::FinalNorm] } else { Vec::new() };
        if architecture.query_key_norm == Some(QueryKeyNorm::PerHead) && !factors.is_empty() {
            factors.insert(1, Self::QueryKeyNorms);
        }
        if architecture.attention_output_bias {
            factors.push(Self::AttentionBias);
        }
        if architecture.mlp_bias {
            factors.push(Self::MlpBias);
        }
        if architecture.attention_output_bias && architecture.mlp_bias {
            factors.push(Self::RowParallelBiases);
        }
        if matches!(architecture.positions, Positions::Learned { .. }) {
            factors.push(Self::Positions);
        }
        factors
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::LayerNorms => "layer norms",
            Self::QueryKeyNorms => "query and key norms",
            Self::FinalNorm => "final norm",
            Self::AttentionBias => "attention.dense.bias",
            Self::MlpBias => "mlp output bias",
            Self::RowParallelBiases => "attention.dense.bias + mlp output bias",
            Self::Positions => "learned positions",
        }
    }

    /// Whether some merge keeps drifted replicas of it, so that a strategy can be compared with one that does.
    pub fn can_be_kept(self) -> bool {
        self != Self::QueryKeyNorms
    }

    /// Whether a parameter belongs to it, under whatever name a format gives it inside its layer.
    pub fn contains(self, stage: StageId, name: &str, kind: Kind) -> bool {
        let in_layer = matches!(stage, StageId::Layer(_));
        match kind {
            Kind::NormGain | Kind::NormBias => {
                self == match in_layer {
                    false => Self::FinalNorm,
                    true if QUERY_KEY_NORMS.iter().any(|part| name.contains(part)) => Self::QueryKeyNorms,
                    true => Self::LayerNorms,
                }
            }
            Kind::RowParallelBias => {
                self == Self::RowParallelBiases
                    || self == if name.starts_with("mlp.") { Self::MlpBias } else { Self::AttentionBias }
            }
            Kind::LearnedPositions => self == Self::Positions,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_format_belong_to_one_group() {
        let layer = StageId::Layer(3);
        let all =
            [Factor::LayerNorms, Factor::QueryKeyNorms, Factor::FinalNorm, Factor::AttentionBias, Factor::MlpBias];
        for (stage, name, kind, expected) in [
            (layer, "input_layernorm.weight", Kind::NormGain, Factor::LayerNorms),
            (layer, "self_attention.linear_qkv.layer_norm_weight", Kind::NormGain, Factor::LayerNorms),
            (layer, "mlp.linear_fc1.layer_norm_bias", Kind::NormBias, Factor::LayerNorms),
            (layer, "self_attention.q_layernorm.weight", Kind::NormGain, Factor::QueryKeyNorms),
            (layer, "self_attention.k_layernorm.bias", Kind::NormBias, Factor::QueryKeyNorms),
            (layer, "self_attn.k_norm.weight", Kind::NormGain, Factor::QueryKeyNorms),
            (StageId::Output, "decoder.final_layernorm.weight", Kind::NormGain, Factor::FinalNorm),
            (layer, "attention.dense.bias", Kind::RowParallelBias, Factor::AttentionBias),
            (layer, "self_attention.linear_proj.bias", Kind::RowParallelBias, Factor::AttentionBias),
            (layer, "attn.c_proj.bias", Kind::RowParallelBias, Factor::AttentionBias),
            (layer, "mlp.linear_fc2.bias", Kind::RowParallelBias, Factor::MlpBias),
            (layer, "mlp.dense_4h_to_h.bias", Kind::RowParallelBias, Factor::MlpBias),
        ] {
            let found: Vec<_> = all.into_iter().filter(|factor| factor.contains(stage, name, kind)).collect();
            assert_eq!(found, [expected], "{name}");
        }
    }
}
