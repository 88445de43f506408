//! Checkpoints of Megatron-LM whose files lie, contradict one another or are missing: exit code 2, the file's name and a hint,
//! nothing run, no memory taken.

use super::*;
use crate::common::megatron::pickle::write_zip;
use crate::common::megatron::{RankContents, edit, rank_file, write_tiny};
use crate::hostile::text_opcode;

fn checkpoint() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tiny(folder.path());
    folder
}

fn inspect(folder: &TempDir, further: &[&str]) -> Command {
    let mut command = kintsugi();
    command.arg("inspect").arg(folder.path()).args(further);
    command
}

fn complaint(folder: &TempDir, further: &[&str]) -> String {
    let stderr = failure(&mut with_little_memory(&inspect(folder, further)));
    assert!(stderr.contains("\nhint: "), "{stderr}");
    stderr.replace(&folder.path().display().to_string(), "SAVE")
}

/// The error of a checkpoint whose rank 1 holds something else.
fn refused(change: impl FnOnce(&mut RankContents)) -> String {
    let folder = checkpoint();
    edit(folder.path(), 1, change);
    complaint(&folder, &[])
}

#[track_caller]
fn assert_contains(text: &str, expected: &str) {
    assert!(text.contains(expected), "expected: {expected}\n{text}");
}

#[test]
fn a_sound_checkpoint_is_inspected() {
    let folder = checkpoint();
    let output = run(&mut inspect(&folder, &[]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found = text(&output.stdout);
    for expected in
        ["step 7", "2 ranks, f32, megatron", "self_attention.linear_qkv.weight", "decoder.final_layernorm.bias"]
    {
        assert_contains(&found, expected);
    }
    // The folder of the step itself.
    let step = run(kintsugi().arg("inspect").arg(folder.path().join("iter_0000007")));
    assert_eq!(step.status.code(), Some(0), "{}", text(&step.stderr));
}

#[test]
fn missing_files_are_named() {
    let folder = checkpoint();
    fs::remove_file(folder.path().join(rank_file(1, 0, 1))).unwrap();
    assert_contains(
        &complaint(&folder, &[]),
        "SAVE/iter_0000007/mp_rank_01/model_optim_rng.pt: missing: args tell of 2",
    );
    fs::remove_file(folder.path().join("latest_checkpointed_iteration.txt")).unwrap();
    assert_contains(
        &complaint(&folder, &[]),
        "SAVE: no latest_checkpointed_iteration.txt that names one of iter_0000007",
    );
    fs::write(folder.path().join("latest_checkpointed_iteration.txt"), "8").unwrap();
    assert_contains(&complaint(&folder, &[]), "names step `iter_0000008`");
    fs::write(folder.path().join("latest_checkpointed_iteration.txt"), "../7").unwrap();
    assert_contains(&complaint(&folder, &[]), "expected a number or `release`, found `../7`");
}

#[test]
fn files_of_other_runs_and_steps_are_refused() {
    let other = refused(|contents| contents.iteration = 8);
    assert_contains(&other, "mp_rank_01/model_optim_rng.pt: `iteration` is 8, in SAVE");
    let other = refused(|contents| {
        contents.args.as_mut().unwrap().insert("rotary_base".to_owned(), json!(500));
    });
    assert_contains(&other, "`rotary_base` is 500, in SAVE");
    // What decides nothing may differ.
    let folder = checkpoint();
    edit(folder.path(), 1, |contents| {
        contents.args.as_mut().unwrap().insert("rank".to_owned(), json!(1));
    });
    assert_eq!(run(&mut inspect(&folder, &[])).status.code(), Some(0));
    assert_contains(&refused(|contents| contents.version = Some(9.0)), "checkpoint_version 9.0 is not known");
    assert_contains(&refused(|contents| contents.version = Some(1.0)), "`checkpoint_version` is");
    assert_contains(&refused(|contents| contents.args = None), "holds no args");
}

#[test]
fn every_tensor_is_accounted_for() {
    let name = |contents: &RankContents, part: &str| {
        contents.models[0].1.iter().position(|(name, _)| name.contains(part)).unwrap()
    };
    let missing = refused(|contents| {
        let at = name(contents, "layers.1.mlp.linear_fc2.weight");
        contents.models[0].1.remove(at);
    });
    assert_contains(&missing, "rank 1: missing tensor: the weight of the MLP's second layer of the stage's layer 1");
    let renamed = refused(|contents| {
        let at = name(contents, "layers.0.mlp.linear_fc1.weight");
        contents.models[0].1[at].0 = "decoder.layers.0.mlp.linear_fc3.weight".to_owned();
    });
    assert_contains(&renamed, "rank 1: unexpected tensor `decoder.layers.0.mlp.linear_fc3.weight`");
    let experts = refused(|contents| {
        let at = name(contents, "layers.0.mlp.linear_fc1.weight");
        contents.models[0].1[at].0 = "decoder.layers.0.mlp.experts.linear_fc1.weight0".to_owned();
    });
    assert_contains(&experts, "mixtures of experts route each token to its own matrices");
    let twice = refused(|contents| {
        let mut tensor = contents.models[0].1[name(contents, "layers.0.input_layernorm.weight")].clone();
        tensor.0 = "decoder.layers.0.self_attention.linear_qkv.layer_norm_weight".to_owned();
        contents.models[0].1.push(tensor);
    });
    assert_contains(&twice, "are the same parameter");
    let gap = refused(|contents| {
        for (name, _) in &mut contents.models[0].1 {
            *name = name.replace("layers.1.", "layers.2.");
        }
    });
    assert_contains(&gap, "layer 1 is missing");
    let shape = refused(|contents| {
        let at = name(contents, "final_layernorm.weight");
        let other = contents.models[0].1[name(contents, "linear_qkv.bias")].1.clone();
        contents.models[0].1[at].1 = other;
    });
    assert_contains(&shape, "expected shape [64], found [96]");
    assert_contains(&refused(|contents| contents.models.clear()), "holds no model: neither `model` nor `model0`");
}

#[test]
fn arguments_that_lie_are_refused() {
    let all = |field: &str, value: serde_json::Value| {
        let folder = checkpoint();
        for rank in 0..2 {
            edit(folder.path(), rank, |contents| {
                contents.args.as_mut().unwrap().insert(field.to_owned(), value.clone());
            });
        }
        complaint(&folder, &[])
    };
    for (field, value, expected) in [
        ("num_layers", json!(3), "expected 3 layers (num_layers), found 2"),
        ("num_layers", json!(1_000_000_000_000_u64), "`num_layers`: expected a whole number from 1 to 1048576"),
        ("hidden_size", json!(0), "`hidden_size`: expected a whole number"),
        ("num_attention_heads", json!(1), "1 heads cannot be divided among 2 tensor-parallel ranks"),
        ("kv_channels", json!(1_000_000), "expected shape"),
        ("padded_vocab_size", json!(999), "`padded_vocab_size`: expected 128 as in the word embedding, found 999"),
        ("num_experts", json!(8), "num_experts: 8: mixtures of experts are not read"),
        ("swiglu", json!("maybe"), "`swiglu`: expected True or False, found \"maybe\""),
        ("swiglu", json!(true), "expected shape"),
        ("add_bias_linear", json!(false), "the model has no such parameter by its args (add_bias_linear"),
        ("position_embedding_type", json!("learned_absolute"), "missing tensor: the position embedding"),
        ("tensor_model_parallel_size", json!(1), "the files are of 2 tensor-parallel ranks"),
        ("layernorm_epsilon", json!(-1.0), "`layernorm_epsilon`: expected a number above 0, found -1.0"),
    ] {
        assert_contains(&all(field, value), expected);
    }
}

#[test]
fn arguments_can_be_given() {
    let folder = checkpoint();
    for rank in 0..2 {
        edit(folder.path(), rank, |contents| contents.args = None);
    }
    assert_contains(&complaint(&folder, &[]), "--megatron-args FILE");
    let given = folder.path().join("args.yml");
    let (architecture, _) = crate::common::megatron::tiny(|_| {});
    let args = crate::common::megatron::Writing::new(&architecture, 2).args(&architecture);
    fs::write(&given, serde_json::to_string(&args).unwrap()).unwrap();
    let path = given.display().to_string();
    let output = run(&mut inspect(&folder, &["--megatron-args", &path]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    fs::write(&given, "num_layers: 2\n").unwrap();
    assert_contains(&complaint(&folder, &["--megatron-args", &path]), "args.yml: `hidden_size` is missing");
    assert_contains(
        &failure(&mut inspect(&folder, &["--megatron-args", &path, "--era", "20b"])),
        "is a checkpoint of Megatron-LM; --neox-config, --era and --quirk apply to gpt-neox checkpoints only",
    );
    let neox = TinyModel::new().write();
    let mut command = kintsugi();
    command.arg("inspect").arg(neox.path()).args(["--megatron-args", &path]);
    assert_contains(&failure(&mut command), "--megatron-args applies to checkpoints of Megatron-LM only");
}

#[test]
fn pickles_that_would_run_code_run_nothing_and_exhaust_nothing() {
    let folder = checkpoint();
    let file = folder.path().join(rank_file(1, 0, 1));
    let mark = folder.path().join("mark");
    let command = text_opcode(&format!("touch {}", mark.display()));
    let call = [b"cposix\nsystem\n".as_slice(), &command, b"\x85R"].concat();
    let of = |key: &str, value: &[u8]| [b"\x80\x02}(", &text_opcode(key)[..], value, b"u."].concat();
    let namespace = [b"cargparse\nNamespace\n)\x81}(".as_slice(), &text_opcode("num_layers"), &call, b"ub"].concat();
    let itself = [b"\x80\x02}q\x00", &text_opcode("model")[..], b"h\x00s."].concat();
    for pickle in [
        of("args", &call),
        of("args", &namespace),
        of("model", &call),
        of("model", &[b"}(", &text_opcode("a")[..], &call, b"u"].concat()),
        of("model", &b"}".repeat(100_000)),
        of("args", &b"]".repeat(100_000)),
        of("args", &[b"\x8e".as_slice(), &u64::MAX.to_le_bytes()].concat()),
        itself,
        b"\x80\x02.".to_vec(),
        Vec::new(),
    ] {
        write_zip(&file, &pickle, &[]);
        assert_contains(&complaint(&folder, &[]), "SAVE/iter_0000007/mp_rank_01/model_optim_rng.pt");
        fs::write(&file, &pickle).unwrap();
        assert_contains(&complaint(&folder, &[]), "SAVE/iter_0000007/mp_rank_01/model_optim_rng.pt");
    }
    assert!(!mark.exists(), "the pickle was executed");
}
