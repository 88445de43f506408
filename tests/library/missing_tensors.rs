//! Every tensor of a checkpoint left out, one at a time: the complaint names that tensor, and no other's shape.

use std::path::Path;

use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, OpenOptions, open_model};
use kintsugi::config::{Activation, Norm, PositionEmbedding};
use kintsugi::export::synth::SynthOptions;

use crate::common::megatron::distributed::{Contents, Division};
use crate::common::megatron::{Naming, Writing, rank_file, tiny};
use crate::common::{TinyModel, edit_layer_file};

/// LayerNorm, biases and rotary positions; RMSNorm, SwiGLU, learned positions and the word embedding as head.
const MODELS: [fn(&mut SynthOptions); 2] = [
    |_| {},
    |options| {
        (options.norm, options.activation) = (Norm::RmsNorm, Activation::SwiGlu);
        (options.attention_bias, options.mlp_bias, options.tied_embeddings) = (false, false, true);
        options.positions = PositionEmbedding::Learned;
    },
];

/// What the tensors whose names end so are called.
const WANTED: &[(&str, &str)] = &[
    ("word_embeddings.weight", "the word embedding"),
    ("position_embeddings.weight", "the position embedding"),
    ("linear_qkv.layer_norm_weight", "the gain of the norm before attention"),
    ("linear_qkv.layer_norm_bias", "the bias of the norm before attention"),
    ("linear_qkv.weight", "the weight of queries, keys and values"),
    ("linear_qkv.bias", "the bias of queries, keys and values"),
    ("linear_proj.weight", "the weight of attention's output"),
    ("linear_proj.bias", "the bias of attention's output"),
    ("linear_fc1.layer_norm_weight", "the gain of the norm before the MLP"),
    ("linear_fc1.layer_norm_bias", "the bias of the norm before the MLP"),
    ("linear_fc1.weight", "the weight of the MLP's first layer"),
    ("linear_fc1.weight_w", "the other half of `decoder.layers."),
    ("linear_fc1.weight_v", "the other half of `decoder.layers."),
    ("linear_fc1.bias", "the bias of the MLP's first layer"),
    ("linear_fc2.weight", "the weight of the MLP's second layer"),
    ("linear_fc2.bias", "the bias of the MLP's second layer"),
    ("final_layernorm.weight", "the gain of the final norm"),
    ("final_layernorm.bias", "the bias of the final norm"),
    ("output_layer.weight", "the output layer"),
];

/// Sizes that the tensors show as well, and that args of some programs leave to them.
const SHOWN: [&str; 2] = ["ffn_hidden_size", "padded_vocab_size"];

#[track_caller]
fn assert_named(folder: &Path, name: &str) {
    let (_, wanted) = WANTED.iter().find(|(ending, _)| name.ends_with(ending)).unwrap();
    let complaint = open_model(folder, &OpenOptions::default()).unwrap_err().to_string();
    assert!(complaint.contains(&format!("missing tensor: {wanted}")), "without {name}: {complaint}");
}

#[test]
fn of_a_distributed_checkpoint() {
    let divisions = [
        Division::DEFAULT,
        Division { halves: true, ..Division::DEFAULT },
        Division { keys_per_layer: true, ..Division::DEFAULT },
    ];
    for (model, division) in MODELS.iter().flat_map(|model| divisions.iter().map(move |division| (model, division))) {
        let (architecture, stages) = tiny(model);
        let mut sound = Contents::new(&Writing::new(&architecture, 2), division, &architecture, &stages);
        let args = sound.common.args.as_mut().unwrap();
        args.retain(|field, _| !SHOWN.contains(&field.as_str()));
        for name in sound.tensors.keys() {
            let mut contents = sound.clone();
            contents.tensors.remove(name);
            let folder = tempfile::tempdir().unwrap();
            contents.write(folder.path());
            assert_named(folder.path(), name);
        }
    }
}

#[test]
fn of_the_files_of_megatron_ranks() {
    for model in MODELS {
        let (architecture, stages) = tiny(model);
        let writing = Writing { naming: Naming::TransformerEngine, ..Writing::new(&architecture, 2) };
        let mut sound = writing.files(&architecture, &stages).remove(0);
        for contents in &mut sound {
            contents.args.as_mut().unwrap().retain(|field, _| !SHOWN.contains(&field.as_str()));
        }
        let names: Vec<String> = sound[0].models[0].1.iter().map(|(name, _)| name.clone()).collect();
        // On all ranks, and on the second alone.
        for (name, first) in names.iter().flat_map(|name| [(name, 0), (name, 1)]) {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("latest_checkpointed_iteration.txt"), "7").unwrap();
            for (rank, contents) in sound.iter().enumerate() {
                let mut contents = contents.clone();
                if rank >= first {
                    contents.models[0].1.retain(|(known, _)| known != name);
                }
                contents.write(&folder.path().join(rank_file(1, 0, rank)));
            }
            assert_named(folder.path(), name);
        }
    }
}

#[test]
fn of_gpt_neox_layer_files() {
    for model in MODELS {
        for stage in [0, 2, 3, 5, 6] {
            let file = TinyModel::new().with(model).write().layer_file(stage, 0);
            let mut names = Vec::new();
            if file.is_file() {
                edit_layer_file(&file, |tensors| names.extend(tensors.keys().cloned()));
            }
            for (name, first) in names.iter().flat_map(|name| [(name, 0), (name, 1)]) {
                let files = TinyModel::new().with(model).write();
                for tp_rank in first..2 {
                    edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| drop(tensors.remove(name)));
                }
                let complaint = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
                let named = match (stage, first, name.as_str()) {
                    // Without them it is no stage at all.
                    (0, 0, "word_embeddings.weight") => "holds no parameter of a known stage; its names: ",
                    (5, 0, "norm.scale") => "expected one final norm, found 0",
                    (6, 0, _) => "expected one output head, found 0",
                    _ => &format!("rank {first}: missing tensor `{name}`"),
                };
                assert!(complaint.contains(named), "without {name} of stage {stage}: {complaint}");
            }
        }
    }
}
