//! `kintsugi diff` and the reading of Hugging Face directories, through the program: what is identical, what differs and by
//! how much, and what it says of damaged directories.

mod damaged;

use std::path::{Path, PathBuf};

use crate::common;
use crate::common::hugging_face::{HuggingFace, write_safetensors};
use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file, set_element, truncate, truncate_half};
use assert_cmd::Command;
use fs_err as fs;
use kintsugi::checkpoint::Layout;
use kintsugi::export::synth::SynthOptions;
use kintsugi::tensor::{DType, HostTensor};
use serde_json::{Value, json};

fn diff(left: &Path, right: &Path, further: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    for variable in ["KINTSUGI_LOG", "NO_COLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("COLUMNS", "100").arg("diff").arg(left).arg(right).args(further).output().unwrap()
}

fn as_json(left: &Path, right: &Path) -> Value {
    let output = diff(left, right, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn as_text(left: &Path, right: &Path, further: &[&str]) -> String {
    let output = diff(left, right, further);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.replace(&left.display().to_string(), "LEFT").replace(&right.display().to_string(), "RIGHT")
}

/// What it says of a directory that it cannot compare.
fn complaint(left: &Path, right: &Path) -> String {
    let output = diff(left, right, &[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr.replace(&right.display().to_string(), "RIGHT")
}

/// The parameter of this name in the first model (in the second, where only that has it).
fn parameter<'a>(found: &'a Value, stage: &str, name: &str) -> &'a Value {
    let has_name = |parameter: &Value| {
        parameter["stage"] == stage && (parameter["left"]["name"] == name || parameter["right"]["name"] == name)
    };
    found["parameters"].as_array().unwrap().iter().find(|parameter| has_name(parameter)).unwrap()
}

fn tiny(change: impl FnOnce(&mut SynthOptions)) -> TinyCheckpoint {
    TinyModel::new().with(|options| options.drift = 0.05).with(change).write()
}

/// A Hugging Face directory of the checkpoint.
fn converted(files: &TinyCheckpoint, strategy: &str, edit: impl FnOnce(&mut HuggingFace)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut written = HuggingFace::merged(&files.open(), strategy);
    edit(&mut written);
    written.write(folder.path());
    folder
}

#[test]
fn the_same_model_is_identical_whatever_its_layout() {
    let files = tiny(|_| {});
    let found = as_json(files.path(), files.path());
    assert_eq!((found["identical"].as_bool(), found["settings"].as_array().unwrap().len()), (Some(true), 0));
    let parameters = found["parameters"].as_array().unwrap();
    assert!(parameters.len() > 20 && parameters.iter().all(|parameter| parameter["identical"] == true));
    assert!(as_text(files.path(), files.path(), &[]).contains("identical: 28 parameters, every bit and every setting"));
    let others = [tiny(|options| options.layout = Layout::RankFiles), tiny(|options| options.legacy_names = true)];
    for other in others {
        assert_eq!(as_json(files.path(), other.path())["identical"], true);
    }
}

#[test]
fn the_same_model_on_one_rank_and_on_several() {
    // The seed decides on partitioned parameters whatever the number of ranks; without drift replicas agree.
    let on_ranks = |gpt_j_residual: bool| {
        [1, 2, 4].map(|ranks| {
            tiny(|options| {
                (options.tp_size, options.drift, options.gpt_j_residual) = (ranks, 0.0, gpt_j_residual);
                // Padding rows alone depend on the number of ranks.
                options.shape.vocab_size = 128;
            })
        })
    };
    let [one, two, four] = on_ranks(false);
    for other in [&two, &four] {
        assert_eq!(as_json(one.path(), other.path())["identical"], true);
    }
    // Two copies and four are compared as what the models count.
    assert_eq!(parameter(&as_json(four.path(), two.path()), "output", "norm.bias")["values"]["max_abs"], 0.0);
    // With a parallel residual each rank holds its share of the row-parallel biases.
    let [one, two, four] = on_ranks(true);
    for (left, right) in [(&one, &two), (&four, &one), (&four, &two)] {
        let found = as_json(left.path(), right.path());
        let bias = parameter(&found, "layer 0", "mlp.linear2.bias");
        let expected = (&json!("sum"), &json!(0.0), &json!(false));
        assert_eq!((&bias["rule"], &bias["values"]["max_abs"], &bias["identical"]), expected);
        assert_eq!(parameter(&found, "layer 0", "mlp.linear2.weight")["identical"], true);
    }
}

#[test]
fn copies_on_several_ranks_are_compared_with_one_by_rule() {
    let files = tiny(|options| options.gpt_j_residual = false);
    for (strategy, norm, bias) in
        [("zeroth", "rank 0", "rank 0"), ("reduce-aware", "mean", "mean"), ("merge20b", "mean", "sum")]
    {
        let other = converted(&files, strategy, |_| {});
        let found = as_json(files.path(), other.path());
        assert_eq!(found["identical"], false);
        for (name, rule) in
            [("input_layernorm.weight", norm), ("attention.dense.bias", bias), ("mlp.linear2.bias", bias)]
        {
            let parameter = parameter(&found, "layer 1", name);
            assert_eq!((parameter["rule"].as_str(), parameter["values"]["max_abs"].as_f64()), (Some(rule), Some(0.0)));
            assert_eq!((&parameter["left"]["replicas"], &parameter["right"]["replicas"]), (&json!(2), &json!(1)));
        }
        let weight = parameter(&found, "layer 1", "attention.query_key_value.weight");
        assert_eq!(weight["identical"], true);
        assert_eq!(weight["right"]["name"], "attention.query_key_value.weight");
        // The other way round the same rules hold.
        let back = as_json(other.path(), files.path());
        assert_eq!(parameter(&back, "layer 1", "mlp.linear2.bias")["rule"], bias);
    }
    let other = converted(&files, "merge20b", |_| {});
    insta::assert_snapshot!("an_unmerged_model_and_a_converted_one", as_text(files.path(), other.path(), &[]));
}

#[test]
fn differences_are_measured() {
    let files = tiny(|_| {});
    let other = tiny(|_| {});
    let path = other.layer_file(2, 1);
    let name = "attention.dense.weight";
    let old = common::read_tensors(&path)[name].to_f64().unwrap()[3];
    set_element(&path, name, 3, old + 0.25);
    let found = as_json(files.path(), other.path());
    let changed: Vec<_> = found["parameters"].as_array().unwrap().iter().filter(|p| p["identical"] == false).collect();
    assert_eq!(changed.len(), 1);
    let values = &changed[0]["values"];
    assert_eq!((&values["differing"], &values["count"]), (&json!(1), &json!(64 * 64)));
    let max_abs = values["max_abs"].as_f64().unwrap();
    assert!((max_abs - 0.25).abs() < 1e-6);
    assert!((values["mean_abs"].as_f64().unwrap() * 4096.0 - max_abs).abs() < 1e-9);
    assert!(values["relative"].as_f64().unwrap() > 0.0 && values["max_ulps"].as_u64().unwrap() > 1000);
    // A copy on one rank alone counts too.
    let third = tiny(|_| {});
    let path = third.layer_file(3, 0);
    set_element(&path, "input_layernorm.bias", 0, 1.0);
    let found = as_json(files.path(), third.path());
    assert_eq!(parameter(&found, "layer 1", "input_layernorm.bias")["values"]["differing"], 1);
}

#[test]
fn types_settings_and_shapes_that_differ_are_named() {
    let files = tiny(|options| (options.drift, options.dtype) = (0.0, DType::F32));
    let half = tiny(|options| (options.drift, options.dtype) = (0.0, DType::BF16));
    let found = as_json(files.path(), half.path());
    assert_eq!((&found["identical"], &found["right"]["dtype"]), (&json!(false), &json!("bf16")));
    let weight = parameter(&found, "layer 0", "mlp.linear1.weight");
    // Rounded, the values are the same: no step of the coarser type lies between them.
    assert_eq!((&weight["identical"], &weight["values"]["max_ulps"]), (&json!(false), &json!(0)));
    assert!(weight["values"]["relative"].as_f64().unwrap() > 1e-4);

    let deeper = tiny(|options| (options.drift, options.shape.layer_count) = (0.0, 3));
    let found = as_json(files.path(), deeper.path());
    assert!(found["settings"].as_array().unwrap().contains(&json!({ "setting": "layers", "left": "2", "right": "3" })));
    let further = parameter(&found, "layer 2", "attention.dense.bias");
    assert!(further.get("left").is_none() && further.get("values").is_none());

    let wider = tiny(|options| (options.drift, options.shape.mlp_inner_size) = (0.0, Some(128)));
    let found = as_json(files.path(), wider.path());
    let weight = parameter(&found, "layer 0", "mlp.linear2.weight");
    assert_eq!((&weight["left"]["shape"], &weight["right"]["shape"]), (&json!([64, 256]), &json!([64, 128])));
    assert!(weight.get("values").is_none());
    assert!(as_text(files.path(), wider.path(), &[]).contains("[64, 256] → [64, 128]"));

    let tanh = tiny(|options| options.drift = 0.0);
    let converted = converted(&tanh, "fold", |written| {
        written.config.insert("hidden_act".to_owned(), json!("gelu"));
        *written = written.clone().with_vocabulary(120);
    });
    let found = as_json(tanh.path(), converted.path());
    assert_eq!(found["settings"], json!([{ "setting": "activation", "left": "gelu (tanh)", "right": "gelu" }]));
    let words = parameter(&found, "embedding", "word_embeddings.weight");
    assert_eq!((&words["identical"], &words["values"]["max_abs"]), (&json!(false), &json!(0.0)));
    assert_eq!(words["values"]["count"], 120 * 64);
}

#[test]
fn matrices_laid_out_otherwise_are_compared_as_what_they_are() {
    // Grouped queries as today in blocks, and query head by query head as until 2024-11.
    let blocks = tiny(|options| (options.drift, options.shape.kv_head_count) = (0.0, Some(4)));
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    copy_folder(blocks.path(), &old);
    for stage in 2..4 {
        for tp_rank in 0..2 {
            let name = format!("layer_{stage:02}-model_{tp_rank:02}-model_states.pt");
            edit_layer_file(&old.join(blocks.step().file_name().unwrap()).join(name), |tensors| {
                for name in ["attention.query_key_value.weight", "attention.query_key_value.bias"] {
                    let changed = interleaved(&tensors[name]);
                    tensors.insert(name.to_owned(), changed);
                }
            });
        }
    }
    let output = diff(blocks.path(), &old, &["--json", "--quirk", "gqa-layout=interleaved"]);
    let as_old: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Read alike, they differ.
    assert_eq!(as_old["identical"], false);
    assert_eq!(as_json(blocks.path(), &old)["identical"], false);
    // Read as what each is (the program reads both sides alike), by the library.
    let open = |path: &Path, quirk: Option<&str>| {
        let settings = quirk.into_iter().map(|quirk| quirk.parse().unwrap()).collect();
        let quirks = kintsugi::config::QuirkOptions { era: None, settings };
        let options = kintsugi::checkpoint::OpenOptions { quirks, ..Default::default() };
        kintsugi::checkpoint::open_model(path, &options).unwrap()
    };
    let (left, right) = (open(blocks.path(), None), open(&old, Some("gqa-layout=interleaved")));
    let found = kintsugi::merge::diff_models(&*left, &*right).unwrap();
    assert!(found.parameters.iter().all(|parameter| parameter.identical));
}

/// One rank's `[Q | K | V]` (4 query heads of 8, 2 key heads) as query head by query head, each with its share of keys and
/// values.
fn interleaved(tensor: &HostTensor) -> HostTensor {
    let (heads, size, share) = (4, 8, 4);
    let width = tensor.shape().get(1).copied().unwrap_or(1);
    let values = tensor.to_f64().unwrap();
    let row = |at: usize| values[at * width..(at + 1) * width].to_vec();
    let mut rows = Vec::new();
    for head in 0..heads {
        rows.extend((0..size).flat_map(|at| row(head * size + at)));
        rows.extend((0..share).flat_map(|at| row(heads * size + head * share + at)));
        rows.extend((0..share).flat_map(|at| row(heads * size + heads * share + head * share + at)));
    }
    HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &rows).unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_folder(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn what_upstream_makes_of_a_checkpoint() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/checkpoints");
    for (name, bias, setting) in [
        ("sequential-residual-tied-tp2-drift", Some("sum"), None),
        ("parallel-residual-tp2-drift", Some("sum"), Some("activation")),
        ("llama-gqa-swiglu-tp2-drift", None, None),
    ] {
        let folder = shared.join(name);
        let found = as_json(&folder, &folder.join("hf_converted"));
        let settings: Vec<_> =
            found["settings"].as_array().unwrap().iter().map(|setting| setting["setting"].as_str().unwrap()).collect();
        assert_eq!(settings, setting.into_iter().collect::<Vec<_>>(), "{name}");
        for parameter in found["parameters"].as_array().unwrap() {
            let own = parameter["left"]["name"].as_str().unwrap();
            let expected = if own.contains("norm") {
                Some("mean")
            } else if own == "attention.dense.bias" || own == "mlp.linear2.bias" {
                bias
            } else {
                None
            };
            assert_eq!(parameter.get("rule").and_then(Value::as_str), expected, "{name}: {own}");
            assert_eq!(parameter["values"]["max_abs"], 0.0, "{name}: {own}");
            assert_eq!(parameter["identical"], expected.is_none(), "{name}: {own}");
        }
    }
}

#[test]
fn what_older_versions_saved_beside_the_parameters_is_passed_over() {
    let files = tiny(|_| {});
    let other = converted(&files, "mean", |written| {
        for (name, dtype) in [
            ("attention.bias", DType::U8),
            ("attention.masked_bias", DType::F32),
            ("attention.rotary_emb.inv_freq", DType::F32),
        ] {
            // Two elements of a head are turned: the table is 1.
            let bytes = if name.ends_with("inv_freq") { 1_f32.to_le_bytes().to_vec() } else { vec![0; dtype.size()] };
            let tensor = HostTensor::new(dtype, vec![1], bytes).unwrap();
            written.tensors.insert(format!("gpt_neox.layers.0.{name}"), tensor);
        }
    });
    assert_eq!(as_json(files.path(), other.path())["parameters"].as_array().unwrap().len(), 28);
}
