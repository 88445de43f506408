//! Models that other programs have written: what `zero_to_fp32.py` makes of a checkpoint, directories that are not gpt-neox's, and
//! other classes of transformers with Llama's tensors.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use kintsugi::checkpoint::{
    Checkpoint, CheckpointError, HuggingFaceModel, Layout, ModelSource as _, OpenOptions, open_model,
};
use kintsugi::config::{Activation, AttentionKind, Norm};
use kintsugi::partition::StageId;
use kintsugi::tensor::HostTensor;
use serde_json::{Value, json};

use crate::common::{TinyCheckpoint, TinyModel, f32s, layer_files, read_tensors, save_all, weights};

fn open_error(path: &Path) -> CheckpointError {
    Checkpoint::open(path, &[]).unwrap_err()
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
    assert!(open_error(&none).to_string().contains("holds no model under `module`"));
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
