//! Checkpoints whose files and configuration depart from what gpt-neox writes today: settings nobody reads, files that
//! contradict the configuration, and leftovers of older versions.

use std::path::Path;

use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file, f32s, weights};
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, CheckpointError};
use kintsugi::config::{Activation, Norm, PositionEmbedding};
use kintsugi::tensor::{DType, HostTensor};
use serde_json::{Value, json};

fn set(files: &TinyCheckpoint, settings: &[(&str, Value)]) {
    files.edit_config(|config| {
        config.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    });
}

fn open_error(path: &Path) -> CheckpointError {
    Checkpoint::open(path, &[]).unwrap_err()
}

fn complaint(path: &Path) -> String {
    open_error(path).to_string().replace(&path.display().to_string(), "SAVE")
}

#[test]
fn settings_that_nobody_reads_are_named() {
    let files = TinyModel::new().write();
    assert_eq!(files.open().warnings(), Vec::<String>::new());
    set(&files, &[("rotary_percent", json!(0.25)), ("wandb_group", json!("runs"))]);
    files.edit_config(|config| drop(config.shift_remove("rotary_pct")));
    let warnings = files.open().warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].ends_with("is not a setting of gpt-neox and is not read; did you mean `rotary_pct`?"));
    set(&files, &[("rope_scaling", json!({ "type": "linear", "factor": 2.0 }))]);
    let error = open_error(files.path());
    let refused =
        "this model is refused: rope_scaling: {\"type\":\"linear\",\"factor\":2.0}: rotary frequencies are scaled";
    assert!(error.to_string().starts_with(refused), "{error}");
    assert!(error.hint().unwrap().contains("remove it and pass the file with --neox-config"));
}

#[test]
fn a_model_that_is_refused_is_refused_before_its_sizes_are_checked() {
    let files = TinyModel::new().with(|options| options.tp_size = 1).write();
    set(&files, &[("attention_config", json!([[["mamba"], 2]])), ("num_attention_heads", json!(12))]);
    let error = open_error(files.path());
    assert_eq!(
        error.to_string(),
        "this model is refused: attention_config: mamba: state-space blocks are not implemented"
    );
    assert!(error.hint().unwrap().contains("convert_neox_to_mamba_ssm.py"));
    // Nor does it matter what the stored arguments say, or how many files there are.
    set(&files, &[("num_layers", json!(2)), ("model_parallel_size", json!(4)), ("hidden_size", json!(96))]);
    assert!(complaint(files.path()).contains("attention_config: mamba"));
}

/// A model with Transformer Engine's modules on one rank, with the norm that its MLP replaces where `left_over`.
fn engine(norm: Norm, left_over: Option<&str>) -> TinyCheckpoint {
    let files = TinyModel::new()
        .with(|options| {
            (options.tp_size, options.norm, options.gpt_j_residual) = (1, norm, false);
        })
        .write();
    for layer in [2, 3] {
        edit_layer_file(&files.layer_file(layer, 0), |tensors| {
            let renamed = std::mem::take(tensors).into_iter().map(|(name, tensor)| {
                let new = [
                    ("attention.query_key_value.", "attention.qkv."),
                    ("attention.dense.", "attention.proj."),
                    ("post_attention_layernorm.scale", "mlp.layer_norm_weight"),
                    ("post_attention_layernorm.", "mlp.layer_norm_"),
                    ("mlp.linear1.", "mlp.fc1_"),
                    ("mlp.linear2.", "mlp.fc2_"),
                ];
                (new.into_iter().fold(name, |name, (old, new)| name.replace(old, new)), tensor)
            });
            *tensors = renamed.collect();
            for name in left_over.into_iter().flat_map(|names| names.split(' ')) {
                tensors.insert(format!("post_attention_layernorm.{name}"), f32s(&[64], &[1.0; 64]));
            }
        });
    }
    set(&files, &[("te_mha", json!(true)), ("te_layernorm_mlp", json!(true))]);
    files
}

#[test]
fn a_norm_that_transformer_engine_left_unused_does_no_harm() {
    for (norm, names) in [
        (Norm::LayerNorm, "weight bias"),
        (Norm::LayerNorm, "norm.weight norm.bias"),
        (Norm::LayerNorm, "weight"),
        (Norm::RmsNorm, "scale"),
    ] {
        let (before, since) = (engine(norm, Some(names)), engine(norm, None));
        assert_eq!(weights(&before.open()), weights(&since.open()), "{names}");
        assert_eq!(before.open().architecture(), since.open().architecture());
    }
    // Of another shape it is something else.
    let files = engine(Norm::LayerNorm, None);
    edit_layer_file(&files.layer_file(2, 0), |tensors| {
        tensors.insert("post_attention_layernorm.weight".to_owned(), f32s(&[32], &[1.0; 32]));
    });
    assert!(complaint(files.path()).contains("tensor `post_attention_layernorm.weight`"));
}

/// Adds a saved table to every layer.
fn with_tables(files: &TinyCheckpoint, name: &str, stages: &[usize], table: &HostTensor) {
    for (&stage, tp_rank) in stages.iter().flat_map(|stage| [(stage, 0), (stage, 1)]) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            tensors.insert(name.to_owned(), table.clone());
        });
    }
}

#[test]
fn a_saved_table_of_positions_must_be_that_of_the_configuration() {
    const ROTARY: &str = "attention.rotary_emb.inv_freq";
    // Heads of 8 elements, all turned.
    let table = |base: f64, factor: f64| -> Vec<f64> {
        (0..4).map(|index| base.powf(-f64::from(index) / 4.0) * factor).collect()
    };
    let files = || {
        let files = TinyModel::new().write();
        set(&files, &[("rotary_pct", json!(1.0))]);
        files
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let tensor = |values: &[f64]| HostTensor::from_f64(dtype, vec![4], values).unwrap();
        let sound = files();
        with_tables(&sound, ROTARY, &[2, 3], &tensor(&table(10_000.0, 1.0)));
        assert!(sound.open().warnings().is_empty());
        set(&sound, &[("rotary_emb_base", json!(500_000))]);
        let error = open_error(sound.path());
        let expected = "the table in the files has base 10000, that of the configuration has base 500000";
        assert!(error.to_string().ends_with(expected), "{error}");
        assert!(error.hint().unwrap().contains("--neox-config"));
        let scaled = files();
        with_tables(&scaled, ROTARY, &[2, 3], &tensor(&table(10_000.0, 0.5)));
        let error = complaint(scaled.path());
        assert!(error.contains("has base 10000 with every frequency multiplied by 0.5"), "{error}");
    }
    // In one layer of one rank only.
    let one = files();
    with_tables(&one, ROTARY, &[2, 3], &f32s(&[4], &table(10_000.0, 1.0)));
    edit_layer_file(&one.layer_file(3, 1), |tensors| {
        tensors.insert(ROTARY.to_owned(), f32s(&[4], &[1.0, 0.1, 0.02, 0.001]));
    });
    let error = complaint(one.path());
    assert!(error.contains("layer_03-model_01") && error.contains("is not the table of any base"), "{error}");
    // Sinusoidal positions have a table too.
    let sinusoidal = TinyModel::new().with(|options| options.positions = PositionEmbedding::Sinusoidal).write();
    let values: Vec<f64> = (0..32).map(|index| 10_000_f64.powf(-f64::from(index) / 32.0)).collect();
    with_tables(&sinusoidal, "position_embeddings.inv_freq", &[0], &f32s(&[32], &values));
    assert!(sinusoidal.open().warnings().is_empty());
    let values: Vec<f64> = values.into_iter().map(|value| value * 2.0).collect();
    with_tables(&sinusoidal, "position_embeddings.inv_freq", &[0], &f32s(&[32], &values));
    assert!(complaint(sinusoidal.path()).contains("position_embeddings.inv_freq"));
}

fn renumber(files: &TinyCheckpoint, moves: &[(usize, usize)]) {
    for (&(from, to), tp_rank) in moves.iter().flat_map(|pair| [(pair, 0), (pair, 1)]) {
        fs::rename(files.layer_file(from, tp_rank), files.layer_file(to, tp_rank)).unwrap();
    }
}

#[test]
fn numbers_of_layer_files_are_compared_with_those_of_gpt_neox() {
    let expected = weights(&TinyModel::new().write().open());
    let shifted = TinyModel::new().write();
    renumber(&shifted, &[(6, 8), (5, 7), (3, 5), (2, 4)]);
    let checkpoint = shifted.open();
    assert_eq!(weights(&checkpoint), expected);
    let [warning] = &checkpoint.warnings()[..] else { panic!() };
    assert!(warning.contains("the first layer 04, the last layer 05, the final norm 07, the head 08"), "{warning}");
    assert!(warning.contains("does not load these"), "{warning}");
    // A file renamed behind the others is another order of layers.
    let moved = TinyModel::new().with(|options| options.shape.layer_count = 3).write();
    renumber(&moved, &[(2, 9)]);
    let error = open_error(moved.path());
    assert!(
        error.to_string().contains("layers are numbered 3, 4, 9, with a gap between them")
            || error.to_string().contains("the last layer"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("were files renamed?"));
    let moved = TinyModel::new().write();
    renumber(&moved, &[(5, 1)]);
    assert!(complaint(moved.path()).contains("the last layer has number 3, the final norm 1"));
}

#[test]
fn an_mlp_by_other_names_than_the_configuration_says_is_read_and_said() {
    let gated = || {
        TinyModel::new().with(|options| {
            (options.activation, options.mlp_bias, options.gpt_j_residual) = (Activation::SwiGlu, false, false);
        })
    };
    let files = gated().write();
    for (layer, tp_rank) in [(2, 0), (2, 1), (3, 0), (3, 1)] {
        edit_layer_file(&files.layer_file(layer, tp_rank), |tensors| {
            let joined = tensors.remove("mlp.linear1.weight").unwrap();
            let (rows, values) = (joined.shape()[0] / 2, joined.to_f64().unwrap());
            let (up, gate) = values.split_at(rows * 64);
            tensors.insert("mlp.w3.weight".to_owned(), f32s(&[rows, 64], up));
            tensors.insert("mlp.w1.weight".to_owned(), f32s(&[rows, 64], gate));
            let down = tensors.remove("mlp.linear2.weight").unwrap();
            tensors.insert("mlp.w2.weight".to_owned(), down);
        });
    }
    set(&files, &[("activation", json!("silu"))]);
    let by_names = files.open();
    assert!(
        by_names.warnings().iter().any(|warning| warning.contains("the files hold `mlp.w1`, as with mlp_type: llama"))
    );
    set(&files, &[("mlp_type", json!("llama"))]);
    let stated = files.open();
    assert_eq!((weights(&stated), stated.architecture()), (weights(&by_names), by_names.architecture()));
    assert!(stated.warnings().is_empty(), "{:?}", stated.warnings());
    // The shapes are a gated MLP's, the configuration is not.
    let files = gated().write();
    set(&files, &[("activation", json!("silu"))]);
    assert!(complaint(files.path()).contains("the shapes are those of a gated MLP, the activation is not gated"));
}
