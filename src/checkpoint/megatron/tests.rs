//! Arguments of every version, folders, and rows that are rotated in pairs.

use fs_err as fs;
use serde_json::{Map, Value, json};

use super::args::{Args, GivenArgs};
use super::layout::StepFolder;
use super::rank_file::QkvVersion;
use super::rows::RowOrders;
use super::settings::Settings;
use super::*;
use crate::config::{Activation, Norm, QkvLayout, RotaryScaling};
use crate::partition::Kind;
use crate::tensor::{DType, HostTensor};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

/// Arguments of a small model with these fields.
fn args(fields: Value) -> Args {
    let mut all = object(json!({
        "num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128, "seq_length": 128,
    }));
    all.extend(object(fields));
    Args::new(Path::new("FILE"), Some(all), &GivenArgs::default()).unwrap()
}

fn settings(fields: Value, legacy: bool) -> Settings {
    Settings::read(&args(fields), legacy).unwrap()
}

fn refusal(fields: Value) -> String {
    let args = args(fields);
    let checked = refusals::check(&args).and_then(|()| Settings::read(&args, false).map(drop));
    checked.unwrap_err().to_string()
}

#[test]
fn names_of_arguments_changed_between_versions() {
    for centred in ["apply_layernorm_1p", "layernorm_zero_centered_gamma"] {
        assert!(settings(json!({ centred: true }), false).zero_centred);
    }
    for epsilon in ["norm_epsilon", "layernorm_epsilon"] {
        assert!((settings(json!({ epsilon: 1e-6 }), false).epsilon - 1e-6).abs() < 1e-20);
    }
    assert_eq!(Settings::ranks(&args(json!({ "model_parallel_size": 4 }))).unwrap(), (Some(4), None));
    let today =
        json!({ "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 3, "model_parallel_size": null });
    assert_eq!(Settings::ranks(&args(today)).unwrap(), (Some(2), Some(3)));
    let contradiction = refusal(json!({ "norm_epsilon": 1e-6, "layernorm_epsilon": 1e-5 }));
    assert!(contradiction.contains("`layernorm_epsilon`: expected the value of `norm_epsilon`"), "{contradiction}");
}

#[test]
fn arguments_that_lie_are_not_believed() {
    // Its default, whatever the heads are.
    assert_eq!(settings(json!({ "group_query_attention": false, "num_query_groups": 1 }), false).query_groups, 4);
    assert_eq!(settings(json!({ "group_query_attention": true, "num_query_groups": 2 }), false).query_groups, 2);
    // False beside `rope`, and true alone in 2023.
    let rope = json!({ "position_embedding_type": "rope", "use_rotary_position_embeddings": false });
    assert!(matches!(settings(rope, false).positions, Positions::Rotary { dims: 16, .. }));
    let old = json!({ "use_rotary_position_embeddings": true, "rotary_percent": 0.5 });
    assert!(matches!(settings(old, true).positions, Positions::Rotary { dims: 8, .. }));
    assert_eq!(settings(json!({ "add_position_embedding": false }), true).positions, Positions::Absent);
    assert_eq!(settings(json!({}), true).positions, Positions::Learned { offset: 0 });
    // Since `add_qkv_bias` is set where all layers have biases, it alone means nothing.
    let biases = settings(json!({ "add_bias_linear": false, "add_qkv_bias": true }), false);
    assert_eq!((biases.linear_bias, biases.qkv_bias), (false, true));
}

#[test]
fn arguments_without_effect_have_none() {
    let scaled = json!({
        "position_embedding_type": "rope", "use_rope_scaling": true, "rope_scaling_factor": 32.0, "rotary_base": 5000,
        "rotary_seq_len_interpolation_factor": 4,
    });
    let core = settings(scaled.clone(), false).positions;
    let scaling = Some(RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_positions: 8192,
    });
    assert_eq!(core, Positions::Rotary { dims: 16, base: 5000.0, scaling });
    let legacy = settings(scaled.clone(), true).positions;
    let scaling = Some(RotaryScaling::Linear { factor: 4.0 });
    assert_eq!(legacy, Positions::Rotary { dims: 16, base: 10_000.0, scaling });
    let notes = |legacy| Settings::notes(&args(scaled.clone()), legacy).join("\n");
    assert!(notes(false).contains("rope_scaling_factor") && notes(false).contains("interpolation_factor"));
    assert!(notes(true).contains("rotary_base"), "{}", notes(true));
    // Core reads neither of these.
    let old = json!({ "openai_gelu": true, "onnx_safe": true, "bias_gelu_fusion": false });
    assert!(!settings(old, false).tanh_gelu);
}

#[test]
fn activations_of_either_code() {
    let kind = |fields: Value, legacy: bool| {
        let settings = settings(fields, legacy);
        (settings.activation, settings.tanh_gelu, settings.onnx_gelu)
    };
    let gelu = Activation::Gelu;
    // v1.0 has no fused GELU.
    assert_eq!(kind(json!({}), true), (gelu, false, false));
    assert_eq!(kind(json!({ "openai_gelu": true }), true), (gelu, true, false));
    assert_eq!(kind(json!({ "bias_gelu_fusion": true }), true), (gelu, true, false));
    // Until 2023 the fused one came first.
    assert_eq!(kind(json!({ "bias_gelu_fusion": true, "onnx_safe": true }), true), (gelu, true, false));
    assert_eq!(
        kind(json!({ "bias_gelu_fusion": true, "onnx_safe": true, "squared_relu": false }), true),
        (gelu, false, true)
    );
    assert_eq!(kind(json!({ "bias_gelu_fusion": true, "add_bias_linear": false }), false), (gelu, false, false));
    assert_eq!(kind(json!({ "squared_relu": true, "bias_gelu_fusion": true }), false).0, Activation::SquaredRelu);
    assert_eq!(kind(json!({ "swiglu": true, "bias_gelu_fusion": true }), false).0, Activation::SwiGlu);
    assert_eq!(settings(json!({ "normalization": "RMSNorm" }), false).norm, Norm::RmsNorm);
}

#[test]
fn windows_are_of_the_layers_that_have_them() {
    let window = |fields: Value| settings(fields, false).window;
    assert_eq!(window(json!({ "window_size": [4, 0] })), Some((4, vec![true, true])));
    assert_eq!(window(json!({ "window_size": [4, 0], "window_attn_skip_freq": 2 })), Some((4, vec![true, false])));
    assert_eq!(window(json!({ "window_size": [4, 0], "window_attn_skip_freq": [0, 1] })), Some((4, vec![false, true])));
    assert_eq!(window(json!({ "window_size": [-1, 0] })), None);
    assert_eq!(settings(json!({ "window_size": [4, 0] }), true).window, None);
    for wrong in [json!([4]), json!("4,0"), json!([4, 4]), json!(4)] {
        assert!(refusal(json!({ "window_size": wrong })).contains("window_size"));
    }
}

#[test]
fn arguments_that_change_the_function_are_refused_by_name() {
    for (field, value) in [
        ("num_experts", json!(8)),
        ("multi_latent_attention", json!(true)),
        ("apply_residual_connection_post_layernorm", json!(true)),
        ("attention_output_gate", json!(true)),
        ("qk_l2_norm", json!(true)),
        ("softmax_type", json!("learnable")),
        ("hybrid_override_pattern", json!("M-M*")),
        ("hybrid_attention_ratio", json!(0.1)),
        ("heterogeneous_layers_config_path", json!("layers.json")),
        ("experimental_attention_variant", json!("gated_delta_net")),
        ("no_rope_freq", json!([1, 0])),
        ("quick_geglu", json!(true)),
        ("glu_linear_offset", json!(1.0)),
        ("activation_func_clamp_value", json!(7.0)),
        ("use_mup", json!(true)),
        ("mtp_num_layers", json!(1)),
        ("retro_add_retriever", json!(true)),
        ("num_unique_layers", json!(1)),
        ("expert_model_parallel_size", json!(2)),
        ("spec", json!(["my.module", "layers"])),
        ("position_embedding_type", json!("yarn")),
        ("normalization", json!("L2Norm")),
        ("swiglu", json!("yes")),
        ("num_layers", json!(-3)),
        ("rotary_percent", json!(0.0)),
    ] {
        let fields = if field == "rotary_percent" {
            json!({ "position_embedding_type": "rope", field: value })
        } else {
            json!({ field: value })
        };
        let message = refusal(fields);
        assert!(message.contains(field), "{field}: {message}");
    }
    // Off, or the layers that are implemented.
    let off = json!({
        "num_experts": null, "softmax_type": "vanilla", "glu_linear_offset": 0.0, "num_unique_layers": null,
        "spec": ["megatron.core.models.gpt.gpt_layer_specs", "get_gpt_layer_with_transformer_engine_spec"],
    });
    assert!(refusals::check(&args(off)).is_ok());
}

#[test]
fn arguments_that_nobody_knows_are_named_where_they_are_set() {
    let fields = json!({ "new_trick": 3, "new_switch": false, "moe_new": 1, "lr": 0.1, "bf16": true });
    let notes = Settings::notes(&args(fields), false);
    assert_eq!(notes, ["args: not known, and taken to decide nothing about the model: new_trick"]);
}

/// A step folder with files of these ranks.
fn folder_of(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let rank = folder.path().join("iter_0000003").join(name);
        fs::create_dir_all(&rank).unwrap();
        fs::write(rank.join("model_optim_rng.pt"), "x").unwrap();
    }
    folder
}

#[test]
fn ranks_are_a_full_grid_or_the_missing_one_is_named() {
    let grid = |names: &[&str], tensor, pipeline| {
        let folder = folder_of(names);
        let step = StepFolder::find(&folder.path().join("iter_0000003")).unwrap().unwrap();
        assert_eq!(step.iteration(), Some(3));
        step.grid(Some(tensor), Some(pipeline)).map(|grid| {
            let name = |path: &PathBuf| path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
            grid.files.iter().map(|ranks| ranks.iter().map(name).collect::<Vec<_>>()).collect::<Vec<_>>()
        })
    };
    let of_stages = ["mp_rank_00_000", "mp_rank_01_000", "mp_rank_00_001", "mp_rank_01_001"];
    assert_eq!(grid(&["mp_rank_00", "mp_rank_01"], 2, 1).unwrap(), [["mp_rank_00", "mp_rank_01"]]);
    assert_eq!(grid(&of_stages, 2, 2).unwrap()[1], ["mp_rank_00_001", "mp_rank_01_001"]);
    // The second number is the experts' without pipelines.
    assert_eq!(grid(&["mp_rank_00_000"], 1, 1).unwrap(), [["mp_rank_00_000"]]);
    assert_eq!(grid(&["mp_rank_00_000_000", "mp_rank_00_001_000"], 1, 2).unwrap().len(), 2);
    // As many as there are, where nobody tells.
    let folder = folder_of(&of_stages);
    let step = StepFolder::find(&folder.path().join("iter_0000003")).unwrap().unwrap();
    assert_eq!(step.grid(None, None).unwrap().files.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    for (names, tensor, pipeline, expected) in [
        (&of_stages[..3], 2, 2, "mp_rank_01_001/model_optim_rng.pt: missing"),
        (&["mp_rank_00", "mp_rank_01"], 4, 1, "mp_rank_02/model_optim_rng.pt: missing"),
        (&["mp_rank_00"], 1, 2, "mp_rank_00_001/model_optim_rng.pt: missing"),
        (&["mp_rank_00", "mp_rank_01"], 1, 1, "the files are of 2 tensor-parallel ranks by 1 pipeline rank"),
        (&["mp_rank_00_000", "mp_rank_00_001"], 1, 1, "among the experts"),
        (&["mp_rank_00_000_001"], 1, 1, "among the experts"),
        (&["mp_rank_00", "mp_rank_0"], 1, 1, ""),
        (&["mp_rank_00_000", "mp_rank_00"], 1, 2, "of the same rank"),
    ] {
        let folder = folder_of(names);
        let found = StepFolder::find(&folder.path().join("iter_0000003"));
        let message = match found {
            Ok(step) => step.unwrap().grid(Some(tensor), Some(pipeline)).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(expected), "{names:?}: {message}");
    }
}

#[test]
fn the_tracker_names_the_step() {
    let folder = folder_of(&["mp_rank_00"]);
    let tracker = folder.path().join("latest_checkpointed_iteration.txt");
    let message = |path: &Path| StepFolder::find(path).unwrap_err().to_string();
    assert!(message(folder.path()).contains("names one of iter_0000003"), "{}", message(folder.path()));
    fs::write(&tracker, "3\n").unwrap();
    assert_eq!(StepFolder::find(folder.path()).unwrap().unwrap().path, folder.path().join("iter_0000003"));
    fs::write(&tracker, "4").unwrap();
    assert!(message(folder.path()).contains("names step `iter_0000004`"));
    fs::write(&tracker, "../x").unwrap();
    assert!(message(folder.path()).contains("expected a number or `release`"));
    fs::rename(folder.path().join("iter_0000003"), folder.path().join("release")).unwrap();
    fs::write(&tracker, "release").unwrap();
    assert!(StepFolder::find(folder.path()).unwrap().is_some());
    // Another format.
    fs::write(folder.path().join("release/metadata.json"), "{}").unwrap();
    assert!(StepFolder::find(folder.path()).unwrap().is_none());
}

/// Scores of one query and key at two positions, rotated in pairs or in halves.
fn score(query: &[f64], key: &[f64], dims: usize, pairs: bool) -> f64 {
    let rotate = |head: &[f64], position: f64| {
        let mut rotated = head.to_vec();
        for at in 0..dims / 2 {
            let (first, second) = if pairs { (2 * at, 2 * at + 1) } else { (at, at + dims / 2) };
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let angle = position * 10_000_f64.powf(-2.0 * at as f64 / dims as f64);
            let (sin, cos) = angle.sin_cos();
            rotated[first] = head[first] * cos - head[second] * sin;
            rotated[second] = head[second] * cos + head[first] * sin;
        }
        rotated
    };
    rotate(query, 7.0).iter().zip(rotate(key, 3.0)).map(|(query, key)| query * key).sum()
}

#[test]
fn rows_rotated_in_pairs_become_rows_rotated_in_halves() {
    let fields = json!({ "position_embedding_type": "rope", "rotary_interleaved": true, "num_attention_heads": 2 });
    for (groups, dims) in [(2, 8), (1, 8), (2, 6), (1, 4)] {
        let settings = Settings { query_groups: groups, head_size: 8, ..settings(fields.clone(), false) };
        let shown = Shown {
            tensor_ranks: 1,
            precision: Precision::Fp32,
            padded_vocab_size: 8,
            mlp_size: 8,
            head: Head::Column,
        };
        let architecture = settings.architecture(shown);
        let orders = RowOrders { version: QkvVersion::Heads, paired: dims, zero_centred: false };
        let rows = (2 + 2 * groups) * 8;
        let values: Vec<f64> = (0..rows).map(|row| f64::from(u32::try_from(row * row % 23).unwrap()) - 11.0).collect();
        let stored = HostTensor::from_f64(DType::F64, vec![rows], &values).unwrap();
        let kind = (Role::QkvBias, Kind::ColumnParallel);
        let arranged = orders.arrange(&architecture, kind, 1, stored).unwrap().to_f64().unwrap();
        let head = |values: &[f64], at: usize| values[at * 8..(at + 1) * 8].to_vec();
        // Stored: per group its queries, a key, a value. Arranged: per head query, key, value; with groups all queries first.
        let places: Vec<[usize; 4]> =
            if groups == 2 { vec![[0, 1, 0, 1], [3, 4, 3, 4]] } else { vec![[0, 2, 0, 2], [1, 2, 1, 2]] };
        for [query, key, arranged_query, arranged_key] in places {
            let before = score(&head(&values, query), &head(&values, key), dims, true);
            let after = score(&head(&arranged, arranged_query), &head(&arranged, arranged_key), dims, false);
            assert!((before - after).abs() < 1e-9, "{groups}, {dims}: {before} and {after}");
        }
        assert_eq!(architecture.qkv == QkvLayout::Interleaved, groups == 2);
    }
}

#[test]
fn gains_without_their_one_are_completed_in_float32() {
    let architecture = settings(json!({}), false).architecture(Shown {
        tensor_ranks: 2,
        precision: Precision::Bf16,
        padded_vocab_size: 8,
        mlp_size: 8,
        head: Head::Column,
    });
    let orders = RowOrders { version: QkvVersion::Heads, paired: 0, zero_centred: true };
    let stored = HostTensor::from_f64(DType::BF16, vec![2], &[0.001, -1.0]).unwrap();
    let values = stored.to_f64().unwrap();
    let gain = orders.arrange(&architecture, (Role::InputNormGain, Kind::NormGain), 2, stored).unwrap();
    assert_eq!(gain.dtype(), DType::F32);
    #[expect(clippy::cast_possible_truncation, reason = "float32 is meant")]
    let expected = f64::from(values[0] as f32 + 1.0);
    assert!(
        gain.to_f64().unwrap().iter().zip([expected, 0.0]).all(|(found, expected)| (found - expected).abs() < 1e-12)
    );
}
