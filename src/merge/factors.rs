//! Factor analysis: strategies that differ from a reference in one group of parameters only, to tell which group costs
//! what. Data in, data out: the strategies are evaluated like any others.

use std::collections::BTreeMap;

use super::{Rule, Strategy, StrategyArithmetic};
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
    #[must_use]
    pub fn of(architecture: &Architecture) -> Vec<Self> {
        let mut factors =
            if architecture.norm.has_gain() { vec![Self::LayerNorms, Self::FinalNorm] } else { Vec::new() };
        if architecture.attention_bias {
            factors.push(Self::AttentionBias);
        }
        if architecture.mlp_bias {
            factors.push(Self::MlpBias);
        }
        if architecture.attention_bias && architecture.mlp_bias {
            factors.push(Self::RowParallelBiases);
        }
        if matches!(architecture.positions, Positions::Learned { .. }) {
            factors.push(Self::Positions);
        }
        factors
    }

    /// Its name in reports.
    #[must_use]
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
    #[must_use]
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

/// The best that a merge can do with each group: norms folded, everything else by its place in the forward pass.
fn reference_rules() -> BTreeMap<Kind, Rule> {
    BTreeMap::from([
        (Kind::NormGain, Rule::Fold),
        (Kind::NormBias, Rule::Fold),
        (Kind::RowParallelBias, Rule::Auto),
        (Kind::LearnedPositions, Rule::Mean),
    ])
}

/// A strategy of these rules that merges whatever can be merged: whether to merge at all was decided for the strategy
/// that is analysed.
fn by_rules(name: String, rules: BTreeMap<Kind, Rule>) -> Strategy {
    Strategy {
        name,
        description: String::new(),
        source: String::new(),
        arithmetic: StrategyArithmetic::Float64,
        calibrate: false,
        allow_inexact: true,
        rules,
        overrides: Vec::new(),
        origin: "factor analysis".to_owned(),
        lines: BTreeMap::new(),
        elsewhere: None,
    }
}

/// The strategy for one group, the reference for everything else.
#[must_use]
pub fn only(strategy: &Strategy, factor: Factor) -> Strategy {
    let name = format!("{}: only {}", strategy.name, factor.name());
    let reference = by_rules("reference".to_owned(), reference_rules());
    Strategy { name, allow_inexact: true, elsewhere: Some((factor, Box::new(reference))), ..strategy.clone() }
}

/// The reference for one group, the strategy for everything else.
#[must_use]
pub fn without(strategy: &Strategy, factor: Factor) -> Strategy {
    Strategy {
        arithmetic: strategy.arithmetic,
        calibrate: strategy.calibrate,
        elsewhere: Some((factor, Box::new(strategy.clone()))),
        ..by_rules(format!("{}: without {}", strategy.name, factor.name()), reference_rules())
    }
}

/// Row-parallel biases taken as these multiples of their mean over ranks, from 1/m to m; everything else as the reference.
/// The multiple that the forward pass uses shows as the one without loss.
#[must_use]
pub fn bias_scales(tp_size: usize) -> Vec<(f64, Strategy)> {
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let ranks = tp_size as f64;
    [-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0]
        .into_iter()
        .map(|exponent| {
            let scale = ranks.powf(exponent);
            let mut rules = reference_rules();
            rules.insert(Kind::RowParallelBias, Rule::Scale(scale));
            (scale, by_rules(format!("bias × {scale:.3}"), rules))
        })
        .collect()
}
