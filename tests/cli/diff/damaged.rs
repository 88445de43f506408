//! What is said of directories that are damaged, lie, or hold no model.

use super::*;

/// A sound directory beside the checkpoint it was made of, to be damaged.
struct Damaged {
    files: TinyCheckpoint,
    folder: tempfile::TempDir,
}

impl Damaged {
    fn new() -> Self {
        let files = tiny(|_| {});
        let folder = converted(&files, "mean", |_| {});
        Self { files, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn complaint(&self) -> String {
        complaint(self.files.path(), self.folder.path())
    }

    /// Writes it anew with other tensors and settings.
    fn rewrite(&self, edit: impl FnOnce(&mut HuggingFace)) {
        let mut written = HuggingFace::merged(&self.files.open(), "mean");
        edit(&mut written);
        written.write(self.folder.path());
    }
}

#[test]
fn damaged_directories_are_refused_with_file_tensor_and_hint() {
    let damaged = Damaged::new();
    let mut complaints: Vec<(&str, String)> = Vec::new();
    let mut note = |what, complaint| complaints.push((what, complaint));
    damaged.rewrite(|written| drop(written.tensors.remove("gpt_neox.layers.1.mlp.dense_4h_to_h.bias")));
    note("a tensor is missing", damaged.complaint());
    damaged.rewrite(|written| {
        let tensor = written.tensors["embed_out.weight"].clone();
        written.tensors.insert("gpt_neox.layers.2.mlp.dense_4h_to_h.weight".to_owned(), tensor);
    });
    note("a tensor too many", damaged.complaint());
    damaged.rewrite(|written| drop(written.config.insert("intermediate_size".to_owned(), json!(128))));
    note("another width", damaged.complaint());
    damaged.rewrite(|written| written.set_element("gpt_neox.final_layer_norm.weight", 5, f64::NAN));
    note("not a number", damaged.complaint());
    damaged.rewrite(|written| {
        let shape = written.tensors["embed_out.weight"].shape().to_vec();
        let bytes = vec![0; shape.iter().product()];
        let tensor = HostTensor::new(DType::U8, shape, bytes).unwrap();
        written.tensors.insert("embed_out.weight".to_owned(), tensor);
    });
    note("integers", damaged.complaint());
    damaged.rewrite(|_| {});
    truncate_half(&damaged.path("model.safetensors"));
    note("half a file", damaged.complaint());
    truncate(&damaged.path("model.safetensors"), 3);
    note("three bytes", damaged.complaint());
    fs::write(damaged.path("model.safetensors"), u64::MAX.to_le_bytes()).unwrap();
    note("a header without end", damaged.complaint());
    fs::write(damaged.path("model.safetensors"), [&2_u64.to_le_bytes()[..], b"[]"].concat()).unwrap();
    note("a header of another kind", damaged.complaint());
    fs::remove_file(damaged.path("model.safetensors")).unwrap();
    note("no weights", damaged.complaint());
    fs::write(damaged.path("pytorch_model.bin"), b"not a pickle").unwrap();
    note("no pickle", damaged.complaint());
    let text =
        complaints.iter().map(|(what, complaint)| format!("# {what}\n{complaint}")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("damaged_weights", text);
}

#[test]
fn indices_that_lie_are_refused() {
    let damaged = Damaged::new();
    let sharded = |damaged: &Damaged| {
        let _ = fs::remove_file(damaged.path("model.safetensors"));
        HuggingFace::merged(&damaged.files.open(), "mean").write_sharded(damaged.folder.path());
    };
    let edit = |damaged: &Damaged, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        sharded(damaged);
        let path = damaged.path("model.safetensors.index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        fs::write(path, index.to_string()).unwrap();
        damaged.complaint()
    };
    sharded(&damaged);
    // Sound to begin with.
    assert_eq!(as_json(damaged.folder.path(), damaged.folder.path())["identical"], true);
    let embedding = "gpt_neox.embed_in.weight";
    let mut complaints: Vec<(&str, String)> = Vec::new();
    let outside = tempfile::tempdir().unwrap();
    write_safetensors(&outside.path().join("x.safetensors"), std::iter::empty());
    for (what, file) in [
        ("a file that is missing", "model-00003-of-00002.safetensors".to_owned()),
        ("a file of the parent folder", "../model.safetensors".to_owned()),
        ("an absolute path", "/etc/passwd".to_owned()),
        ("nothing", String::new()),
    ] {
        complaints.push((what, edit(&damaged, &|places| drop(places.insert(embedding.to_owned(), json!(file))))));
    }
    // Names in order alternate between the two files; the word embedding is the second.
    let other = "model-00001-of-00002.safetensors";
    complaints
        .push(("another file", edit(&damaged, &|places| drop(places.insert(embedding.to_owned(), json!(other))))));
    complaints.push((
        "a tensor that is nowhere",
        edit(&damaged, &|places| drop(places.insert("x".to_owned(), json!(other)))),
    ));
    complaints.push(("a tensor left out", edit(&damaged, &|places| drop(places.remove(embedding)))));
    complaints.push(("an empty index", edit(&damaged, &serde_json::Map::clear)));
    fs::write(damaged.path("model.safetensors.index.json"), "{\"weight_map\": 3}").unwrap();
    complaints.push(("garbage", damaged.complaint()));
    let text =
        complaints.iter().map(|(what, complaint)| format!("# {what}\n{complaint}")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("indices_that_lie", text);
}

#[test]
fn configurations_that_cannot_be_evaluated_are_refused() {
    let damaged = Damaged::new();
    let mut complaints = Vec::new();
    for (key, value) in [
        ("architectures", json!(["Qwen2MoeForCausalLM"])),
        ("hidden_size", json!("wide")),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(65)),
        ("num_attention_heads", json!(0)),
        ("num_hidden_layers", json!(4_000_000_000_u64)),
        ("intermediate_size", json!(u64::MAX)),
        ("vocab_size", json!(0)),
        ("hidden_act", json!("quick_gelu")),
        ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
        ("quantization_config", json!({ "bits": 4 })),
        ("head_dim", json!(16)),
        ("rotary_pct", json!(0.2)),
        ("layer_norm_eps", json!(-1.0)),
        ("vocab_size", Value::Null),
    ] {
        damaged.rewrite(|written| drop(written.config.insert(key.to_owned(), value.clone())));
        complaints.push((format!("{key}: {value}"), damaged.complaint()));
    }
    fs::write(damaged.path("config.json"), "{\"architectures\": [").unwrap();
    complaints.push(("half a file".to_owned(), damaged.complaint()));
    fs::write(damaged.path("config.json"), "[]").unwrap();
    complaints.push(("a list".to_owned(), damaged.complaint()));
    fs::write(damaged.path("config.json"), "{}").unwrap();
    complaints.push(("no class".to_owned(), damaged.complaint()));
    fs::remove_file(damaged.path("config.json")).unwrap();
    complaints.push(("no config.json".to_owned(), damaged.complaint()));
    let text =
        complaints.iter().map(|(what, complaint)| format!("# {what}\n{complaint}")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("configurations_refused", text);
}

#[test]
fn folders_that_are_no_model_are_refused() {
    let files = tiny(|_| {});
    let folder = tempfile::tempdir().unwrap();
    assert!(complaint(files.path(), folder.path()).contains("not a gpt-neox checkpoint"));
    assert!(complaint(files.path(), &folder.path().join("nowhere")).contains("expected a checkpoint directory"));
}
