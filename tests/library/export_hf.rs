//! Directories for transformers: index and shards, names, and what is refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::common::merging::Merge;
use crate::common::{TinyCheckpoint, TinyModel};
use kintsugi::config::{Activation, Norm, PositionEmbedding};
use kintsugi::export::ExportError;
use kintsugi::export::synth::SynthOptions;
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// Names, shapes and bytes of a safetensors file; fails where the tensors do not fill it without gaps.
fn safetensors(path: &Path) -> BTreeMap<String, (Vec<u64>, Vec<u8>)> {
    let bytes = fs_err::read(path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    assert!(length.is_multiple_of(8));
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors = BTreeMap::new();
    let mut places = Vec::new();
    for (name, entry) in header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
        let numbers = |key: &str| -> Vec<u64> { serde_json::from_value(entry[key].clone()).unwrap() };
        let [start, end] = numbers("data_offsets").try_into().unwrap();
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        places.push(range.clone());
        tensors.insert(name.clone(), (numbers("shape"), data[range].to_vec()));
    }
    places.sort_by_key(|range| range.start);
    assert_eq!(places.iter().fold(0, |at, range| if range.start == at { range.end } else { 0 }), data.len());
    tensors
}

#[test]
fn shards_are_small_and_the_index_is_complete() {
    let source = TinyModel::new().with(|options| options.drift = 0.01).write();
    let folder = tempfile::tempdir().unwrap();
    let [one, many] = ["one", "many"].map(|name| folder.path().join(name));
    // No limit at all.
    Merge::by("fold").hf(u64::MAX).write(&source.open(), &one).unwrap();
    let limit = 100_000;
    Merge::by("fold").hf(limit).write(&source.open(), &many).unwrap();
    let whole = safetensors(&one.join("model.safetensors"));
    assert!(!one.join("model.safetensors.index.json").exists());

    let index = json(&many.join("model.safetensors.index.json"));
    let mut found = BTreeMap::new();
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let mut tensors = safetensors(&many.join(file.as_str().unwrap()));
        let total: usize = tensors.values().map(|(_, bytes)| bytes.len()).sum();
        assert!(total <= usize::try_from(limit).unwrap() || tensors.len() == 1, "{file}: {total} bytes");
        found.insert(name.clone(), tensors.remove(name).unwrap());
    }
    assert_eq!(found, whole);
    let total: usize = whole.values().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], total);
    let config = json(&one.join("config.json"));
    assert_eq!(config["hidden_act"], "gelu_fast");
    assert_eq!(config["architectures"][0], "GPTNeoXForCausalLM");
    assert_eq!((&config["vocab_size"], &config["rotary_pct"]), (&128.into(), &0.25.into()));
}

#[test]
fn a_norm_that_attention_and_mlp_share_is_written_twice() {
    let source = TinyModel::new().with(|options| (options.gpt_j_tied, options.drift) = (true, 0.01)).write();
    let folder = tempfile::tempdir().unwrap();
    Merge::by("fold").hf(1 << 30).write(&source.open(), &folder.path().join("hf")).unwrap();
    let tensors = safetensors(&folder.path().join("hf/model.safetensors"));
    for part in ["weight", "bias"] {
        let [own, other] = ["input_layernorm", "post_attention_layernorm"]
            .map(|norm| &tensors[&format!("gpt_neox.layers.1.{norm}.{part}")]);
        assert_eq!(own, other);
    }
}

#[test]
fn what_the_class_has_and_the_model_does_without_is_written_so() {
    let source = TinyModel::new()
        .with(|o| (o.norm, o.gpt_j_residual, o.tied_embeddings) = (Norm::NonParametricLayerNorm, false, false))
        .write();
    let folder = tempfile::tempdir().unwrap();
    Merge::by("mean").hf(1 << 30).write(&source.open(), &folder.path().join("hf")).unwrap();
    let tensors = safetensors(&folder.path().join("hf/model.safetensors"));
    let one = 1_f32.to_le_bytes().repeat(64);
    assert_eq!(tensors["gpt_neox.layers.0.input_layernorm.weight"], (vec![64], one.clone()));
    assert_eq!(tensors["gpt_neox.final_layer_norm.weight"], (vec![64], one));
    assert_eq!(tensors["gpt_neox.final_layer_norm.bias"].1, [0; 256]);
}

/// Llama with a window in every layer is Mistral, whose window counts the token itself.
#[test]
fn a_window_makes_llama_mistral() {
    let llama = |change: fn(&mut SynthOptions)| {
        TinyModel::new()
            .with(|o| {
                (o.norm, o.activation, o.gpt_j_residual) = (Norm::RmsNorm, Activation::SwiGlu, false);
                (o.rotary_pct, o.attention_bias, o.mlp_bias) = (1.0, false, false);
            })
            .with(change)
            .write()
    };
    let written = |source: &TinyCheckpoint, kinds: Value, width: usize| {
        source.edit_config(|config| {
            config.insert("attention_config".to_owned(), kinds);
            config.insert("sliding_window_width".to_owned(), width.into());
        });
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("hf");
        Merge::by("mean").hf(1 << 30).write(&source.open(), &target).map_err(|error| error.to_string())?;
        Ok::<_, String>(json(&target.join("config.json")))
    };
    let (source, flash) = (llama(|_| {}), serde_json::json!([[["flash"], "all"]]));
    let config = written(&source, flash.clone(), 7).unwrap();
    assert_eq!((&config["architectures"][0], &config["model_type"]), (&"MistralForCausalLM".into(), &"mistral".into()));
    assert_eq!((&config["sliding_window"], config.get("attention_bias")), (&8.into(), None));
    // It hides nothing.
    let longest = source.open().architecture().max_position_embeddings;
    for width in [longest - 1, longest, 1_000_000] {
        assert_eq!(written(&source, flash.clone(), width).unwrap()["architectures"][0], "LlamaForCausalLM", "{width}");
    }
    assert_eq!(written(&source, flash.clone(), longest - 2).unwrap()["sliding_window"], longest - 1);
    assert_eq!(written(&source, serde_json::json!([[["global"], "all"]]), 7).unwrap()["model_type"], "llama");
    for (source, kinds, reason) in [
        (source, serde_json::json!([[["flash", "global"], 1]]), "all its layers have the window"),
        (
            llama(|o| o.mlp_bias = true),
            flash.clone(),
            "MistralForCausalLM cannot express this model: its linear layers have no biases",
        ),
        (TinyModel::new().write(), flash, "its attention has no window"),
    ] {
        let error = written(&source, kinds, 7).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn what_transformers_cannot_express_is_refused_with_the_reason() {
    type Change = fn(&mut SynthOptions);
    let models: [(&str, Change); 9] = [
        ("alibi", |o| o.positions = PositionEmbedding::Alibi),
        ("learned positions", |o| o.positions = PositionEmbedding::Learned),
        ("sinusoidal positions", |o| o.positions = PositionEmbedding::Sinusoidal),
        ("relative biases", |o| o.positions = PositionEmbedding::RelativeBuckets),
        ("gated MLP after LayerNorm", |o| o.activation = Activation::GeGlu),
        ("grouped queries after LayerNorm", |o| o.shape.kv_head_count = Some(4)),
        ("scalenorm", |o| o.norm = Norm::ScaleNorm),
        ("RMS norm with a parallel residual", |o| (o.norm, o.activation) = (Norm::RmsNorm, Activation::SwiGlu)),
        ("partial rotation after an RMS norm", |o| {
            (o.norm, o.activation, o.gpt_j_residual) = (Norm::RmsNorm, Activation::SwiGlu, false);
        }),
    ];
    let mut messages = String::new();
    for (name, change) in models {
        let source = TinyModel::new().with(change).write();
        let folder = tempfile::tempdir().unwrap();
        let error = Merge::by("mean").hf(1 << 30).write(&source.open(), &folder.path().join("hf")).unwrap_err();
        assert!(matches!(error, ExportError::Inexpressible { .. }), "{name}: {error}");
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "{name}");
        writeln!(messages, "{name}\n  {error}\n  hint: {}", error.hint().unwrap()).unwrap();
    }
    insta::assert_snapshot!("inexpressible", messages);
}
