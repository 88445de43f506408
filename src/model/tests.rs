//! Position tables against the ones that gpt-neox makes (`tests/fixtures/positions`, with the script that wrote them).

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::rotary::sinusoidal;
use super::scores::buckets_of;
use super::{Backend, Chunk, RotaryTable};
use crate::config::{Architecture, NeoxConfig, Observed, Precision, QuirkOptions};

const F32: Backend = Backend { device: Device::Cpu, kind: Kind::Float };

fn fixtures() -> Value {
    serde_json::from_str(include_str!("../../tests/fixtures/positions/positions.json")).unwrap()
}

fn floats(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn integers(values: &Value) -> Vec<i64> {
    values.as_array().unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
}

fn architecture(settings: Value, storage: &Value, quirk: Option<&str>) -> Architecture {
    let mut raw: Map<String, Value> = serde_json::from_value(json!({
        "num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 128,
    }))
    .unwrap();
    raw.extend(serde_json::from_value::<Map<String, Value>>(settings).unwrap());
    let precision = match storage.as_str().unwrap() {
        "fp16" => Precision::Fp16,
        "bfloat16" => Precision::Bf16,
        _ => Precision::Fp32,
    };
    let observed = Observed {
        tp_size: 1,
        mlp_inner_size: Some(8),
        padded_vocab_size: Some(8),
        precision: Some(precision),
        ..Observed::default()
    };
    let settings = quirk.into_iter().map(|quirk| format!("rotary-tables={quirk}").parse().unwrap()).collect();
    let config = NeoxConfig::from_raw(raw, Vec::new()).unwrap();
    Architecture::resolve_with(&config, &observed, &QuirkOptions { era: None, settings }).unwrap().0
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

#[track_caller]
fn assert_close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    let worst = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "off by {worst:e}");
}

#[test]
fn rotary_tables_are_gpt_neoxs_in_every_era() {
    for case in fixtures()["rotary"].as_array().unwrap() {
        let (dims, base) = (case["dims"].as_u64().unwrap(), case["base"].as_f64().unwrap());
        #[expect(clippy::cast_precision_loss, reason = "a share of 8 elements")]
        let share = dims as f64 / 8.0;
        let settings = json!({ "pos_emb": "rotary", "rotary_pct": share, "rotary_emb_base": base });
        let architecture = architecture(settings, &case["storage"], case["tables"].as_str());
        let table = RotaryTable::new(&architecture, F32, 70).unwrap().unwrap();
        let positions = Tensor::arange(70, (Kind::Int64, Device::Cpu));
        let chunk = Chunk { start: 0, tokens: 70, groups: Vec::new(), positions };
        // Turning (1, 0) gives (cos, sin).
        let (dims, half) = (i64::try_from(dims).unwrap(), i64::try_from(dims / 2).unwrap());
        let heads = Tensor::zeros([70, 1, dims], (Kind::Float, Device::Cpu));
        let _ = heads.narrow(-1, 0, half).fill_(1.0);
        table.rows(&chunk).unwrap().apply(&heads).unwrap();
        let place = format!("{} in {}", case["tables"], case["storage"]);
        // What is rounded to the files' type must be so to the bit.
        let tolerance = if case["tables"] == "float32" { 1e-6 } else { 0.0 };
        for (part, start) in [("cos", 0), ("sin", half)] {
            let worst = values(&heads.narrow(-1, start, half))
                .iter()
                .zip(floats(&case[part]))
                .map(|(ours, theirs)| (ours - theirs).abs())
                .fold(0.0, f64::max);
            assert!(worst <= tolerance, "{place}: {part} off by {worst:e}");
        }
    }
}

#[test]
fn the_eras_differ_where_files_are_in_half_precision() {
    let fixtures = fixtures();
    let of = |tables: &str| {
        let cases = fixtures["rotary"].as_array().unwrap();
        let case = cases.iter().rfind(|case| case["tables"] == tables && case["storage"] == "fp16").unwrap();
        floats(&case["sin"])
    };
    let differ = |left: &str, right: &str| {
        of(left).iter().zip(of(right)).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
    };
    assert!(differ("float32", "storage") > 1e-3);
    assert!(differ("storage", "rounded-angles") > 1e-3);
}

#[test]
fn sinusoidal_positions_are_sines_and_then_cosines_in_the_files_type() {
    for case in fixtures()["sinusoidal"].as_array().unwrap() {
        let architecture = architecture(json!({ "pos_emb": "sinusoidal" }), &case["storage"], None);
        let tolerance = if case["storage"] == "fp32" { 1e-6 } else { 0.0 };
        assert_close(&values(&sinusoidal(&architecture, F32, 70).unwrap()), &floats(&case["rows"]), tolerance);
    }
}

#[test]
fn relative_distances_fall_into_t5s_buckets() {
    for case in fixtures()["buckets"].as_array().unwrap() {
        let integer = |name: &str| case[name].as_i64().unwrap();
        let expected = integers(&case["of"]);
        let length = i64::try_from(expected.len()).unwrap();
        let found = buckets_of(length, integer("buckets"), integer("max_distance")).unwrap();
        assert_eq!(Vec::<i64>::try_from(&found).unwrap(), expected);
    }
}
