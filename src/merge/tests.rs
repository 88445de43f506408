//! Rules against hand-worked numbers, strategies as files, and what is shared between merges. `exactness` tests the
//! reasons, `strategies` the files; folding against its definition is in `tests/library/fold_properties`.

mod exactness;
mod strategies;

use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Architecture, NeoxConfig, Observed, Positions, QueryKeyNorm};
use crate::partition::{Kind, Param, ParamValue, Role, StageId, StageTensors};
use crate::tensor::{DType, HostTensor};

/// Hidden size 4, one head; changed by `settings`.
fn architecture(settings: Value) -> Architecture {
    let object = |value: Value| -> Map<String, Value> { serde_json::from_value(value).unwrap() };
    let mut raw = object(json!({
        "num_layers": 2, "hidden_size": 4, "num_attention_heads": 2, "max_position_embeddings": 8,
        "pos_emb": "none", "no_weight_tying": true,
    }));
    raw.extend(object(settings));
    let config = NeoxConfig::from_raw(raw, Vec::new()).unwrap();
    let observed = Observed {
        tp_size: 2,
        mlp_inner_size: Some(4),
        padded_vocab_size: Some(8),
        head_shape: None,
        ..Observed::default()
    };
    Architecture::resolve(&config, &observed).unwrap()
}

fn parallel() -> Architecture {
    architecture(json!({ "gpt_j_residual": true }))
}

fn sequential() -> Architecture {
    architecture(json!({ "gpt_j_residual": false }))
}

fn replicas(dtype: DType, replicas: &[&[f64]]) -> ParamValue {
    let tensor = |values: &&[f64]| HostTensor::from_f64(dtype, vec![values.len()], values).unwrap();
    ParamValue::Replicas(replicas.iter().map(tensor).collect())
}

/// Layer 1 with these parameters.
fn layer(tp_size: usize, params: impl IntoIterator<Item = (Role, &'static str, Kind, ParamValue)>) -> StageTensors {
    let params =
        params.into_iter().map(|(role, name, kind, value)| (role, Param { name: name.to_owned(), kind, value }));
    StageTensors { id: StageId::Layer(1), tp_size, params: params.collect() }
}

/// Layer 1 with nothing but the attention's output bias.
fn bias_alone(dtype: DType, values: &[&[f64]]) -> StageTensors {
    let param = (Role::AttentionOutputBias, "attention.dense.bias", Kind::RowParallelBias, replicas(dtype, values));
    layer(values.len(), [param])
}

/// A strategy with the same rule for row-parallel biases, norm gains and learned positions.
fn by(rule: &str) -> Strategy {
    let text = format!("name: by\nrules: {{row-parallel-bias: {rule}, norm-gain: {rule}, learned-positions: {rule}}}");
    Strategy::parse(&text, "test").unwrap()
}

fn merge(stage: &StageTensors, architecture: &Architecture, strategy: &Strategy) -> Result<StageTensors, MergeError> {
    StageMerger::new(stage, architecture).merge(strategy, &mut Exactness::default())
}

/// What is left of a role's replicas.
fn only(stage: &StageTensors, role: Role) -> &HostTensor {
    assert_eq!(stage.tp_size, 1);
    let [only] = stage.replicas(role) else { panic!("{role:?} has {} replicas", stage.replicas(role).len()) };
    only
}

#[test]
fn what_is_merged_ahead_is_what_is_merged_when_asked_for() {
    let architecture = sequential();
    let values: &[&[f64]] = &[&[1.0, 2.0], &[3.0, 5.0]];
    let stage = bias_alone(DType::F32, values);
    // The last asks for a rank that does not exist.
    let strategies = ["mean", "sum", "{rank: 7}"].map(by);
    let ahead = StageMerger::ahead(&stage, &architecture, strategies.iter());
    let made: Vec<_> = ahead.iter().map(HostTensor::storage_id).collect();
    assert_eq!(made.len(), 2);
    let mut merger = StageMerger::with(&stage, &architecture, ahead);
    for (strategy, made) in strategies[..2].iter().zip(made) {
        let merged = merger.merge(strategy, &mut Exactness::default()).unwrap();
        assert!(merged.same_bits(&merge(&stage, &architecture, strategy).unwrap()));
        assert_eq!(only(&merged, Role::AttentionOutputBias).storage_id(), made);
    }
    let error = merger.merge(&strategies[2], &mut Exactness::default()).unwrap_err();
    assert!(matches!(error, MergeError::NoSuchRank { tp_rank: 7, .. }), "{error}");
}

#[test]
fn each_rule_makes_the_numbers_worked_by_hand() {
    let stage = bias_alone(DType::F32, &[&[1.0, -4.0, 2.0], &[3.0, -1.0, 2.0], &[8.0, -4.0, -10.0]]);
    for (rule, expected) in [
        ("rank0", [1.0, -4.0, 2.0]),
        ("rank2", [8.0, -4.0, -10.0]),
        ("{rank: 1}", [3.0, -1.0, 2.0]),
        ("mean", [4.0, -3.0, -2.0]),
        ("median", [3.0, -4.0, 2.0]),
        ("sum", [12.0, -9.0, -6.0]),
        ("{scale: 3}", [12.0, -9.0, -6.0]),
        ("{scale: -0.5}", [-2.0, 1.5, 1.0]),
    ] {
        let merged = merge(&stage, &parallel(), &by(rule)).unwrap();
        assert_eq!(only(&merged, Role::AttentionOutputBias).to_f64().unwrap(), expected, "{rule}");
    }
}

#[test]
fn an_even_number_of_ranks_has_the_mean_of_the_middle_two_as_median() {
    let stage = bias_alone(DType::F32, &[&[1.0], &[100.0], &[4.0], &[2.0]]);
    let merged = merge(&stage, &parallel(), &by("median")).unwrap();
    assert_eq!(only(&merged, Role::AttentionOutputBias).to_f64().unwrap(), [3.0]);
}

#[test]
fn a_geometric_mean_is_of_magnitudes_with_the_common_sign() {
    let gains = replicas(DType::F64, &[&[2.0, -1.0, 4.0, 0.0], &[8.0, -4.0, -4.0, 3.0]]);
    let stage = layer(2, [(Role::InputNormGain, "input_layernorm.weight", Kind::NormGain, gains)]);
    let strategy = Strategy::parse("name: by\nrules: {norm-gain: geometric-mean}", "test").unwrap();
    let merged = merge(&stage, &parallel(), &strategy).unwrap();
    let values = only(&merged, Role::InputNormGain).to_f64().unwrap();
    for (found, expected) in values.into_iter().zip([4.0, -2.0, 0.0, 0.0]) {
        assert!((found - expected).abs() < 1e-14, "{found} against {expected}");
    }
}

#[test]
fn auto_sums_only_biases_that_are_added_before_the_reduction() {
    let values: &[&[f64]] = &[&[1.0, 2.0], &[3.0, 6.0]];
    let params = || {
        [
            (Role::MlpOutputBias, "mlp.linear2.bias", Kind::RowParallelBias, replicas(DType::F32, values)),
            (
                Role::PositionEmbedding,
                "position_embeddings.weight",
                Kind::LearnedPositions,
                replicas(DType::F32, values),
            ),
            (Role::InputNormGain, "input_layernorm.weight", Kind::NormGain, replicas(DType::F32, values)),
        ]
    };
    for (architecture, bias) in [(parallel(), [4.0, 8.0]), (sequential(), [2.0, 4.0])] {
        let merged = merge(&layer(2, params()), &architecture, &by("auto")).unwrap();
        for (role, expected) in
            [(Role::MlpOutputBias, bias), (Role::PositionEmbedding, [2.0, 4.0]), (Role::InputNormGain, [2.0, 4.0])]
        {
            assert_eq!(only(&merged, role).to_f64().unwrap(), expected, "{role:?}");
        }
    }
}

#[test]
fn merge20b_rounds_at_every_step_in_the_type_of_the_checkpoint() {
    let built_in = |name: &str| Strategy::resolve(name).unwrap();
    let bias = |dtype, values: &[&[f64]], strategy: &Strategy| {
        let merged = merge(&bias_alone(dtype, values), &parallel(), strategy).unwrap();
        only(&merged, Role::AttentionOutputBias).to_f64().unwrap()
    };
    let (merge20b, aware) = (built_in("merge20b"), built_in("reduce-aware"));
    // float16 has steps of 2 from 2048 and ties go to even: each 1 is lost by itself.
    let values: &[&[f64]] = &[&[2048.0], &[1.0], &[1.0], &[1.0]];
    assert_eq!(bias(DType::F16, values, &merge20b), [2048.0]);
    assert_eq!(bias(DType::F16, values, &aware), [2052.0]);
    assert_eq!(bias(DType::F32, values, &merge20b), [2051.0]);
    // bfloat16 has steps of 2 from 256.
    assert_eq!(bias(DType::BF16, &[&[256.0], &[1.0], &[1.0]], &merge20b), [256.0]);
    assert_eq!(bias(DType::BF16, &[&[256.0], &[1.0], &[1.0]], &aware), [258.0]);
    // float32 has steps of 2 from 2^24.
    assert_eq!(bias(DType::F32, &[&[16_777_216.0], &[1.0], &[1.0]], &merge20b), [16_777_216.0]);
    assert_eq!(bias(DType::F32, &[&[16_777_216.0], &[1.0], &[1.0]], &aware), [16_777_218.0]);

    let gain = |values: &[&[f64]], strategy: &Strategy| {
        let gains = replicas(DType::F16, values);
        let stage = layer(values.len(), [(Role::InputNormGain, "input_layernorm.weight", Kind::NormGain, gains)]);
        only(&merge(&stage, &parallel(), strategy).unwrap(), Role::InputNormGain).to_f64().unwrap()
    };
    // (2048 + 1 + 1 + 1) / 4: 512.75 rounds to 513, the lost ones make it 512.
    assert_eq!(gain(values, &merge20b), [512.0]);
    assert_eq!(gain(values, &aware), [513.0]);
    // The sum overflows before it is halved.
    assert_eq!(gain(&[&[60_000.0], &[60_064.0]], &merge20b), [f64::INFINITY]);
    assert_eq!(gain(&[&[60_000.0], &[60_064.0]], &aware), [60_032.0]);
}

#[test]
fn each_distinct_tensor_is_made_once() {
    let stage = bias_alone(DType::F32, &[&[1.0, 2.0], &[3.0, 6.0]]);
    let architecture = parallel();
    let mut merger = StageMerger::new(&stage, &architecture);
    let mut id_of = |name: &str| {
        let strategy = Strategy::resolve(name).unwrap();
        let merged = merger.merge(&strategy, &mut Exactness::default()).unwrap();
        only(&merged, Role::AttentionOutputBias).clone()
    };
    // Clones are kept, so that no tensor can be made where another was.
    let (aware, fold, mean, merge20b, zeroth) =
        (id_of("reduce-aware"), id_of("fold"), id_of("mean"), id_of("merge20b"), id_of("zeroth"));
    assert_eq!(aware.storage_id(), fold.storage_id(), "both sum in float64");
    assert_eq!(aware.storage_id(), id_of("reduce-aware").storage_id(), "asked for again");
    for (other, why) in [(&mean, "mean"), (&merge20b, "sum in the checkpoint's type"), (&zeroth, "rank 0")] {
        assert_ne!(aware.storage_id(), other.storage_id(), "{why}");
    }
    assert_eq!(zeroth.storage_id(), stage.replicas(Role::AttentionOutputBias)[0].storage_id(), "no copy");
}

#[test]
fn partitioned_tensors_are_shared_by_all_merges() {
    let weight = HostTensor::new(DType::U8, vec![2, 2], vec![1, 2, 3, 4]).unwrap();
    let joined = ParamValue::Joined(weight.clone());
    let stage = layer(2, [(Role::MlpInputWeight, "mlp.linear1.weight", Kind::ColumnParallel, joined)]);
    for strategy in Strategy::built_in().unwrap() {
        let merged = merge(&stage, &parallel(), &strategy).unwrap();
        let [only] = merged.params[&Role::MlpInputWeight].value.tensors() else { panic!("{}", strategy.name) };
        assert_eq!(only.storage_id(), weight.storage_id(), "{}", strategy.name);
    }
}

#[test]
fn replicas_that_agree_stay_the_very_same_tensor_but_under_sums() {
    let stage = bias_alone(DType::F32, &[&[0.1, 0.2, 0.3], &[0.1, 0.2, 0.3], &[0.1, 0.2, 0.3]]);
    let first = &stage.replicas(Role::AttentionOutputBias)[0];
    for rule in ["rank0", "rank1", "mean", "median"] {
        let merged = merge(&stage, &sequential(), &by(rule)).unwrap();
        assert_eq!(only(&merged, Role::AttentionOutputBias).storage_id(), first.storage_id(), "{rule}");
    }
    for rule in ["sum", "{scale: 3}", "{scale: 1}"] {
        let merged = merge(&stage, &sequential(), &by(rule)).unwrap();
        assert_ne!(only(&merged, Role::AttentionOutputBias).storage_id(), first.storage_id(), "{rule}");
    }
}

#[test]
fn signatures_tell_apart_exactly_what_is_made_differently() {
    let equal: &[&[f64]] = &[&[1.0], &[1.0]];
    let different: &[&[f64]] = &[&[1.0], &[2.0]];
    let same = |values, left: &str, right: &str, architecture: &Architecture| {
        let stage = bias_alone(DType::F32, values);
        let merger = StageMerger::new(&stage, architecture);
        let signature = |name: &str| merger.signature(&Strategy::resolve(name).unwrap()).unwrap();
        signature(left) == signature(right)
    };
    assert!(same(different, "reduce-aware", "fold", &parallel()));
    assert!(!same(different, "reduce-aware", "mean", &parallel()));
    assert!(!same(different, "zeroth", "mean", &parallel()));
    assert!(!same(different, "reduce-aware", "merge20b", &parallel()), "another arithmetic");
    assert!(same(equal, "zeroth", "mean", &parallel()), "equal replicas stay what they are");
    assert!(!same(equal, "zeroth", "reduce-aware", &parallel()), "a sum is another tensor");
    assert!(same(equal, "zeroth", "reduce-aware", &sequential()));
}

#[test]
fn what_cannot_be_merged_is_named() {
    let stage = bias_alone(DType::F32, &[&[1.0], &[2.0]]);
    let message = |strategy: &Strategy| merge(&stage, &parallel(), strategy).unwrap_err().to_string();
    assert_eq!(message(&by("rank2")), "strategy `by` asks for rank 2, but the checkpoint has ranks 0 to 1");
    let none = Strategy::parse("name: none\nrules: {norm-gain: mean}", "test").unwrap();
    assert_eq!(message(&none), "strategy `none` has no rule for row-parallel-bias parameters");
    let hint = merge(&stage, &parallel(), &none).unwrap_err().hint();
    assert_eq!(hint.as_deref(), Some("add `row-parallel-bias: mean` (or another rule) under `rules:`"));

    let uneven = bias_alone(DType::F32, &[&[1.0], &[2.0, 3.0]]);
    let error = merge(&uneven, &parallel(), &by("mean")).unwrap_err().to_string();
    assert_eq!(error, "layer 1: `attention.dense.bias`: expected f32 [1], found f32 [2]");

    let norm = layer(
        2,
        [
            (Role::InputNormGain, "input_layernorm.weight", Kind::NormGain, replicas(DType::F32, &[&[1.0], &[2.0]])),
            (Role::InputNormBias, "input_layernorm.bias", Kind::NormBias, replicas(DType::F32, &[&[0.0], &[0.0]])),
        ],
    );
    let half = Strategy::parse("name: half\nrules: {norm-gain: fold, norm-bias: mean}", "test").unwrap();
    let error = merge(&norm, &parallel(), &half).unwrap_err().to_string();
    assert_eq!(error, "strategy `half`, layer 1: gain and bias of a norm are folded together or not at all");
}
