//! `kintsugi inspect`: what it prints is pinned, its numbers are gpt-neox's, and it judges as the merger does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::common;
use crate::common::{TinyModel, edit_layer_file, read_tensors};
use assert_cmd::Command;
use kintsugi::checkpoint::{Checkpoint, Layout, ModelSource as _};
use kintsugi::config::PositionEmbedding;
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::{Kind, StageId};
use kintsugi::report::{Inspection, Vocabulary};
use kintsugi::tensor::{DType, HostTensor};
use serde_json::Value;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo/checkpoint")
}

fn inspect(checkpoint: &Path) -> Command {
    let mut command = Command::cargo_bin("kintsugi").unwrap();
    command.env("COLUMNS", "80").arg("inspect").arg(checkpoint);
    command
}

fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// Temporary directories have names of their own.
fn text(checkpoint: &Path, columns: &str) -> String {
    let text = stdout(inspect(checkpoint).env("COLUMNS", columns));
    let (first, rest) = text.split_once('\n').unwrap();
    let (_, ranks) = first.split_once(", step").unwrap();
    format!("NAME, step {}\n{rest}", ranks.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn json(checkpoint: &Path, more: &[&str]) -> Inspection {
    serde_json::from_str(&stdout(inspect(checkpoint).arg("--json").args(more))).unwrap()
}

/// Sequential residual, learned positions, drift: nothing is exact.
fn sequential() -> TinyModel {
    TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.tied_embeddings = true;
        options.positions = PositionEmbedding::Learned;
        options.layout = Layout::RankFiles;
        options.dtype = DType::BF16;
        options.drift = 0.01;
    })
}

/// Four ranks that agree, with the names and the saved buffers of old, and one norm for attention and MLP.
fn four_ranks() -> TinyModel {
    TinyModel::new().with(|options| {
        options.tp_size = 4;
        options.shape.make_vocab_size_divisible_by = 8;
        options.gpt_j_tied = true;
        options.legacy_names = true;
    })
}

#[test]
fn the_demo_in_80_columns() {
    insta::assert_snapshot!(stdout(&mut inspect(&demo())));
}

#[test]
fn the_demo_in_120_columns() {
    insta::assert_snapshot!(stdout(inspect(&demo()).env("COLUMNS", "120")));
}

#[test]
fn a_sequential_model_with_drift() {
    insta::assert_snapshot!(text(sequential().write().path(), "80"));
}

#[test]
fn four_ranks_without_drift() {
    insta::assert_snapshot!(text(four_ranks().write().path(), "80"));
}

#[test]
fn without_weights() {
    let tiny = TinyModel::new().write();
    let inspection = json(tiny.path(), &["--no-drift"]);
    assert!(inspection.drift.is_none() && inspection.strategies.is_none());
    assert_eq!(inspection.parameters.iter().map(|row| row.stage_count).sum::<usize>(), 28);
    inspect(tiny.path()).args(["--no-drift", "--strategy", "mean"]).assert().code(2);
}

#[test]
fn json_reads_back_and_has_the_fields_of_its_schema() {
    for checkpoint in [sequential().write(), four_ranks().write()] {
        let printed = stdout(inspect(checkpoint.path()).arg("--json"));
        let value: Value = serde_json::from_str(&printed).unwrap();
        let inspection: Inspection = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&inspection).unwrap(), value);
        assert!(!printed.contains("null"), "absent values have no field");

        let schema = serde_json::to_value(schemars::schema_for!(Inspection)).unwrap();
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        assert!(names(&value).is_subset(&names(&schema["properties"])));
        let drift = &schema["$defs"]["ParamDrift"]["properties"];
        for entry in value["drift"].as_array().unwrap() {
            assert!(names(entry).is_subset(&names(drift)), "{entry}");
        }
    }
}

#[test]
fn drift_is_what_gpt_neox_measured() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo/gpt_neox_reference.json");
    let reference: Value = serde_json::from_slice(&fs_err::read(reference).unwrap()).unwrap();
    let drift = json(&demo(), &[]).drift.unwrap();
    let mut found = 0;
    for (name, expected) in reference["replicated"].as_object().unwrap() {
        let (number, name) = name.split_once('.').unwrap();
        // Layers are numbered from 2; after the last comes a step without parameters, then the final norm.
        let stage = if number == "7" { StageId::Output } else { StageId::Layer(number.parse::<usize>().unwrap() - 2) };
        let entry = drift.iter().find(|entry| entry.stage == stage && entry.name == name).unwrap();
        // Differences of float16 are exact in both.
        assert_eq!(Some(entry.drift.max_abs), expected["max_abs_diff_between_ranks"].as_f64(), "{stage} {name}");
        found += 1;
    }
    assert_eq!(found, drift.len());
}

#[test]
fn strategies_are_judged_as_they_are_when_merged() {
    let parallel = TinyModel::new().with(|options| options.drift = 0.01).write();
    let checkpoints = [sequential().write(), four_ranks().write(), parallel];
    for path in checkpoints.iter().map(common::TinyCheckpoint::path).chain([demo().as_path()]) {
        let checkpoint = Checkpoint::open(path, &[]).unwrap();
        let judgements = json(path, &[]).strategies.unwrap();
        for (strategy, judgement) in Strategy::built_in().unwrap().iter().zip(&judgements) {
            let mut exactness = Exactness::default();
            for id in checkpoint.stage_ids() {
                let stage = checkpoint.read_stage(id).unwrap();
                StageMerger::new(&stage, checkpoint.architecture()).merge(strategy, &mut exactness).unwrap();
            }
            assert_eq!(judgement.name, strategy.name);
            assert_eq!(judgement.exact.exact, exactness.is_exact());
            assert_eq!(judgement.exact.because, exactness.because());
            assert_eq!(judgement.miscounts, exactness.miscounts());
            assert_eq!(judgement.folded_norms > 0, exactness.folding().is_some());
        }
    }
}

#[test]
fn a_wrong_multiple_of_the_biases_is_warned_of() {
    let warnings = |path: &Path| {
        let text = stdout(inspect(path).env("COLUMNS", "200"));
        text.lines().filter(|line| line.starts_with("WARNING")).map(str::to_owned).collect::<Vec<_>>()
    };
    let doubled = "WARNING: merge20b makes attention.dense.bias and mlp.linear2.bias 2 times what the model has";
    assert_eq!(warnings(sequential().write().path()), [doubled]);
    let quarter = |name| {
        format!("WARNING: {name} makes attention.dense.bias and mlp.dense_4h_to_h.bias 0.25 times what the model has")
    };
    assert_eq!(warnings(four_ranks().write().path()), [quarter("zeroth"), quarter("mean")]);
    assert!(warnings(TinyModel::new().with(|options| options.tp_size = 1).write().path()).is_empty());
}

#[test]
fn ranks_that_disagree_on_a_buffer_are_noted() {
    let tiny = TinyModel::new().with(|options| options.legacy_names = true).write();
    edit_layer_file(&tiny.layer_file(3, 1), |tensors| {
        let table = tensors.get_mut("attention.rotary_emb.inv_freq").unwrap();
        // Within the rounding of 16 bits.
        *table = HostTensor::from_f64(DType::F32, table.shape().to_vec(), &[1.0 - 0.5_f64.powi(10)]).unwrap();
    });
    let inspection = json(tiny.path(), &[]);
    assert!(inspection.notes.iter().any(|note| note.contains("not the same on all ranks in 1 of them")));
    let drift = inspection.drift.unwrap();
    let buffer = drift.iter().find(|entry| entry.kind == Kind::Buffer && entry.stage == StageId::Layer(1)).unwrap();
    assert_eq!((buffer.drift.max_abs, buffer.used), (0.5_f64.powi(10), false));
    // The model does not use it.
    assert!(inspection.strategies.unwrap().iter().any(|judgement| judgement.exact.exact));
}

#[test]
fn only_what_is_replicated_is_read() {
    let tiny = TinyModel::new().write();
    let checkpoint = tiny.open();
    let replicated = checkpoint.read_replicated(StageId::Layer(0)).unwrap();
    assert!(replicated.unused.is_empty());
    assert_eq!(replicated.used.params.len(), 6);
    let tensors = read_tensors(&tiny.layer_file(2, 1));
    for param in replicated.used.params.values() {
        assert!(param.value.tensors()[1].same_bits(&tensors[&param.name]), "{}", param.name);
    }
    assert!(checkpoint.read_replicated(StageId::Embedding).unwrap().used.params.is_empty());
}

#[test]
fn the_picture_is_a_cell_for_every_parameter_and_stage() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("drift.svg");
    inspect(&demo()).arg("--svg").arg(&file).assert().success();
    let svg = fs_err::read_to_string(file).unwrap();
    assert!(svg.contains("role=\"img\"") && svg.contains("<title id=") && svg.contains("<desc id="));
    // Six parameters in four layers, the final norm's two; the legend's five and the background have no title.
    assert_eq!(svg.matches("ulps</title><rect").count(), 26);
    insta::assert_snapshot!(svg);
}

#[test]
fn refusals_give_the_reason_and_end_with_2() {
    let tiny = TinyModel::new().write();
    tiny.edit_config(|config| drop(config.insert("attention_config".to_owned(), serde_json::json!([[["gmlp"], 2]]))));
    let assert = inspect(tiny.path()).assert().code(2);
    let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("this model is refused: attention_config: gmlp"), "{stderr}");
    assert!(assert.get_output().stdout.is_empty());
    inspect(&demo()).args(["--strategy", "no-such"]).assert().code(2);
}

#[test]
fn padding_tells_how_many_tokens_there_can_be() {
    assert_eq!(Vocabulary::new(50_432, Some(256), 2).tokens, Some([50_177, 50_432]));
    assert_eq!(Vocabulary::new(50_304, Some(256), 2).tokens, None);
    assert_eq!(Vocabulary::new(7, Some(1), 1).tokens, Some([7, 7]));
}
