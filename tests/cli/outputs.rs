//! What `merge` is to write is held against the rules of what is read, before a byte of it is written.

use serde_json::json;

use super::{failure, kintsugi, run, text};
use crate::common::{TinyCheckpoint, TinyModel, layer_files};
use kintsugi::checkpoint::Checkpoint;

/// 12 heads on 2 ranks, as Pythia-160M has.
fn twelve_heads() -> TinyCheckpoint {
    TinyModel::new().with(|o| (o.shape.hidden_size, o.shape.head_count) = (96, 12)).write()
}

/// With and without `--dry-run` the same; nothing is left behind.
fn refusal(source: &TinyCheckpoint, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new/out");
    let refused = |further: &[&str]| {
        let mut command = kintsugi();
        failure(command.arg("merge").arg(source.path()).arg("-o").arg(&target).args(arguments).args(further))
    };
    let found = refused(&[]);
    assert_eq!(found, refused(&["--dry-run"]));
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "{found}");
    found.replace(&*target.to_string_lossy(), "OUT")
}

#[test]
fn ranks_with_parts_of_heads_are_refused() {
    let source = twelve_heads();
    for ranks in ["8", "16", "5"] {
        assert_eq!(
            refusal(&source, &["--tensor-parallel", ranks]),
            format!(
                "error: cannot be written for {ranks} ranks: OUT: `num_attention_heads` should be a multiple of \
                 model_parallel_size ({ranks}), found 12\nhint: --tensor-parallel takes 1, 2, 4 with this model\n"
            )
        );
    }
    let folder = tempfile::tempdir().unwrap();
    for ranks in ["1", "2", "4"] {
        let target = folder.path().join(ranks);
        let mut command = kintsugi();
        let arguments = ["--tensor-parallel", ranks];
        let output = run(command.arg("merge").arg(source.path()).arg("-o").arg(&target).args(arguments));
        assert!(output.status.success(), "{}", text(&output.stderr));
        Checkpoint::open(&target, &[]).unwrap();
    }
}

#[test]
fn ranks_with_parts_of_key_heads_rows_and_widths_are_refused() {
    let grouped = TinyModel::new().with(|o| o.shape.kv_head_count = Some(4)).write();
    let found = refusal(&grouped, &["--tensor-parallel", "8"]);
    assert!(found.contains("`num_kv_heads` should be a multiple of model_parallel_size (8), found 4"), "{found}");
    assert!(found.contains("takes 1, 2, 4 with"), "{found}");
    let found = refusal(&twelve_heads(), &["--tensor-parallel", "12"]);
    assert!(
        found.contains("`padded_vocab_size` should be a multiple of model_parallel_size (12), found 128"),
        "{found}"
    );
    let found = refusal(&twelve_heads(), &["--tensor-parallel", "3", "--trim-vocab=121"]);
    assert!(found.contains("--trim-vocab=123 keeps rows that 3 ranks divide"), "{found}");
    let narrow = TinyModel::new().with(|o| o.shape.mlp_inner_size = Some(60)).write();
    let found = refusal(&narrow, &["--tensor-parallel", "8"]);
    assert!(
        found.contains("extent 60 does not divide into 8 ranks") && found.contains("takes 1, 2, 4 with"),
        "{found}"
    );
}

#[test]
fn a_vocabulary_that_lacks_tokens_is_refused() {
    let source = TinyModel::new().write();
    let tokens: serde_json::Map<_, _> = (0..120).map(|id| (format!("token{id}"), json!(id))).collect();
    let tokenizer = json!({ "model": { "type": "WordLevel", "vocab": tokens, "unk_token": "token0" } });
    fs_err::write(source.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let found = refusal(&source, &["--trim-vocab=100"]);
    assert!(
        found.contains("its tokens need 120 rows of the vocabulary, and 100 would be written\nhint: --trim-vocab ")
    );
    let larger: serde_json::Map<_, _> = (0..200).map(|id| (format!("token{id}"), json!(id))).collect();
    let tokenizer = json!({ "model": { "type": "WordLevel", "vocab": larger, "unk_token": "token0" } });
    fs_err::write(source.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let found = refusal(&source, &[]);
    assert!(found.contains("its tokens need 200 rows of the vocabulary, and 128 would be written\nhint: is it the"));
}

#[test]
fn layer_files_get_the_numbers_that_gpt_neox_gives_them() {
    let source = TinyModel::new().write();
    for (from, to) in [(6, 8), (5, 7), (3, 5), (2, 4)] {
        for tp_rank in [0, 1] {
            fs_err::rename(source.layer_file(from, tp_rank), source.layer_file(to, tp_rank)).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let output = run(kintsugi().arg("merge").arg(source.path()).arg("-o").arg(&target));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let names = layer_files(&target.join("global_step1"));
    let numbers = names.iter().map(|path| path.file_name().unwrap().to_string_lossy()[6..8].to_owned());
    assert_eq!(numbers.collect::<Vec<_>>(), ["00", "02", "03", "05", "06"]);
}

#[test]
fn what_depends_on_the_heads_of_a_rank_keeps_them() {
    let source = TinyModel::new().with(|o| o.tp_size = 1).write();
    source.edit_config(|raw| drop(raw.insert("use_qk_layernorm".to_owned(), json!(true))));
    for stage in [2, 3] {
        crate::common::edit_layer_file(&source.layer_file(stage, 0), |tensors| {
            for part in ["weight", "bias"] {
                let ones = kintsugi::tensor::HostTensor::from_f64(kintsugi::tensor::DType::F32, vec![8, 8], &[1.0; 64]);
                tensors.insert(format!("attention.qk_layernorm.{part}"), ones.unwrap());
            }
        });
    }
    let found = refusal(&source, &["--tensor-parallel", "2", "--strategy", "mean"]);
    assert!(found.contains("statistics over the heads of each rank\nhint: --tensor-parallel 1 keeps them"), "{found}");

    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let mut command = kintsugi();
    command.arg("merge").arg(source.path()).arg("-o").arg(&target).args(["--tensor-parallel", "2", "--allow-inexact"]);
    let said = text(&run(&mut command).stderr);
    let loss = "attention.qk_layernorm (2 layers): it takes its statistics over the heads of one rank";
    assert!(said.contains(&format!("not exact: {loss}")), "{said}");
    assert!(fs_err::read_to_string(target.join("README.md")).unwrap().contains(loss));
}

/// GPT2BPETokenizer's pair of files, under any names of theirs, is written beside the weights, and named in the configuration.
#[test]
fn a_vocabulary_with_merges_is_copied() {
    let source = TinyModel::new().write();
    let files = [("gpt2-vocab.json", r#"{"a": 0, "b": 1, "ab": 2}"#), ("gpt2-merges.txt", "#version: 0.2\na b\n")];
    for (name, text) in files {
        fs_err::write(source.path().join(name), text).unwrap();
    }
    let given = source.path().join("gpt2-vocab.json");
    let folder = tempfile::tempdir().unwrap();
    let merge = |name: &str, further: &[&str]| {
        let target = folder.path().join(name);
        let output = run(kintsugi().arg("merge").arg(source.path()).arg("-o").arg(&target).args(further));
        assert!(output.status.success(), "{}", text(&output.stderr));
        target
    };
    let given = given.to_str().unwrap();
    let neox = merge("neox", &["--trim-vocab", "--tokenizer", given]);
    for (name, (_, text)) in ["vocab.json", "merges.txt"].into_iter().zip(files) {
        assert_eq!(fs_err::read_to_string(neox.join(name)).unwrap(), text);
    }
    let written = Checkpoint::open(&neox, &[]).unwrap();
    let config = written.config();
    assert_eq!(config.tokenizer_type.as_deref(), Some("GPT2BPETokenizer"));
    assert_eq!(config.vocab_file.as_deref(), neox.join("vocab.json").to_str());
    assert_eq!(config.merge_file.as_deref(), neox.join("merges.txt").to_str());
    assert_eq!(written.architecture().padded_vocab_size, 3);
    let hf = merge("hf", &["--format", "hf", "--tokenizer", given]);
    assert!(hf.join("vocab.json").exists() && hf.join("merges.txt").exists());
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&fs_err::read(hf.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(tokenizer["tokenizer_class"], "GPT2TokenizerFast");

    // Another kind of tokenizer is configured as what it is.
    let path = folder.path().join("t.json");
    fs_err::write(&path, r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#).unwrap();
    let other = merge("json", &["--tokenizer", path.to_str().unwrap()]);
    let written = Checkpoint::open(&other, &[]).unwrap();
    assert_eq!(written.config().tokenizer_type.as_deref(), Some("HFTokenizer"));
    assert_eq!(written.client().args.tokenizer_type.as_deref(), Some("HFTokenizer"));
    assert_eq!(written.config().vocab_file.as_deref(), other.join("tokenizer.json").to_str());
}

#[test]
fn what_the_source_was_read_with_is_in_the_merge() {
    let source = TinyModel::new().write();
    let folder = tempfile::tempdir().unwrap();
    let mut command = kintsugi();
    command.arg("merge").arg(source.path()).arg("-o").arg(folder.path().join("out"));
    let output = run(command.args(["--quirk", "reduction=per-branch"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = run(kintsugi().arg("inspect").arg(folder.path().join("out")));
    let found = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(found.contains("reduction=per-branch (from the files: kintsugi merge wrote them so)"), "{found}");
}
