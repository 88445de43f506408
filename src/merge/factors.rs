//! Factor analysis: strategies that differ from a reference in one group of parameters only, to tell which group costs
//! what. Data in, data out: the strategies are evaluated like any others.

use std::collections::BTreeMap;

use super::{Override, Rule, Strategy, StrategyArithmetic};
use crate::config::{Architecture, Positions};
use crate::partition::Kind;

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

/// Names of every era.
const LAYER_NORMS: &[(&str, Kind)] = &[
    ("layer.*layernorm.*", Kind::NormGain),
    ("layer.*layernorm*.bias", Kind::NormBias),
    ("layer.*.ln?.*", Kind::NormGain),
    ("layer.*.ln?.bias", Kind::NormBias),
    ("layer.*.mlp.layer_norm_weight", Kind::NormGain),
    ("layer.*.mlp.layer_norm_bias", Kind::NormBias),
];

/// The attention's, then the MLP's.
const BIASES: &[(&str, Kind)] = &[
    ("layer.*.attention.dense.bias", Kind::RowParallelBias),
    ("layer.*.attention.proj.bias", Kind::RowParallelBias),
    ("layer.*.mlp.linear2.bias", Kind::RowParallelBias),
    ("layer.*.mlp.dense_4h_to_h.bias", Kind::RowParallelBias),
    ("layer.*.mlp.fc2_bias", Kind::RowParallelBias),
];

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

    /// Patterns of its parameters' names, with their kinds. The later patterns are the narrower ones.
    fn patterns(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::LayerNorms => LAYER_NORMS,
            Self::FinalNorm => &[("output.norm.*", Kind::NormGain), ("output.norm*.bias", Kind::NormBias)],
            Self::AttentionBias => BIASES.split_at(2).0,
            Self::MlpBias => BIASES.split_at(2).1,
            Self::RowParallelBiases => BIASES,
            Self::Positions => &[("embedding.position_embeddings.*", Kind::LearnedPositions)],
        }
    }

    fn overrides(self, rules: &BTreeMap<Kind, Rule>) -> Vec<Override> {
        let with_rule = |&(pattern, kind): &(&str, Kind)| {
            let rule = rules.get(&kind).copied().unwrap_or(Rule::Auto);
            Override { pattern: pattern.to_owned(), rule, line: 0 }
        };
        self.patterns().iter().map(with_rule).collect()
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

fn variant(name: String, arithmetic: StrategyArithmetic, rules: BTreeMap<Kind, Rule>) -> Strategy {
    Strategy {
        name,
        description: String::new(),
        source: String::new(),
        arithmetic,
        calibrate: false,
        // Whether to merge at all was decided for the strategy that is analysed.
        allow_inexact: true,
        rules,
        overrides: Vec::new(),
        origin: "factor analysis".to_owned(),
        lines: BTreeMap::new(),
    }
}

/// The strategy for one group, the reference for everything else.
#[must_use]
pub fn only(strategy: &Strategy, factor: Factor) -> Strategy {
    let name = format!("{}: only {}", strategy.name, factor.name());
    let overrides = factor.overrides(&strategy.rules);
    Strategy { overrides, ..variant(name, strategy.arithmetic, reference_rules()) }
}

/// The reference for one group, the strategy for everything else.
#[must_use]
pub fn without(strategy: &Strategy, factor: Factor) -> Strategy {
    let name = format!("{}: without {}", strategy.name, factor.name());
    let mut overrides = strategy.overrides.clone();
    overrides.extend(factor.overrides(&reference_rules()));
    Strategy { overrides, ..variant(name, strategy.arithmetic, strategy.rules.clone()) }
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
            (scale, variant(format!("bias × {scale:.3}"), StrategyArithmetic::Float64, rules))
        })
        .collect()
}
