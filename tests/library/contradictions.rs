//! Checkpoints whose files and configuration depart from what gpt-neox writes today: settings nobody reads, files that
//! contradict the configuration, leftovers of older versions, and hints that lead on.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file, layer_files, read_tensors};
use fs_err as fs;
use kintsugi::checkpoint::{
    Checkpoint, CheckpointError, HuggingFaceModel, Layout, ModelSource as _, OpenOptions, open_model,
};
use kintsugi::config::{Activation, AttentionKind, Norm, PositionEmbedding};
use kintsugi::export::save_tensors;
use kintsugi::partition::StageId;
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

fn f32s(shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_f64(DType::F32, shape.to_vec(), values).unwrap()
}

/// The weights of every stage, bit for bit.
fn weights(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let stages = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap());
    let bytes = stages.flat_map(|stage| stage.params.into_values().map(|param| param.value.tensors().to_vec()));
    bytes.flatten().map(|tensor| tensor.bytes().to_vec()).collect()
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

/// The one file that `zero_to_fp32.py` writes of a checkpoint on one rank.
fn zero_dictionary(files: &TinyCheckpoint) -> BTreeMap<String, HostTensor> {
    let mut tensors = BTreeMap::new();
    for path in layer_files(files.step()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let number: usize = name[6..8].parse().unwrap();
        tensors.extend(
            read_tensors(&path).into_iter().map(|(name, tensor)| (format!("sequential.{number}.{name}"), tensor)),
        );
    }
    tensors
}

fn save_all(path: &Path, tensors: &BTreeMap<String, HostTensor>) {
    save_tensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
}

#[test]
fn following_the_hint_about_zero_three_leads_on() {
    let files = TinyModel::new().with(|options| options.tp_size = 1).write();
    let (expected, tensors) = (weights(&files.open()), zero_dictionary(&files));
    let folder = tempfile::tempdir().unwrap();
    let with_config = |name: &str| {
        let out = folder.path().join(name);
        fs::create_dir_all(out.join("configs")).unwrap();
        fs::copy(files.config_file(), out.join("configs/model.yml")).unwrap();
        out
    };
    let before = with_config("before");
    fs::write(before.join("zero_pp_rank_0_mp_rank_00_model_states.pt"), "").unwrap();
    let hint = open_error(&before).hint().unwrap();
    assert!(hint.contains("zero_to_fp32.py SAVE OUT` and give OUT") && hint.contains("joins no tensor-parallel ranks"));
    // What the script writes, and the same under the name of a rank's file.
    for (name, file) in [("after", "pytorch_model.bin"), ("renamed", "mp_rank_00_model_states.pt")] {
        let out = with_config(name);
        save_all(&out.join(file), &tensors);
        let checkpoint = Checkpoint::open(&out, &[]).unwrap();
        assert_eq!((checkpoint.layout(), checkpoint.tp_size()), (Layout::RankFiles, 1));
        assert_eq!(weights(&checkpoint), expected, "{name}");
        assert!(open_model(&out, &OpenOptions::default()).unwrap().describe().starts_with("gpt-neox"));
    }
    // Without configs/ beside it.
    let bare = folder.path().join("bare");
    fs::create_dir_all(&bare).unwrap();
    save_all(&bare.join("pytorch_model.bin"), &tensors);
    assert!(open_error(&bare).hint().unwrap().contains("--neox-config"));
    let config = vec![files.config_file()];
    assert_eq!(weights(&Checkpoint::open(&bare, &config).unwrap()), expected);
    // A wrapper's prefix makes no difference.
    let wrapped = with_config("wrapped");
    let prefixed = tensors.iter().map(|(name, tensor)| (format!("module.{name}"), tensor.clone())).collect();
    save_all(&wrapped.join("pytorch_model.bin"), &prefixed);
    assert_eq!(weights(&Checkpoint::open(&wrapped, &[]).unwrap()), expected);
    // Several files are recognised, and the hint says how to get one.
    let sharded = with_config("sharded");
    let mut places = serde_json::Map::new();
    for (part, file) in ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"].iter().enumerate() {
        let tensors: BTreeMap<_, _> = tensors.clone().into_iter().skip(part).step_by(2).collect();
        save_all(&sharded.join(file), &tensors);
        places.extend(tensors.into_keys().map(|name| (name, json!(file))));
    }
    let index = json!({ "weight_map": places }).to_string();
    fs::write(sharded.join("pytorch_model.bin.index.json"), index).unwrap();
    for error in [open_error(&sharded), open_model(&sharded, &OpenOptions::default()).unwrap_err()] {
        assert!(error.to_string().contains("the output of zero_to_fp32.py"), "{error}");
        assert!(error.hint().unwrap().contains("--max_shard_size"));
    }
    // A rank's file of a pipeline has no model.
    let none = with_config("none");
    save_all(&none.join("mp_rank_00_model_states.pt"), &BTreeMap::from([("x".to_owned(), f32s(&[1], &[0.0]))]));
    assert!(complaint(&none).contains("holds no model under `module`"));
}

#[test]
fn other_formats_are_recognised_by_what_is_in_them() {
    let folder = |names: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    };
    for (names, expected) in [
        (
            &["latest_checkpointed_iteration.txt", "iter_0001500/mp_rank_00/model_optim_rng.pt"][..],
            "a checkpoint of Megatron-LM",
        ),
        (&["mp_rank_00_001/model_optim_rng.pt"], "a checkpoint of Megatron-LM"),
        (&["release/mp_rank_00/model_optim_rng.pt"], "a checkpoint of Megatron-LM"),
        (
            &["iter_0000100/.metadata", "iter_0000100/__0_0.distcp", "iter_0000100/metadata.json"],
            "a distributed checkpoint",
        ),
        (&["common.pt", "__0_0.distcp"], "a distributed checkpoint"),
        (
            &["zero/sequential.0.word_embeddings.weight/fp32.pt", "mp_rank_00_model_states.pt"],
            "a universal checkpoint of DeepSpeed",
        ),
        (&["latest_universal", "global_step1_universal/zero/x/fp32.pt"], "a universal checkpoint of DeepSpeed"),
        (&["model.nemo"], "a checkpoint of NeMo"),
        (
            &["config.json", "model.safetensors"],
            "no layer_XX-model_YY-model_states.pt and no mp_rank_XX_model_states.pt",
        ),
        (&["notes.txt"], "no layer_XX-model_YY-model_states.pt and no mp_rank_XX_model_states.pt"),
    ] {
        let folder = folder(names);
        let error = open_error(folder.path());
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.hint().unwrap().is_empty());
    }
}

/// A pickle of `{"module": None, "iteration": 10, "args": {"num_layers": 2}, NAME: value}`.
fn client_state(value: &[u8]) -> Vec<u8> {
    fn text(text: &str) -> Vec<u8> {
        [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
    }
    let args = [b"}".to_vec(), text("num_layers"), b"K\x02s".to_vec()].concat();
    let entries = [text("module"), b"N".to_vec(), text("iteration"), b"K\x0a".to_vec(), text("args"), args];
    [b"\x80\x02}(".to_vec(), entries.concat(), text("forks_own"), value.to_vec(), b"u.".to_vec()].concat()
}

fn write_archive(path: &Path, pickle: &[u8]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in
        [("a/data.pkl", pickle), ("a/data/0", &[0; 8]), ("a/byteorder", b"little"), ("a/version", b"3\n")]
    {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

#[test]
fn objects_in_the_client_state_that_are_not_understood_do_no_harm() {
    let files = TinyModel::new().write();
    let expected = weights(&files.open());
    let storage = |class: &str| {
        format!(
            "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n{class}\nX\x01\0\0\00X\x03\0\0\0cpuK\x02tQK\0K\x02\u{85}K\x01\u{85}\u{89})tR"
        )
    };
    for (what, value) in [
        ("defaultdict", "ccollections\ndefaultdict\nc__builtin__\nint\n\u{85}RX\x04\0\0\0pileK\x0as".to_owned()),
        ("deque", "ccollections\ndeque\n)R(K\x01K\x02e".to_owned()),
        ("a subclass of dict with its state", "cfork\nAttrDict\n)\u{81}(X\x01\0\0\0aK\x01u}b".to_owned()),
        ("a dictionary by tuples", "}(K\x01K\x02\u{86}K\x03u".to_owned()),
        ("a set", "\u{8f}(K\x01\u{90}".to_owned()),
        ("float8", storage("Float8_e4m3fnStorage")),
        ("complex", storage("ComplexFloatStorage")),
        ("an object with a tensor", format!("cfork\nState\n)\u{81}}}X\x01\0\0\0t{}sb", storage("FloatStorage"))),
    ] {
        for tp_rank in [0, 1] {
            let value: Vec<u8> = value.chars().map(|byte| u8::try_from(u32::from(byte)).unwrap()).collect();
            write_archive(&files.rank_file(tp_rank), &client_state(&value));
        }
        let checkpoint = files.open();
        assert_eq!(weights(&checkpoint), expected, "{what}");
        assert_eq!(checkpoint.client().iteration, Some(10), "{what}");
        assert_eq!(checkpoint.client().args.num_layers, Some(2), "{what}");
        assert!(checkpoint.warnings().is_empty(), "{what}: {:?}", checkpoint.warnings());
    }
    // What cannot be followed is said and passed over: an opcode of out-of-band buffers.
    write_archive(&files.rank_file(0), &client_state(b"\x97"));
    let checkpoint = files.open();
    assert_eq!(weights(&checkpoint), expected);
    assert!(checkpoint.warnings()[0].contains("the client state was not read"), "{:?}", checkpoint.warnings());
}

#[test]
fn classes_of_transformers_with_the_tensors_of_llama_are_read() {
    let files = TinyModel::new()
        .with(|options| {
            (options.norm, options.activation, options.gpt_j_residual) = (Norm::RmsNorm, Activation::SwiGlu, false);
            (options.attention_bias, options.mlp_bias, options.tp_size) = (false, false, 1);
        })
        .write();
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = BTreeMap::new();
    for path in layer_files(files.step()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let layer = name[6..8].parse::<usize>().unwrap().saturating_sub(2);
        for (name, tensor) in read_tensors(&path) {
            let rows = tensor.shape()[0];
            let parts: &[&str] = match name.as_str() {
                "word_embeddings.weight" => &["model.embed_tokens.weight"],
                "norm.scale" => &["model.norm.weight"],
                "final_linear.weight" => &["lm_head.weight"],
                "input_layernorm.scale" => &["L.input_layernorm.weight"],
                "post_attention_layernorm.scale" => &["L.post_attention_layernorm.weight"],
                "attention.query_key_value.weight" => {
                    &["L.self_attn.q_proj.weight", "L.self_attn.k_proj.weight", "L.self_attn.v_proj.weight"]
                }
                "attention.dense.weight" => &["L.self_attn.o_proj.weight"],
                "mlp.linear1.weight" => &["L.mlp.up_proj.weight", "L.mlp.gate_proj.weight"],
                "mlp.linear2.weight" => &["L.mlp.down_proj.weight"],
                other => panic!("{other}"),
            };
            let (values, shape) = (tensor.to_f64().unwrap(), tensor.shape().to_vec());
            for (part, &name) in parts.iter().enumerate() {
                let count = values.len() / parts.len();
                let mut shape = shape.clone();
                shape[0] = rows / parts.len();
                let name = name.replace("L.", &format!("model.layers.{layer}."));
                tensors.insert(name, f32s(&shape, &values[part * count..(part + 1) * count]));
            }
        }
    }
    save_all(&folder.path().join("pytorch_model.bin"), &tensors);
    let inner = tensors["model.layers.0.mlp.up_proj.weight"].shape()[0];
    let open = |changes: Value| {
        let mut config = json!({
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8,
            "intermediate_size": inner, "vocab_size": 128, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        });
        let object = |value: &Value| value.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(object(&changes));
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        HuggingFaceModel::open(folder.path()).map_err(|error| error.to_string())
    };
    let llama = open(json!({ "architectures": ["LlamaForCausalLM"] })).unwrap();
    for config in [
        json!({ "architectures": ["LLaMAForCausalLM"] }),
        json!({ "model_type": "llama" }),
        json!({ "architectures": ["MistralForCausalLM"], "sliding_window": null }),
        json!({ "model_type": "mistral", "sliding_window": null }),
    ] {
        assert_eq!(open(config).unwrap().architecture(), llama.architecture());
    }
    // A window of transformers counts the token itself; Mistral's default is 4096.
    for (config, width) in [(json!({ "sliding_window": 16 }), 15), (json!({}), 4095)] {
        let mut config = config;
        config["architectures"] = json!(["MistralForCausalLM"]);
        let mistral = open(config).unwrap();
        assert_eq!(mistral.class(), "MistralForCausalLM");
        assert_eq!(mistral.architecture().sliding_window, Some(width));
        assert_eq!(mistral.architecture().attention, [AttentionKind::Flash, AttentionKind::Flash]);
        assert!(mistral.read_stage(StageId::Layer(0)).is_ok());
    }
    for class in ["Qwen2MoeForCausalLM", "MixtralForCausalLM", "GemmaForCausalLM"] {
        let error = open(json!({ "architectures": [class] })).unwrap_err();
        assert!(error.contains(class), "{error}");
    }
    // A table that older versions saved.
    for (base, sound) in [(10_000_f64, true), (500_000.0, false)] {
        let table: Vec<f64> = (0..4).map(|index| base.powf(-f64::from(index) / 4.0)).collect();
        let mut with_table = tensors.clone();
        with_table.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), f32s(&[4], &table));
        save_all(&folder.path().join("pytorch_model.bin"), &with_table);
        let opened = open(json!({ "model_type": "llama" }));
        assert_eq!(opened.is_ok(), sound);
        assert!(sound || opened.unwrap_err().contains("has base 500000, that of config.json has base 10000"));
    }
}
