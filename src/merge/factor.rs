//! Groups of replicated parameters.

use crate::config::{Architecture, Positions};
use crate::partition::{Kind, StageId};

/// A group of replicated parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Factor {
    /// The norms inside the layers.
    LayerNorms,
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

impl Factor {
    /// The groups that a model has.
    pub fn of(architecture: &Architecture) -> Vec<Self> {
        let mut factors =
            if architecture.norm.has_gain() { vec![Self::LayerNorms, Self::FinalNorm] } else { Vec::new() };
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
            Self::FinalNorm => "final norm",
            Self::AttentionBias => "attention.dense.bias",
            Self::MlpBias => "mlp output bias",
            Self::RowParallelBiases => "attention.dense.bias + mlp output bias",
            Self::Positions => "learned positions",
        }
    }

    /// Whether a parameter belongs to it, under whatever name an era gives it.
    pub fn contains(self, stage: StageId, name: &str, kind: Kind) -> bool {
        let in_layer = matches!(stage, StageId::Layer(_));
        let of_attention = name.starts_with("attention.");
        match kind {
            Kind::NormGain | Kind::NormBias => self == if in_layer { Self::LayerNorms } else { Self::FinalNorm },
            Kind::RowParallelBias => {
                self == Self::RowParallelBiases
                    || self == if of_attention { Self::AttentionBias } else { Self::MlpBias }
            }
            Kind::LearnedPositions => self == Self::Positions,
            _ => false,
        }
    }
}
