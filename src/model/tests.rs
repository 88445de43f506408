//! Position tables against the ones that gpt-neox makes (`tests/fixtures/positions`, with the script that wrote them).

use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::rotary::sinusoidal;
use super::scores::buckets_of;
use super::{Backend, Chunk, RotaryTable};
use crate::config::{Architecture, NeoxConfig, Observed, Positions, Precision, QuirkOptions, RotaryScaling};

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

/// The angles of position 1, which are the frequencies.
fn frequencies(positions: Positions, backend: Backend) -> Vec<f64> {
    let architecture = Architecture { positions, ..architecture(json!({}), &json!("fp32"), None) };
    let table = RotaryTable::new(&architecture, backend, 2).unwrap().unwrap();
    let positions = Tensor::arange(2, (Kind::Int64, Device::Cpu));
    let rows = table.rows(&Chunk { start: 0, tokens: 2, groups: Vec::new(), positions }).unwrap();
    let heads = Tensor::zeros([2, 1, 16], (backend.kind, Device::Cpu));
    let _ = heads.narrow(-1, 0, 8).fill_(1.0);
    rows.apply(&heads).unwrap();
    let turned = values(&heads.select(0, 1));
    turned[..8].iter().zip(&turned[8..]).map(|(cos, sin)| sin.atan2(*cos)).collect()
}

#[test]
fn frequencies_are_scaled_as_transformers_does() {
    let llama3 = |factor, original_positions| RotaryScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_positions,
    };
    // The formula in plain Python; the second also by transformers 5.24, which rounds to float32.
    let cases: [(f64, RotaryScaling, [f64; 8]); 3] = [
        (
            500_000.0,
            llama3(8.0, 8192),
            [
                1.0,
                0.193_922_744_748_685_76,
                0.037_606_030_930_863_94,
                0.007_292_664_737_217_109,
                0.000_524_846_160_992_954_7,
                3.428_102_195_952_591e-5,
                6.647_869_871_181_235e-6,
                1.289_173_172_151_557_4e-6,
            ],
        ),
        (
            10_000.0,
            llama3(32.0, 64),
            [
                1.0,
                0.236_687_117_301_672_66,
                0.003_725_354_905_658_370_5,
                0.000_988_211_768_802_618_5,
                0.000_312_5,
                9.882_117_688_026_186e-5,
                3.125e-5,
                9.882_117_688_026_186e-6,
            ],
        ),
        (
            10_000.0,
            RotaryScaling::Linear { factor: 4.0 },
            [
                0.25,
                0.079_056_941_504_209_48,
                0.025,
                0.007_905_694_150_420_95,
                0.002_5,
                0.000_790_569_415_042_095,
                0.000_25,
                7.905_694_150_420_95e-5,
            ],
        ),
    ];
    let double = Backend { kind: Kind::Double, ..F32 };
    for (base, scaling, expected) in cases {
        for (backend, tolerance) in [(double, 1e-13), (F32, 1e-6)] {
            let found = frequencies(Positions::Rotary { dims: 16, base, scaling: Some(scaling) }, backend);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= tolerance * expected, "{scaling:?}: {found:e}, not {expected:e}");
            }
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
