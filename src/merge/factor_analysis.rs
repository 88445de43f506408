//! Factor analysis: strategies that differ from a reference in one group of parameters only, which show the cost of each
//! group. They are evaluated like any others.

use std::collections::BTreeMap;

use super::{Factor, Rule, Strategy};
use crate::partition::Kind;
use crate::tensor::Arithmetic;

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
        arithmetic: Arithmetic::Float64,
        calibrate: false,
        allow_inexact: true,
        rules,
        overrides: Vec::new(),
        origin: "factor analysis".to_owned(),
        lines: BTreeMap::new(),
        blake3: None,
        only_for: None,
    }
}

/// The strategy for one group, the reference for everything else.
pub fn only(strategy: &Strategy, factor: Factor) -> Strategy {
    let name = format!("{}: only {}", strategy.name, factor.name());
    let reference = by_rules("reference".to_owned(), reference_rules());
    let only_for = Some((factor, Box::new(reference)));
    Strategy { name, allow_inexact: true, blake3: None, only_for, ..strategy.clone() }
}

/// The reference for one group, the strategy for everything else.
pub fn without(strategy: &Strategy, factor: Factor) -> Strategy {
    Strategy {
        arithmetic: strategy.arithmetic,
        calibrate: strategy.calibrate,
        only_for: Some((factor, Box::new(strategy.clone()))),
        ..by_rules(format!("{}: without {}", strategy.name, factor.name()), reference_rules())
    }
}

/// Row-parallel biases taken as these multiples of their mean over ranks, from 1/m to m; everything else as the reference.
/// The multiple that the forward pass uses shows as the one without loss.
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
