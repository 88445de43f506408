//! Damaged checkpoints: the file, the tensor, the rank, what was expected, what was found, and what to do.

use kintsugi::checkpoint::Layout;
use kintsugi::export::{Value, save};
use kintsugi::tensor::{DType, HostTensor};

use super::*;
use crate::common::{delete, edit_layer_file, flip_byte, replace_tensor, set_element, truncate, truncate_half};

type Damage = fn(&Inputs);

const DAMAGES: &[(&str, Damage)] = &[
    ("a file cut in half", |inputs| truncate_half(&inputs.files.layer_file(2, 1))),
    ("an empty file", |inputs| truncate(&inputs.files.layer_file(0, 0), 0)),
    ("a file that is no archive", |inputs| fs::write(inputs.files.layer_file(5, 0), "<html>404</html>").unwrap()),
    ("a byte flipped inside a tensor", |inputs| {
        let path = inputs.files.layer_file(3, 0);
        let size = fs::read(&path).unwrap().len();
        flip_byte(&path, size / 2);
    }),
    ("a missing rank", |inputs| delete(&inputs.files.layer_file(3, 1))),
    ("a missing layer", |inputs| {
        for tp_rank in 0..2 {
            delete(&inputs.files.layer_file(2, tp_rank));
        }
    }),
    ("a missing embedding", |inputs| {
        for tp_rank in 0..2 {
            delete(&inputs.files.layer_file(0, tp_rank));
        }
    }),
    ("a missing tensor", |inputs| {
        edit_layer_file(&inputs.files.layer_file(3, 1), |tensors| drop(tensors.remove("mlp.linear2.bias").unwrap()));
    }),
    ("a renamed tensor", |inputs| {
        edit_layer_file(&inputs.files.layer_file(3, 1), |tensors| {
            let tensor = tensors.remove("mlp.linear2.bias").unwrap();
            tensors.insert("mlp.linear2.offset".to_owned(), tensor);
        });
    }),
    ("a tensor under two names", |inputs| {
        edit_layer_file(&inputs.files.layer_file(3, 0), |tensors| {
            let tensor = tensors["mlp.linear2.bias"].clone();
            tensors.insert("mlp.dense_4h_to_h.bias".to_owned(), tensor);
        });
    }),
    ("a transposed tensor", |inputs| {
        let wrong = HostTensor::from_f64(DType::F32, vec![32, 64], &[0.5; 2048]).unwrap();
        replace_tensor(&inputs.files.layer_file(2, 1), "attention.dense.weight", wrong);
    }),
    ("integers for weights", |inputs| {
        let wrong = HostTensor::new(DType::I64, vec![64], vec![0; 512]).unwrap();
        replace_tensor(&inputs.files.layer_file(2, 1), "attention.dense.bias", wrong);
    }),
    ("another type on one rank", |inputs| {
        let wrong = HostTensor::from_f64(DType::BF16, vec![64], &[0.0; 64]).unwrap();
        replace_tensor(&inputs.files.layer_file(2, 1), "attention.dense.bias", wrong);
    }),
    ("a weight that is NaN", |inputs| {
        set_element(&inputs.files.layer_file(3, 1), "mlp.linear1.weight", 70, f64::NAN);
    }),
    ("a weight that is infinite", |inputs| {
        set_element(&inputs.files.layer_file(5, 0), "norm.bias", 0, f64::INFINITY);
    }),
    ("num_layers of another model", |inputs| inputs.files.edit_config(|keys| keys["num_layers"] = 3.into())),
    ("hidden_size of another model", |inputs| inputs.files.edit_config(|keys| keys["hidden_size"] = 128.into())),
    ("hidden_size of another model, nothing stored to compare with", |inputs| {
        inputs.files.edit_config(|keys| keys["hidden_size"] = 128.into());
        for tp_rank in 0..2 {
            delete(&inputs.files.rank_file(tp_rank));
        }
    }),
    ("num_layers of another model, nothing stored to compare with", |inputs| {
        inputs.files.edit_config(|keys| keys["num_layers"] = 3.into());
        for tp_rank in 0..2 {
            delete(&inputs.files.rank_file(tp_rank));
        }
    }),
    ("model_parallel_size of another checkpoint", |inputs| {
        inputs.files.edit_config(|keys| keys["model_parallel_size"] = 4.into());
    }),
    ("biases that the configuration denies", |inputs| {
        inputs.files.edit_config(|keys| keys["use_bias_in_mlp"] = false.into());
    }),
    ("a setting that is no number", |inputs| {
        inputs.files.edit_config(|keys| keys["num_attention_heads"] = "eight".into());
    }),
    ("heads that do not divide", |inputs| inputs.files.edit_config(|keys| keys["num_attention_heads"] = 7.into())),
    ("a setting that no merge can keep", |inputs| {
        inputs.files.edit_config(|keys| drop(keys.insert("use_qk_layernorm".to_owned(), true.into())));
    }),
    ("a key without a value", |inputs| {
        inputs.files.edit_config(|keys| drop(keys.remove("hidden_size")));
    }),
    ("a configuration that is no YAML", |inputs| {
        fs::write(inputs.files.config_file(), "{\n  \"num-layers\": 2\n  \"hidden-size\": 64,\n}\n").unwrap();
    }),
    ("a configuration twice", |inputs| {
        let path = inputs.files.config_file();
        fs::copy(&path, path.with_file_name("again.yml")).unwrap();
    }),
    ("no configuration", |inputs| delete(&inputs.files.config_file())),
    ("latest points nowhere", |inputs| fs::write(inputs.files.path().join("latest"), "global_step999\n").unwrap()),
    ("latest points outside", |inputs| fs::write(inputs.files.path().join("latest"), "../elsewhere").unwrap()),
    ("ZeRO-3 shards", |inputs| {
        fs::write(inputs.files.step().join("zero_pp_rank_0_mp_rank_00_model_states.pt"), "").unwrap();
    }),
    ("a layer twice", |inputs| {
        let name = inputs.files.step().join("layer_2-model_00-model_states.pt");
        fs::copy(inputs.files.layer_file(2, 0), name).unwrap();
    }),
    ("rank files of a pipeline, whose layer files are not there", |inputs| {
        for stage in [0, 2, 3, 5, 6] {
            for tp_rank in 0..2 {
                delete(&inputs.files.layer_file(stage, tp_rank));
            }
        }
    }),
    ("an empty directory", |inputs| {
        fs::remove_dir_all(inputs.files.step()).unwrap();
        fs::remove_file(inputs.files.path().join("latest")).unwrap();
    }),
    ("a directory of something else", |inputs| {
        fs::remove_dir_all(inputs.files.step()).unwrap();
        fs::remove_file(inputs.files.path().join("latest")).unwrap();
        fs::write(inputs.files.path().join("pytorch_model.bin"), "").unwrap();
    }),
];

#[test]
fn damaged_checkpoints_are_refused_with_place_and_cure() {
    let mut all = Complaints::default();
    for (name, damage) in DAMAGES {
        let inputs = Inputs::new();
        damage(&inputs);
        all.add(name, &inputs.complaint_of_all(&[]));
    }
    insta::assert_snapshot!("damaged_checkpoints", all.0);
}

#[test]
fn damaged_rank_files_are_refused_with_place_and_cure() {
    let damages: [(&str, Damage); 3] = [
        ("a missing rank", |inputs| delete(&inputs.files.rank_file(0))),
        ("a file cut in half", |inputs| truncate_half(&inputs.files.rank_file(1))),
        ("a file without a model", |inputs| {
            let root = Value::Dict(vec![("iteration".to_owned(), Value::Int(3))]);
            save(&inputs.files.rank_file(1), &root, |_| Err::<HostTensor, _>("no tensors")).unwrap();
        }),
    ];
    let mut all = Complaints::default();
    for (name, damage) in damages {
        let model = TinyModel::new().with(|options| options.layout = Layout::RankFiles);
        let inputs = Inputs::of(&model);
        damage(&inputs);
        all.add(name, &inputs.complaint_of_all(&[]));
    }
    insta::assert_snapshot!("damaged_rank_files", all.0);
}

#[test]
fn a_path_that_is_no_directory_is_refused() {
    let inputs = Inputs::new();
    for (path, found, further) in [
        (inputs.path("passages.jsonl"), "a file", ""),
        (inputs.path("nowhere"), "nothing", "; a model on the Hub is named OWNER/NAME"),
    ] {
        let expected = format!(
            "error: {}: expected a checkpoint directory, found {found}\n\
             hint: give the save directory (which holds `latest`) or a global_stepN directory{further}\n",
            path.display()
        );
        let mut merge = kintsugi();
        merge.arg("merge").arg(&path).arg("--output-dir").arg(inputs.path("merged"));
        assert_eq!(failure(&mut merge), expected);
        if cfg!(feature = "libtorch") {
            let mut compare = kintsugi();
            compare.arg("compare").arg(&path).arg("--data").arg(inputs.path("passages.jsonl"));
            assert_eq!(failure(&mut compare), expected);
        }
    }
}

#[test]
fn another_configuration_can_be_given() {
    let inputs = Inputs::new();
    let elsewhere = inputs.path("model.yml");
    fs::rename(inputs.files.config_file(), &elsewhere).unwrap();
    for mut command in inputs.readers(&["--neox-config", elsewhere.to_str().unwrap()]) {
        assert!(run(&mut command).status.success());
    }
    let missing = inputs.complaint_of_all(&["--neox-config", "no/such/model.yml"]);
    assert!(missing.starts_with("error: cannot read the configuration file no/such/model.yml\n"), "{missing}");
    assert!(missing.contains("no such file"), "{missing}");
}
