//! Whether merges are the unmerged model when they say so, over random models of every supported architecture: the
//! merged model's logits against a plain-loop forward pass of the unmerged one, in float64.

mod folded_weights;
#[cfg(feature = "libtorch")]
mod libtorch;
mod megatron_files;
mod random_model;
mod reference;

use kintsugi::config::{Architecture, Head, MlpInput, Norm, Positions, QueryKeyNorm, Residual};
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::StageTensors;
use kintsugi::tensor::DType;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Strategy as _;

use folded_weights::{Found, half_step};
use random_model::{Design, Drifting, NormBiases, RandomModel, designs, one_rank};

/// What float64 arithmetic in another order may change.
const NOISE: f64 = 1e-10;

/// What a wrong merge changes at least, with replicas that differ by a thousandth.
const REAL: f64 = 1e-9;

/// The same of norms of queries and keys alone, whose scores may be so near to 0 that the softmax hardly sees them.
const FAINT: f64 = 1e-12;

/// Strategies beside the built-in ones: every rule, and `scale` where it happens to be right and where not.
const FURTHER: [&str; 5] = [
    "{name: median, rules: {norm-gain: median, norm-bias: median, row-parallel-bias: median, learned-positions: median}}",
    "{name: doubled, rules: {norm-gain: fold, norm-bias: fold, row-parallel-bias: {scale: 2}, learned-positions: rank0}}",
    "{name: summed, rules: {norm-gain: fold, norm-bias: fold, row-parallel-bias: sum, learned-positions: mean}}",
    "{name: geometric, rules: {norm-gain: geometric-mean, norm-bias: mean, row-parallel-bias: auto, learned-positions: mean}}",
    "{name: thrice, rules: {norm-gain: {scale: 3}, norm-bias: mean, row-parallel-bias: auto, learned-positions: mean}}",
];

const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

fn strategies() -> Vec<Strategy> {
    let further = FURTHER.iter().map(|text| Strategy::parse(text, "test").unwrap());
    Strategy::built_in().unwrap().into_iter().chain(further).collect()
}

/// The larger of the logits' largest difference, relative to the largest logit, and the log-probabilities'.
fn difference(left: &[Vec<f64>], right: &[Vec<f64>]) -> f64 {
    let largest = |left: &[Vec<f64>], right: &[Vec<f64>]| {
        assert_eq!(left.len(), right.len());
        let of_token = |(left, right): (&Vec<f64>, &Vec<f64>)| {
            assert!(left.len() == right.len() && left.iter().chain(right).all(|value| value.is_finite()));
            left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
        };
        left.iter().zip(right).map(of_token).fold(0.0, f64::max)
    };
    let scale = left.iter().flatten().fold(1.0_f64, |scale, logit| scale.max(logit.abs()));
    let log_probabilities = [left, right].map(reference::log_probabilities);
    (largest(left, right) / scale).max(largest(&log_probabilities[0], &log_probabilities[1]))
}

/// The one-rank model that a strategy makes.
fn merge(design: &Design, model: &RandomModel, strategy: &Strategy) -> (Vec<StageTensors>, Exactness) {
    let mut exactness = Exactness::default();
    let merged = model
        .stages
        .iter()
        .map(|stage| StageMerger::new(stage, &design.architecture).merge(strategy, &mut exactness).unwrap());
    (merged.collect(), exactness)
}

/// How far the model that a strategy makes is from the unmerged one, and what its exactness says.
fn compare(design: &Design, strategy: &Strategy) -> (f64, Exactness) {
    let model = design.draw();
    let ids = design.ids();
    let unmerged = reference::logits(&design.architecture, &model.ranks, &ids);
    let (merged, exactness) = merge(design, &model, strategy);
    let merged = reference::logits(&design.architecture, &one_rank(&merged), &ids);
    (difference(&unmerged, &merged), exactness)
}

/// Folds and checks every value; what the fold says it changed must be what was found.
fn fold_and_check(design: &Design) -> Found {
    let model = design.draw();
    let (merged, exactness) = merge(design, &model, &Strategy::resolve("fold").unwrap());
    let mut found = Found::default();
    for ((before, ranks), merged) in model.stages.iter().zip(&model.ranks.stages).zip(&merged) {
        folded_weights::check(design, before, ranks, merged, &mut found);
    }
    let close = |said: f64, seen: f64| (said - seen).abs() <= 1e-9 * seen.max(1e-3);
    match (exactness.folding(), found.summary) {
        (Some(said), Some(seen)) => {
            assert!(close(said.max_weight_change, seen.max_weight_change), "{said:?}, but {seen:?}");
            assert!(close(said.max_rank_one, seen.max_rank_one), "{said:?}, but {seen:?}");
            assert_eq!(said.unties_head, seen.unties_head);
        }
        (said, seen) => assert!(said.is_none() && seen.is_none(), "{said:?}, but {seen:?}"),
    }
    found
}

/// Whether folding the norms loses nothing: all ranks hold one residual stream, no norm whose replicas differ feeds
/// another, and norms that nothing can be folded out of agree.
fn folding_is_exact(design: &Design) -> bool {
    let Design { architecture, drifting, .. } = design;
    let drifts = |of: bool| of && design.drift > 0.0 && design.tp_size > 1;
    let own_position =
        matches!(architecture.positions, Positions::Learned { .. }) || architecture.soft_prompt_length > 0;
    let own_bias = architecture.residual != Residual::Parallel
        && design.row_biases
        && (architecture.attention_output_bias || architecture.mlp_bias);
    let gains = architecture.norm.has_gain() && drifts(drifting.gains);
    let biases = architecture.norm.has_bias() && design.norm_biases != NormBiases::Zero && drifts(drifting.norm_biases);
    let feeding = architecture.mlp_input == MlpInput::NormOfAttentionNorm && (gains || biases);
    let per_head = architecture.query_key_norm == Some(QueryKeyNorm::PerHead) && !architecture.attention_dropped;
    let of_heads = per_head && (gains || biases);
    !(of_heads || own_position && drifts(drifting.positions) || own_bias && drifts(drifting.row_biases) || feeding)
}

/// What these losses change at least.
fn least(because: &[String]) -> f64 {
    let of_heads = |line: &String| line.contains("the normalisation stands between");
    if because.iter().all(of_heads) { FAINT } else { REAL }
}

/// The same with replicas that agree.
fn without_drift() -> impl proptest::strategy::Strategy<Value = Design> {
    designs().prop_map(|design| Design { drift: 0.0, ..design })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[cfg(feature = "libtorch")]
    #[test]
    fn the_libtorch_model_is_the_reference(design in designs()) {
        let model = design.draw();
        let ids = design.ids();
        let expected = reference::logits(&design.architecture, &model.ranks, &ids);
        let (logits, log_probabilities) = libtorch::logits(&design.architecture, &model.stages, &ids);
        prop_assert!(difference(&expected, &logits) < NOISE, "unmerged: {:e}", difference(&expected, &logits));
        prop_assert!(difference(&reference::log_probabilities(&expected), &log_probabilities) < NOISE);

        let (merged, _) = merge(&design, &model, &Strategy::resolve("fold").unwrap());
        let expected = reference::logits(&design.architecture, &one_rank(&merged), &ids);
        let (logits, _) = libtorch::logits(&design.architecture, &merged, &ids);
        prop_assert!(difference(&expected, &logits) < NOISE, "folded: {:e}", difference(&expected, &logits));
    }

    #[cfg(feature = "libtorch")]
    #[test]
    fn a_norm_over_a_ranks_heads_is_the_references(design in designs()) {
        // Norms that take their statistics over all heads of a rank, with parameters and without.
        let norm = if design.architecture.norm.has_gain() { Norm::LayerNorm } else { Norm::NonParametricLayerNorm };
        let architecture = Architecture { query_key_norm: Some(QueryKeyNorm::OverHeads), norm, ..design.architecture };
        let design = Design { architecture, ..design };
        let model = design.draw();
        let ids = design.ids();
        let expected = reference::logits(&design.architecture, &model.ranks, &ids);
        let (logits, _) = libtorch::logits(&design.architecture, &model.stages, &ids);
        prop_assert!(difference(&expected, &logits) < NOISE, "unmerged: {:e}", difference(&expected, &logits));
        let fold = Strategy::resolve("fold").unwrap();
        let mut exactness = Exactness::default();
        let refused = StageMerger::new(&model.stages[1], &design.architecture).merge(&fold, &mut exactness);
        prop_assert_eq!(refused.is_err(), design.tp_size > 1);
        let (merged, exactness) = merge(&design, &model, &Strategy { allow_inexact: true, ..fold });
        prop_assert_eq!(exactness.is_exact(), design.tp_size == 1);
        let expected = reference::logits(&design.architecture, &one_rank(&merged), &ids);
        let (logits, _) = libtorch::logits(&design.architecture, &merged, &ids);
        prop_assert!(difference(&expected, &logits) < NOISE, "merged: {:e}", difference(&expected, &logits));
    }

    #[test]
    fn folding_is_exact_where_ranks_share_a_stream(design in designs()) {
        let (difference, exactness) = compare(&design, &Strategy::resolve("fold").unwrap());
        prop_assert_eq!(exactness.is_exact(), folding_is_exact(&design), "{:?}", exactness.because());
        if exactness.is_exact() {
            prop_assert!(difference < NOISE, "said to be exact, off by {:e}", difference);
        } else {
            let because = exactness.because();
            prop_assert!(difference > least(&because), "said to lose ({because:?}), off by {difference:e} only");
        }
    }

    #[test]
    fn every_strategy_is_what_its_exactness_says(design in designs()) {
        for strategy in strategies() {
            let (difference, exactness) = compare(&design, &strategy);
            if exactness.is_exact() {
                prop_assert!(difference < NOISE, "{}: said to be exact, off by {:e}", strategy.name, difference);
            } else {
                let because = exactness.because();
                let least = least(&because);
                prop_assert!(difference > least, "{}: said to lose ({because:?}), off by {difference:e}", strategy.name);
            }
        }
    }

    #[test]
    fn reduce_aware_loses_nothing_where_replicas_agree(design in without_drift()) {
        let (difference, exactness) = compare(&design, &Strategy::resolve("reduce-aware").unwrap());
        prop_assert!(exactness.is_exact(), "{:?}", exactness.because());
        prop_assert!(difference < NOISE, "off by {:e}", difference);
    }

    #[test]
    fn the_mean_loses_summed_biases(design in without_drift()) {
        let (difference, exactness) = compare(&design, &Strategy::resolve("mean").unwrap());
        let summed = design.architecture.residual == Residual::Parallel
            && design.tp_size > 1
            && design.row_biases
            && (design.architecture.attention_output_bias && !design.architecture.attention_dropped
                || design.architecture.mlp_bias);
        prop_assert_eq!(exactness.is_exact(), !summed, "{:?}", exactness.because());
        prop_assert_eq!(difference > REAL, summed, "off by {:e}", difference);
    }

    #[test]
    fn folded_values_are_rounded_once(design in designs(), dtype in select(DTYPES.to_vec())) {
        let design = Design { dtype, ..design };
        let found = fold_and_check(&design);
        if let Some(summary) = found.summary {
            prop_assert!(summary.max_rank_one <= 2.0 * found.largest_weight, "{found:?}");
            prop_assert!(summary.max_weight_change <= 8.0 * found.largest_weight, "{found:?}");
        }
        let (difference, exactness) = compare(&design, &Strategy::resolve("fold").unwrap());
        // Every weight is off by at most half a step, a few layers deep: a small multiple of it in the logits.
        let explained = 100.0 * half_step(dtype, 1.0) + NOISE;
        prop_assert!(!exactness.is_exact() || difference < explained, "off by {difference:e}, not by {explained:e}");
    }

    #[test]
    fn rank_one_terms_stay_small_where_their_denominator_vanishes(
        design in designs(),
        norm_biases in select(vec![NormBiases::Balanced, NormBiases::Zero]),
        dtype in select(DTYPES.to_vec()),
    ) {
        let architecture = Architecture {
            norm: Norm::LayerNorm, residual: Residual::Parallel, positions: Positions::Absent, head: Head::Tied,
            qkv_bias: false, attention_output_bias: false, mlp_bias: false, mlp_input: MlpInput::OwnNorm, attention_dropped: false,
            query_key_norm: None, soft_prompt_length: 0,
            ..design.architecture
        };
        let drifting = Drifting { gains: true, norm_biases: true, ..design.drifting };
        let design = Design { architecture, dtype, drift: design.drift.max(0.02), drifting, norm_biases, ..design };
        let found = fold_and_check(&design);
        prop_assert_eq!(found.summary.is_some(), design.tp_size > 1);
        if let Some(summary) = found.summary {
            prop_assert!(summary.unties_head);
            prop_assert!(summary.max_weight_change <= 8.0 * found.largest_weight, "{found:?}");
            match norm_biases {
                // Without biases there is no constant to carry.
                NormBiases::Zero => prop_assert!(summary.max_rank_one == 0.0),
                _ => prop_assert!((0.0..=2.0 * found.largest_weight).contains(&summary.max_rank_one), "{found:?}"),
            }
        }
        if dtype == DType::F64 {
            let (difference, _) = compare(&design, &Strategy::resolve("fold").unwrap());
            prop_assert!(difference < NOISE, "off by {difference:e}");
        }
    }
}
