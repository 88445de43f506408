//! What the files of a checkpoint hold: names, shapes and types accounted for on every rank, configuration and stored
//! arguments in step, and every complaint with its place.

use std::path::Path;

use crate::common;
use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file, edit_rank_file, replace_tensor};
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, CheckpointError, Layout, ModelSource as _};
use kintsugi::config::{Head, OutputLayerParallelism};
use kintsugi::export::{StoredTensor, Value, save};
use kintsugi::partition::{Role, StageId, StageKind};
use kintsugi::tensor::{DType, HostTensor};

fn open_error(files: &TinyCheckpoint) -> CheckpointError {
    Checkpoint::open(files.path(), &[]).unwrap_err()
}

/// The message without the folder.
fn message(files: &TinyCheckpoint) -> String {
    open_error(files).to_string().replace(&files.step().display().to_string(), "STEP")
}

fn f32s(shape: &[usize]) -> HostTensor {
    HostTensor::from_f64(DType::F32, shape.to_vec(), &vec![0.0; shape.iter().product()]).unwrap()
}

/// The weights of every stage, bit for bit.
fn weights(checkpoint: &Checkpoint) -> Vec<(StageId, Role, Vec<u8>)> {
    let stages = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap());
    stages
        .flat_map(|stage| {
            let bytes = |(role, param): (&Role, &kintsugi::partition::Param)| {
                (stage.id, *role, param.value.tensors().iter().flat_map(|tensor| tensor.bytes().to_vec()).collect())
            };
            stage.params.iter().map(bytes).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn the_tiny_checkpoint_is_sound() {
    let files = TinyModel::new().write();
    let checkpoint = files.open();
    assert_eq!((checkpoint.tp_size(), checkpoint.layout()), (2, Layout::LayerFiles));
    assert_eq!(checkpoint.folder(), files.step());
    // The step directory is as good as the save directory.
    assert_eq!(weights(&Checkpoint::open(files.step(), &[]).unwrap()), weights(&checkpoint));
}

#[test]
fn stages_are_known_by_what_they_hold_not_by_their_number() {
    let files = TinyModel::new().write();
    let expected = weights(&files.open());
    // Soft prompts shift every later number by one.
    for tp_rank in 0..2 {
        for stage in [6, 5, 3, 2] {
            fs::rename(files.layer_file(stage, tp_rank), files.layer_file(stage + 1, tp_rank)).unwrap();
        }
    }
    assert_eq!(weights(&files.open()), expected);
    assert_eq!(files.open().parameters().map(|(index, ..)| index).max(), Some(7));
}

#[test]
fn layers_are_ordered_by_number_beyond_ninety_nine() {
    let tiny = TinyModel::new().with(|options| {
        (options.shape.layer_count, options.shape.hidden_size, options.shape.head_count) = (101, 8, 1);
        options.tp_size = 1;
    });
    let files = tiny.write();
    assert!(files.layer_file(102, 0).is_file());
    let checkpoint = files.open();
    let last = checkpoint.stage_files(StageId::Layer(100));
    assert_eq!(last, [files.layer_file(102, 0)]);
    assert_eq!(checkpoint.stage_files(StageId::Layer(8)), [files.layer_file(10, 0)]);
}

#[test]
fn optimizer_files_are_passed_over() {
    let files = TinyModel::new().write();
    let names = [
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "expp_rank_0_mp_rank_00_optim_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ];
    for name in names {
        fs::write(files.step().join(name), "not read").unwrap();
    }
    assert_eq!(files.open().ignored(), names);
}

#[test]
fn a_rank_file_holds_the_model_under_sequential_names() {
    let in_rank_files = || TinyModel::new().with(|options| options.layout = Layout::RankFiles);
    let files = in_rank_files().write();
    assert_eq!(weights(&files.open()), weights(&TinyModel::new().write().open()));

    // A wrapper's prefix makes no difference.
    let expected = weights(&files.open());
    for tp_rank in 0..2 {
        edit_rank_file(&files.rank_file(tp_rank), |tensors| {
            *tensors =
                std::mem::take(tensors).into_iter().map(|(name, value)| (format!("module.{name}"), value)).collect();
        });
    }
    assert_eq!(weights(&files.open()), expected);

    let complaint = |edit: fn(&mut std::collections::BTreeMap<String, HostTensor>)| {
        let files = in_rank_files().write();
        edit_rank_file(&files.rank_file(1), edit);
        message(&files)
    };
    assert_eq!(
        complaint(|tensors| drop(tensors.insert("transformer.2.weight".to_owned(), f32s(&[1])))),
        "STEP/mp_rank_01_model_states.pt: holds no parameter of a known stage; its names: transformer.2.weight"
    );
    assert_eq!(
        complaint(|tensors| tensors.retain(|name, _| !name.starts_with("sequential.3."))),
        "STEP/mp_rank_01_model_states.pt: rank 1: missing tensor `sequential.3.*`"
    );
    assert_eq!(
        complaint(|tensors| drop(tensors.insert("sequential.9.strange".to_owned(), f32s(&[1])))),
        "STEP/mp_rank_00_model_states.pt: rank 0: missing tensor `sequential.9.*`"
    );
}

#[test]
fn every_tensor_is_accounted_for_or_the_place_is_told() {
    type Edit = fn(&TinyCheckpoint);
    let cases: [(Edit, &str); 8] = [
        (
            |files| {
                edit_layer_file(&files.layer_file(3, 1), |tensors| {
                    let tensor = tensors.remove("mlp.linear1.bias").unwrap();
                    tensors.insert("mlp.linear_1.bias".to_owned(), tensor);
                });
            },
            "STEP/layer_03-model_01-model_states.pt: rank 1: unexpected tensor `mlp.linear_1.bias` in the transformer layer",
        ),
        (
            |files| edit_layer_file(&files.layer_file(3, 1), |tensors| drop(tensors.remove("attention.dense.bias"))),
            "STEP/layer_03-model_01-model_states.pt: rank 1: missing tensor `attention.dense.bias`",
        ),
        (
            |files| {
                edit_layer_file(&files.layer_file(2, 0), |tensors| {
                    tensors.insert("mlp.dense_h_to_4h.bias".to_owned(), f32s(&[128]));
                });
            },
            "STEP/layer_02-model_00-model_states.pt: rank 0: `mlp.linear1.bias` and `mlp.dense_h_to_4h.bias` are the \
             same parameter",
        ),
        (
            |files| {
                edit_layer_file(&files.layer_file(2, 1), |tensors| {
                    let tensor = tensors.remove("mlp.linear1.bias").unwrap();
                    tensors.insert("mlp.dense_h_to_4h.bias".to_owned(), tensor);
                });
            },
            "STEP/layer_02-model_01-model_states.pt: rank 1: missing tensor `mlp.linear1.bias`",
        ),
        (
            |files| replace_tensor(&files.layer_file(2, 1), "attention.dense.weight", f32s(&[32, 64])),
            "STEP/layer_02-model_01-model_states.pt: rank 1: tensor `attention.dense.weight`: expected shape [64, 32], \
             found [32, 64]",
        ),
        (
            |files| {
                let integers = HostTensor::new(DType::I64, vec![64], vec![0; 512]).unwrap();
                replace_tensor(&files.layer_file(2, 1), "attention.dense.bias", integers);
            },
            "STEP/layer_02-model_01-model_states.pt: tensor `attention.dense.bias`: expected floating point, found i64",
        ),
        (
            |files| {
                let half = HostTensor::from_f64(DType::F16, vec![64], &[0.0; 64]).unwrap();
                replace_tensor(&files.layer_file(5, 1), "norm.weight", half);
            },
            "STEP/layer_05-model_01-model_states.pt: rank 1: tensor `norm.weight`: expected f32 as on rank 0, found f16",
        ),
        (
            |files| {
                for tp_rank in 0..2 {
                    fs::copy(files.layer_file(0, tp_rank), files.layer_file(9, tp_rank)).unwrap();
                }
            },
            "STEP: expected one embedding, found 2",
        ),
    ];
    for (edit, expected) in cases {
        let files = TinyModel::new().write();
        edit(&files);
        assert_eq!(message(&files), expected);
    }
}

#[test]
fn missing_layers_are_told_by_number() {
    for (stage, expected) in [
        (2, "STEP: expected 2 transformer layers, found 1; no file holds layer index 2"),
        (3, "STEP: expected 2 transformer layers, found 1; no file holds layer index 3"),
        (0, "STEP: expected one embedding, found 0"),
        (5, "STEP: expected one final norm, found 0"),
        (6, "STEP: expected one output head, found 0"),
    ] {
        let files = TinyModel::new().write();
        for tp_rank in 0..2 {
            common::delete(&files.layer_file(stage, tp_rank));
        }
        assert_eq!(message(&files), expected);
    }
}

#[test]
fn a_tied_model_has_no_head_of_its_own() {
    let files = TinyModel::new().with(|options| options.tied_embeddings = true).write();
    let checkpoint = files.open();
    assert_eq!(checkpoint.architecture().head, Head::Tied);
    let output = checkpoint.read_stage(StageId::Output).unwrap();
    let embedding = checkpoint.read_stage(StageId::Embedding).unwrap();
    let tensor = |stage: &kintsugi::partition::StageTensors, role| stage.params[&role].value.tensors()[0].clone();
    assert!(tensor(&output, Role::HeadWeight).same_bits(&tensor(&embedding, Role::WordEmbedding)));
    // One that is there all the same is a surprise.
    fs::copy(TinyModel::new().write().layer_file(6, 0), files.layer_file(6, 0)).unwrap();
    fs::copy(TinyModel::new().write().layer_file(6, 0), files.layer_file(6, 1)).unwrap();
    assert!(message(&files).contains("tensor `final_linear.weight` in the output head"), "{}", message(&files));
}

#[test]
fn configuration_and_stored_arguments_must_agree() {
    for (key, value, expected) in [
        ("num_layers", 3, "`num_layers` is 3, but the checkpoint was written with 2"),
        ("hidden_size", 128, "`hidden_size` is 128, but the checkpoint was written with 64"),
        ("num_attention_heads", 4, "`num_attention_heads` is 4, but the checkpoint was written with 8"),
        ("max_position_embeddings", 32, "`max_position_embeddings` is 32, but the checkpoint was written with 64"),
        (
            "make_vocab_size_divisible_by",
            8,
            "`make_vocab_size_divisible_by` is 8, but the checkpoint was written with 16",
        ),
        ("padded_vocab_size", 256, "`padded_vocab_size` is 256, but the checkpoint was written with 128"),
    ] {
        let files = TinyModel::new().write();
        files.edit_config(|keys| {
            keys.insert(key.to_owned(), value.into());
            if key == "max_position_embeddings" {
                keys.insert("seq_length".to_owned(), value.into());
            }
        });
        let error = open_error(&files);
        let text = error.to_string();
        assert!(text.contains("configs/synthetic.yml") && text.ends_with(expected), "{text}");
        assert!(error.hint().unwrap().contains("use the files saved with this checkpoint"));
    }
    let files = TinyModel::new().write();
    files.edit_config(|keys| drop(keys.insert("model_parallel_size".to_owned(), 4.into())));
    assert_eq!(message(&files), "STEP: model_parallel_size is 4 in the configuration, but the files hold 2 ranks");
}

#[test]
fn stored_arguments_are_checked_against_the_files() {
    let files = TinyModel::new().write();
    let args = |size| Value::Dict(vec![("model_parallel_size".to_owned(), Value::Int(size))]);
    let write = |root: Vec<(&str, Value)>| {
        let root = Value::Dict(root.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
        save(&files.rank_file(0), &root, |_| Ok::<HostTensor, std::io::Error>(f32s(&[1]))).unwrap();
    };
    files.edit_config(|keys| drop(keys.remove("model_parallel_size")));
    write(vec![("module", Value::None), ("args", args(4))]);
    assert_eq!(message(&files), "STEP: model_parallel_size is 4 in the checkpoint's args, but the files hold 2 ranks");

    // The older name of the iteration; arguments of another kind than expected tell nothing.
    write(vec![("total_iters", Value::Int(77)), ("args", args(2))]);
    let client = files.open().client().clone();
    assert_eq!((client.iteration, client.args.model_parallel_size, client.args.num_layers), (Some(77), Some(2), None));
    write(vec![("iteration", Value::Int(-1)), ("args", Value::Int(3))]);
    assert_eq!(files.open().client(), &kintsugi::checkpoint::ClientState::default());
    // Nor do the rank files have to be there at all.
    common::delete(&files.rank_file(0));
    common::delete(&files.rank_file(1));
    assert_eq!(files.open().client().iteration, None);
}

#[test]
fn a_rank_file_without_a_model_is_no_sequential_checkpoint() {
    let files = TinyModel::new().write();
    for entry in fs::read_dir(files.step()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("layer_") {
            common::delete(&path);
        }
    }
    // A pipeline checkpoint whose layer files were not copied: `module` is None.
    let error = open_error(&files);
    let text = error.to_string();
    assert!(text.contains("mp_rank_00_model_states.pt"), "{text}");
    assert!(error.hint().is_some(), "{text}");
}

#[test]
fn the_head_is_recognised_by_its_shape_where_the_configuration_is_silent() {
    for (layout, head) in [(OutputLayerParallelism::Row, Head::Row), (OutputLayerParallelism::Column, Head::Column)] {
        let files = TinyModel::new().with(|options| options.head = layout).write();
        assert_eq!(files.open().architecture().head, head);
        files.edit_config(|keys| drop(keys.remove("output_layer_parallelism").unwrap()));
        assert_eq!(files.open().architecture().head, head);
        // Stated wrongly, it is not overruled.
        let other = if head == Head::Row { "column" } else { "row" };
        files.edit_config(|keys| drop(keys.insert("output_layer_parallelism".to_owned(), other.into())));
        assert!(message(&files).contains("tensor `final_linear.weight`: expected shape"), "{}", message(&files));
    }
}

#[test]
fn configurations_can_be_given_from_elsewhere() {
    let files = TinyModel::new().write();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("model.yml");
    fs::rename(files.config_file(), &path).unwrap();
    assert_eq!(message(&files), "STEP: no configuration files under configs/");
    let open = |path: &Path| Checkpoint::open(files.path(), &[path.to_owned()]);
    assert_eq!(open(&path).unwrap().tp_size(), 2);
    // As gpt-neox saved them until 2021-11.
    fs::create_dir(files.path().join("configs")).unwrap();
    fs::copy(&path, files.path().join("configs/20B.yml")).unwrap();
    assert_eq!(files.open().tp_size(), 2);
    let missing = open(&elsewhere.path().join("none.yml")).unwrap_err();
    assert!(missing.to_string().contains("none.yml"), "{missing}");
}

#[test]
fn parameters_and_sizes_are_counted() {
    let files = TinyModel::new().write();
    let checkpoint = files.open();
    // Two layers, as in any GPT: 12 h² + 13 h each, of which the biases and norms are replicas; embedding and head.
    let (h, v) = (64_u64, 128_u64);
    let parameters = 2 * (12 * h * h + 13 * h) + 2 * h + 2 * v * h;
    let replicas = 2 * 6 * h + 2 * h;
    assert_eq!(checkpoint.size(), (parameters, 4 * (parameters + replicas)));
    let stages: u64 = checkpoint.stage_ids().into_iter().map(|id| checkpoint.stage_bytes(id)).sum();
    assert_eq!(stages, checkpoint.size().1);
    let kinds: Vec<_> = checkpoint.parameters().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds.iter().filter(|&&kind| kind == StageKind::Layer).count(), 24);
}

#[test]
fn a_stored_tensor_has_the_type_it_says() {
    // An unsigned type that torch writes and no parameter has is named; nothing is read as something else.
    let files = TinyModel::new().write();
    let stored = StoredTensor { storage: 0, dtype: DType::U8, shape: vec![64] };
    let root = Value::OrderedDict(vec![("norm.weight".to_owned(), Value::Tensor(stored))]);
    let bytes = HostTensor::new(DType::U8, vec![64], vec![1; 64]).unwrap();
    save(&files.layer_file(5, 0), &root, |_| Ok::<_, std::io::Error>(bytes.clone())).unwrap();
    assert_eq!(
        message(&files),
        "STEP/layer_05-model_00-model_states.pt: tensor `norm.weight`: expected floating point, found u8"
    );
}
