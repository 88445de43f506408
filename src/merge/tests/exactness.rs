//! Whether a merge is the unmerged model, rule by rule.

use super::*;

fn bias(values: &[&[f64]]) -> Param {
    let value = replicas(DType::F32, values);
    Param { name: "attention.dense.bias".to_owned(), kind: Kind::RowParallelBias, value }
}

fn gain(values: &[&[f64]]) -> Param {
    let value = replicas(DType::F32, values);
    Param { name: "input_layernorm.weight".to_owned(), kind: Kind::NormGain, value }
}

const EQUAL: &[&[f64]] = &[&[1.0, 2.0], &[1.0, 2.0]];
const DIFFERENT: &[&[f64]] = &[&[1.0, 2.0], &[1.0, 3.0]];
const ZERO: &[&[f64]] = &[&[0.0, 0.0], &[0.0, -0.0]];

fn reason(architecture: &Architecture, param: &Param, rule: Rule) -> Option<String> {
    let role = match param.kind {
        Kind::RowParallelBias => Role::AttentionOutputBias,
        _ => Role::InputNormGain,
    };
    inexact_because(architecture, role, param, rule).map(|loss| {
        assert_eq!(loss.name, param.name);
        loss.reason
    })
}

#[test]
fn biases_before_the_reduction_must_keep_their_sum() {
    let parallel = parallel();
    for values in [EQUAL, DIFFERENT] {
        assert_eq!(reason(&parallel, &bias(values), Rule::Sum), None);
        assert_eq!(reason(&parallel, &bias(values), Rule::Scale(2.0)), None);
        for (rule, text) in [
            (Rule::Rank(0), "`rank 0` keeps 1/2 of it"),
            (Rule::Rank(1), "`rank 1` keeps 1/2 of it"),
            (Rule::Mean, "`mean` keeps 1/2 of it"),
            (Rule::Median, "`median` keeps 1/2 of it"),
            (Rule::Scale(1.5), "`1.5 × mean` keeps 1.5/2 of it"),
        ] {
            let expected = format!("every rank adds its own before the all-reduce, so the sum counts: {text}");
            assert_eq!(reason(&parallel, &bias(values), rule), Some(expected));
        }
    }
    for rule in [Rule::Rank(0), Rule::Mean, Rule::Median, Rule::Sum, Rule::Scale(7.0)] {
        assert_eq!(reason(&parallel, &bias(ZERO), rule), None, "{rule}: nothing is lost of zeros");
    }
}

#[test]
fn biases_after_the_reduction_must_stay_one() {
    let sequential = sequential();
    for rule in [Rule::Rank(1), Rule::Mean, Rule::Median, Rule::Scale(1.0)] {
        assert_eq!(reason(&sequential, &bias(EQUAL), rule), None, "{rule}");
        let expected = format!("replicas differ, so every rank has a residual stream of its own: `{rule}` keeps one");
        assert_eq!(reason(&sequential, &bias(DIFFERENT), rule), Some(expected));
    }
    for values in [EQUAL, DIFFERENT] {
        let expected = "each rank adds it once, after the all-reduce: `sum` makes it 2 times what it is";
        assert_eq!(reason(&sequential, &bias(values), Rule::Sum).as_deref(), Some(expected));
        let expected = "each rank adds it once, after the all-reduce: `0.5 × mean` makes it 0.5 times what it is";
        assert_eq!(reason(&sequential, &bias(values), Rule::Scale(0.5)).as_deref(), Some(expected));
    }
    assert_eq!(reason(&sequential, &bias(ZERO), Rule::Sum), None);
}

#[test]
fn norms_must_agree_or_be_folded() {
    for architecture in [parallel(), sequential()] {
        for rule in [Rule::Rank(0), Rule::Mean, Rule::Median, Rule::GeometricMean, Rule::Scale(1.0), Rule::Fold] {
            assert_eq!(reason(&architecture, &gain(EQUAL), rule), None, "{rule}");
        }
        for rule in [Rule::Rank(0), Rule::Mean, Rule::Median, Rule::GeometricMean] {
            let expected = format!("replicas differ between ranks: `{rule}` keeps one value");
            assert_eq!(reason(&architecture, &gain(DIFFERENT), rule), Some(expected));
        }
        assert_eq!(reason(&architecture, &gain(DIFFERENT), Rule::Fold), None);
        let expected = "the model uses it once: `sum` makes it 2 times what it is";
        assert_eq!(reason(&architecture, &gain(EQUAL), Rule::Sum).as_deref(), Some(expected));
    }
}

#[test]
fn norms_of_queries_and_keys_must_agree() {
    let turned = Positions::Rotary { dims: 2, base: 10_000.0, scaling: None };
    let still = Architecture { query_key_norm: Some(QueryKeyNorm::PerHead), ..sequential() };
    let turning = Architecture { positions: turned, ..still.clone() };
    let stage = |role, kind, values| {
        let param = Param { name: "norm.weight".to_owned(), kind, value: replicas(DType::F32, values) };
        StageTensors { id: StageId::Layer(0), tp_size: 2, params: [(role, param)].into() }
    };
    let because = |architecture: &Architecture, stage: &StageTensors, strategy: &str| {
        let mut exactness = Exactness::default();
        let strategy = Strategy::resolve(strategy).unwrap();
        let merged = StageMerger::new(stage, architecture).merge(&strategy, &mut exactness).unwrap();
        (merged.params.values().next().unwrap().value.tensors()[0].to_f64().unwrap(), exactness.because())
    };
    let reason = |rule: &str| {
        vec![format!(
            "norm.weight (layer 0): replicas differ, and the normalisation stands between the matrix and the gain, so that \
             nothing can be folded: `{rule}` keeps one value"
        )]
    };
    for (role, kind) in [
        (Role::QueryNormGain, Kind::NormGain),
        (Role::QueryNormBias, Kind::NormBias),
        (Role::KeyNormGain, Kind::NormGain),
        (Role::KeyNormBias, Kind::NormBias),
    ] {
        let drifted = stage(role, kind, DIFFERENT);
        assert_eq!(because(&turning, &drifted, "fold"), (vec![1.0, 2.5], reason("mean")));
        assert_eq!(because(&turning, &drifted, "zeroth"), (vec![1.0, 2.0], reason("rank 0")));
        assert_eq!(because(&turning, &stage(role, kind, EQUAL), "fold"), (vec![1.0, 2.0], Vec::new()));
        // What is added to all keys is added to all scores of a query.
        let seen = if role == Role::KeyNormBias { Vec::new() } else { reason("mean") };
        assert_eq!(because(&still, &drifted, "fold").1, seen);
        // Queries and keys are made of the whole sequence, so that every replica acts on all of it.
        let stretched = Architecture { sequence_parallel: true, ..turning.clone() };
        assert_eq!(because(&stretched, &drifted, "fold").1, reason("mean"));
    }
}

#[test]
fn learned_positions_fork_the_streams_and_one_rank_loses_nothing() {
    let positions = |values: &[&[f64]]| Param {
        name: "position_embeddings.weight".to_owned(),
        kind: Kind::LearnedPositions,
        value: replicas(DType::F32, values),
    };
    for architecture in [parallel(), sequential()] {
        assert_eq!(reason(&architecture, &positions(EQUAL), Rule::Mean), None);
        let found = reason(&architecture, &positions(DIFFERENT), Rule::Mean).unwrap();
        assert!(found.contains("a residual stream of its own"), "{found}");
        for rule in [Rule::Rank(0), Rule::Mean, Rule::Sum] {
            assert_eq!(reason(&architecture, &bias(&EQUAL[..1]), rule), None, "{rule}");
        }
    }
}

#[test]
fn reasons_are_gathered_over_stages() {
    let stage = bias_alone(DType::F32, DIFFERENT);
    let (architecture, mean) = (parallel(), Strategy::resolve("mean").unwrap());
    let mut exactness = Exactness::default();
    assert!(exactness.is_exact() && exactness.because().is_empty() && exactness.folding().is_none());
    let text = "every rank adds its own before the all-reduce, so the sum counts: `mean` keeps 1/2 of it";
    // The same stage again, as a second slice reads it.
    for _ in 0..2 {
        StageMerger::new(&stage, &architecture).merge(&mean, &mut exactness).unwrap();
        assert_eq!(exactness.because(), [format!("attention.dense.bias (layer 1): {text}")]);
    }
    let later = StageTensors { id: StageId::Layer(5), ..stage };
    StageMerger::new(&later, &architecture).merge(&mean, &mut exactness).unwrap();
    assert_eq!(exactness.because(), [format!("attention.dense.bias (2 layers): {text}")]);
    assert!(!exactness.is_exact());
    let output = StageTensors {
        id: StageId::Output,
        tp_size: 2,
        params: [(Role::FinalNormGain, Param { name: "norm.weight".to_owned(), ..gain(DIFFERENT) })].into(),
    };
    StageMerger::new(&output, &architecture).merge(&mean, &mut exactness).unwrap();
    assert_eq!(exactness.because()[1], "norm.weight: replicas differ between ranks: `mean` keeps one value");
}

#[test]
fn a_miscount_is_said_without_needless_decimals() {
    let parameters = vec!["attention.dense.bias".to_owned(), "mlp.linear2.bias".to_owned()];
    let said = [0.5, 2.0, 1.0 / 3.0].map(|factor| Miscount { factor, parameters: parameters.clone() }.to_string());
    assert_eq!(said[0], "attention.dense.bias and mlp.linear2.bias 0.5 times what the model has");
    assert!(said[1].contains(" 2 times ") && said[2].contains(" 0.333 times "), "{said:?}");
}
