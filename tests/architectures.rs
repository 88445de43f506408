//! Checkpoints of every era and kind from their files: the same function under other names and layouts scores the same,
//! every setting makes the difference it should, merges of replicas that agree are the unmerged model.
#![cfg(feature = "libtorch")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;

use common::evaluation::{mean_kl, options, passages, variants, worst_difference};
use common::{TinyCheckpoint, TinyModel, edit_layer_file};
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, OpenOptions};
use kintsugi::config::{Activation, Norm, PositionEmbedding, QuirkOptions};
use kintsugi::eval::{Evaluation, Quiet, Variant, evaluate};
use kintsugi::export::save_tensors;
use kintsugi::export::synth::SynthOptions;
use kintsugi::samples::TokenScore;
use kintsugi::tensor::{DType, HostTensor, Piece, concatenate};
use serde_json::{Value, json};

/// Layers and ranks of the tiny models.
const LAYERS: std::ops::Range<usize> = 2..4;
const RANKS: std::ops::Range<usize> = 0..2;

type Scores = Vec<Vec<TokenScore>>;

fn evaluate_variants(checkpoint: &Checkpoint, variants: &[Variant]) -> Evaluation {
    let pairs: Vec<_> = (0..6_u32)
        .map(|passage| {
            let ids = |count: u32, step: u32| (0..count).map(|at| (at * step + passage * 13) % 120).collect();
            (ids(9 + 5 * passage, 7), ids(1 + passage % 3, 11))
        })
        .collect();
    let passages = passages(&pairs, checkpoint.architecture().longest_input());
    evaluate(checkpoint, variants, passages, &options(), &Quiet).unwrap()
}

fn open_with(path: &Path, quirks: &[&str]) -> Checkpoint {
    let settings = quirks.iter().map(|quirk| quirk.parse().unwrap()).collect();
    let options = OpenOptions { quirks: QuirkOptions { era: None, settings }, ..OpenOptions::default() };
    Checkpoint::open_with(path, &options).unwrap()
}

/// What the unmerged model says.
fn scores_with(files: &TinyCheckpoint, quirks: &[&str]) -> Scores {
    evaluate_variants(&open_with(files.path(), quirks), &[Variant::baseline()]).scores.remove(0)
}

fn scores(files: &TinyCheckpoint) -> Scores {
    scores_with(files, &[])
}

fn tiny(change: impl FnOnce(&mut SynthOptions)) -> TinyCheckpoint {
    TinyModel::new().with(|options| options.drift = 0.02).with(change).write()
}

fn set(files: &TinyCheckpoint, settings: &[(&str, Value)]) {
    files.edit_config(|raw| {
        for (key, value) in settings {
            raw.insert((*key).to_owned(), value.clone());
        }
    });
}

/// Renames parameters of every layer file: `from` → `to`, by what names begin with.
fn rename(files: &TinyCheckpoint, stages: impl Iterator<Item = usize>, names: &[(&str, &str)]) {
    for stage in stages {
        for tp_rank in RANKS {
            edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
                *tensors = std::mem::take(tensors)
                    .into_iter()
                    .map(|(name, tensor)| {
                        let renamed =
                            names.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
                        (renamed.unwrap_or(name), tensor)
                    })
                    .collect();
            });
        }
    }
}

#[track_caller]
fn assert_same(left: &Scores, right: &Scores) {
    assert!(worst_difference(left, right) < 1e-6, "off by {:e}", worst_difference(left, right));
}

#[track_caller]
fn assert_other(left: &Scores, right: &Scores) {
    assert!(worst_difference(left, right) > 1e-4, "the same model: off by {:e} only", worst_difference(left, right));
}

#[test]
fn names_of_every_era_are_the_same_model() {
    let expected = scores(&tiny(|_| {}));
    let files = tiny(|_| {});
    rename(&files, LAYERS, &[("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")]);
    assert_same(&scores(&files), &expected);
    let files = tiny(|_| {});
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &expected);
    // Transformer Engine's layer norm is one level deeper.
    let files = tiny(|_| {});
    let deeper = [
        ("input_layernorm.", "input_layernorm.norm."),
        ("post_attention_layernorm.", "post_attention_layernorm.norm."),
    ];
    rename(&files, LAYERS, &deeper);
    rename(&files, 5..6, &[("norm.", "norm.norm.")]);
    set(&files, &[("norm", json!("te_layernorm"))]);
    assert_same(&scores(&files), &expected);
}

#[test]
fn transformer_engines_modules_are_the_same_model_under_other_names() {
    let sequential = |activation| {
        tiny(move |options| {
            options.gpt_j_residual = false;
            options.bias_gelu_fusion = activation == Activation::Gelu;
            options.activation = activation;
        })
    };
    // Its GELU is the tanh form, its gate comes first.
    for activation in [Activation::Gelu, Activation::Relu, Activation::SwiGlu] {
        let expected = scores(&sequential(activation));
        let files = sequential(activation);
        rename(
            &files,
            LAYERS,
            &[
                ("attention.query_key_value", "attention.qkv"),
                ("attention.dense", "attention.proj"),
                ("post_attention_layernorm.", "mlp.layer_norm_"),
                ("mlp.linear1.", "mlp.fc1_"),
                ("mlp.linear2.", "mlp.fc2_"),
            ],
        );
        for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
            edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
                let state = HostTensor::new(DType::U8, vec![3], vec![1, 2, 3]).unwrap();
                tensors.insert("attention.qkv._extra_state".to_owned(), state.clone());
                tensors.insert("mlp._extra_state".to_owned(), state);
                if activation.is_gated() {
                    for name in ["mlp.fc1_weight", "mlp.fc1_bias"] {
                        let swapped = halves_swapped(&tensors[name]);
                        tensors.insert(name.to_owned(), swapped);
                    }
                }
            });
        }
        set(&files, &[("te_mha", json!(true)), ("te_layernorm_mlp", json!(true)), ("bias_gelu_fusion", json!(false))]);
        assert_same(&scores(&files), &expected);
    }
}

fn halves_swapped(tensor: &HostTensor) -> HostTensor {
    let half = tensor.shape()[0] / 2;
    concatenate(0, &[Piece { tensor, range: half..2 * half }, Piece { tensor, range: 0..half }]).unwrap()
}

#[test]
fn three_matrices_are_a_gated_mlp() {
    let gated = || {
        tiny(|options| {
            options.activation = Activation::SwiGlu;
            options.mlp_bias = false;
            options.gpt_j_residual = false;
        })
    };
    let expected = scores(&gated());
    let files = gated();
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            let joined = tensors.remove("mlp.linear1.weight").unwrap();
            let half = joined.shape()[0] / 2;
            let part = |range| concatenate(0, &[Piece { tensor: &joined, range }]).unwrap();
            tensors.insert("mlp.w3.weight".to_owned(), part(0..half));
            tensors.insert("mlp.w1.weight".to_owned(), part(half..2 * half));
            let out = tensors.remove("mlp.linear2.weight").unwrap();
            tensors.insert("mlp.w2.weight".to_owned(), out);
        });
    }
    // `use_bias_in_mlp` means nothing to it.
    let settings = [("mlp_type", json!("llama")), ("activation", json!("silu")), ("use_bias_in_mlp", json!(true))];
    set(&files, &settings);
    assert_same(&scores(&files), &expected);
}

#[test]
fn grouped_queries_lie_in_blocks_or_head_by_head() {
    let grouped = || tiny(|options| options.shape.kv_head_count = Some(4));
    let expected = scores(&grouped());
    let files = grouped();
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            for name in ["attention.query_key_value.weight", "attention.query_key_value.bias"] {
                // A rank has 4 query heads and 2 key heads of 8: head by head [8 | 4 | 4].
                let tensor = tensors[name].clone();
                let piece = |range| Piece { tensor: &tensor, range };
                let pieces: Vec<_> = (0..4)
                    .flat_map(|head| {
                        [
                            piece(head * 8..head * 8 + 8),
                            piece(32 + head * 4..32 + head * 4 + 4),
                            piece(48 + head * 4..48 + head * 4 + 4),
                        ]
                    })
                    .collect();
                tensors.insert(name.to_owned(), concatenate(0, &pieces).unwrap());
            }
        });
    }
    assert_same(&scores_with(&files, &["gqa-layout=interleaved"]), &expected);
    assert_other(&scores(&files), &expected);
    // The names of the time date the layout.
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &expected);
}

#[test]
fn tying_inverted_is_the_other_tying() {
    let tied = |tied: bool| tiny(move |options| options.gpt_j_tied = tied);
    let (shared, own) = (scores(&tied(true)), scores(&tied(false)));
    assert_other(&shared, &own);
    assert_same(&scores_with(&tied(false), &["norm-tying=inverted"]), &shared);
    assert_same(&scores_with(&tied(true), &["norm-tying=inverted"]), &own);
    let fed = scores_with(&tied(false), &["mlp-norm-input=attention-norm"]);
    assert_other(&fed, &shared);
    assert_other(&fed, &own);
    // On the branch both read one norm, and biases count once.
    let branch = scores_with(&tied(false), &["reduction=per-branch"]);
    assert_other(&branch, &shared);
    let unbiased = |quirks: &[&str]| {
        let files = tiny(|options| {
            (options.attention_bias, options.mlp_bias) = (false, false);
            options.gpt_j_tied = true;
        });
        scores_with(&files, quirks)
    };
    assert_same(&unbiased(&["reduction=per-branch"]), &unbiased(&["attention-branch=kept"]));
}

#[test]
fn a_lost_attention_branch_makes_no_difference() {
    let files = tiny(|options| options.mlp_bias = false);
    let (lost, kept) = (scores(&files), scores_with(&files, &["attention-branch=kept"]));
    assert_other(&lost, &kept);
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            let shape = tensors["attention.dense.weight"].shape().to_vec();
            let ones = HostTensor::from_f64(DType::F32, shape.clone(), &vec![1.0; shape.iter().product()]).unwrap();
            tensors.insert("attention.dense.weight".to_owned(), ones);
        });
    }
    assert_same(&scores(&files), &lost);
    let warnings = open_with(files.path(), &[]).warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("gpt-neox loses the attention branch since 2024-09-10"), "{warnings:?}");
    assert!(open_with(files.path(), &["attention-branch=kept"]).warnings().is_empty());
}

#[test]
fn the_epsilon_of_rmsnorm_stands_inside_or_outside() {
    let files = tiny(|options| options.norm = Norm::RmsNorm);
    set(&files, &[("rms_norm_epsilon", json!(0.5))]);
    let (inside, outside) = (scores(&files), scores_with(&files, &["rms-epsilon=outside"]));
    assert_other(&inside, &outside);
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &outside);
    assert_same(&scores_with(&files, &["rms-epsilon=inside"]), &inside);
}

#[test]
fn a_window_is_one_only_where_it_is_shorter_than_the_passage() {
    let flash = |settings: &[(&str, Value)]| {
        let files = tiny(|_| {});
        set(&files, &[("attention_config", json!([[["flash"], "all"]]))]);
        set(&files, settings);
        scores(&files)
    };
    let global = scores(&tiny(|_| {}));
    assert_same(&flash(&[]), &global);
    assert_same(&flash(&[("sliding_window_width", json!(64))]), &global);
    assert_other(&flash(&[("sliding_window_width", json!(3))]), &global);
    // Without flash attention gpt-neox does not look at it.
    let files = tiny(|_| {});
    set(&files, &[("sliding_window_width", json!(3))]);
    assert_same(&scores(&files), &global);
}

#[test]
fn layer_scaling_is_felt_by_relative_biases_alone() {
    let scaled = |positions, scaling: bool, kind: &str| {
        let files = TinyModel::new()
            .with(|options| {
                options.positions = positions;
                options.shape.layer_count = 3;
            })
            .write();
        set(
            &files,
            &[("apply_query_key_layer_scaling", json!(scaling)), ("attention_config", json!([[[kind], "all"]]))],
        );
        scores(&files)
    };
    assert_same(
        &scaled(PositionEmbedding::Rotary, true, "global"),
        &scaled(PositionEmbedding::Rotary, false, "global"),
    );
    // Flash attention is not given it.
    assert_same(&scaled(PositionEmbedding::Alibi, true, "flash"), &scaled(PositionEmbedding::Alibi, false, "global"));
    let difference = worst_difference(
        &scaled(PositionEmbedding::Alibi, true, "global"),
        &scaled(PositionEmbedding::Alibi, false, "global"),
    );
    assert!(difference > 1e-6, "off by {difference:e} only");
}

#[test]
fn multipliers_of_mup() {
    let files = tiny(|options| options.positions = PositionEmbedding::Learned);
    let plain = scores(&files);
    set(&files, &[("use_mup", json!(true))]);
    let one = scores_with(&files, &["mup-width=1"]);
    assert_other(&scores_with(&files, &["mup-width=4"]), &one);
    // Scores divided by the head size are all that is left at width 1.
    set(&files, &[("attention_config", json!([[["flash"], "all"]]))]);
    assert_same(&scores_with(&files, &["mup-width=1"]), &plain);
    set(&files, &[("mup_embedding_mult", json!(3))]);
    assert_other(&scores_with(&files, &["mup-width=1"]), &plain);
    set(&files, &[("use_mup", json!(false))]);
    assert_same(&scores(&files), &plain);
    set(&files, &[("mup_rp_embedding_mult", json!(3))]);
    assert_other(&scores(&files), &plain);
}

#[test]
fn every_norm_and_position_merges_without_loss_where_replicas_agree_and_folds_where_they_do_not() {
    use PositionEmbedding::{Absent, Alibi, Learned, RelativeBuckets, Rotary, Sinusoidal};
    let norms = [Norm::LayerNorm, Norm::RmsNorm, Norm::ScaleNorm, Norm::NonParametricLayerNorm];
    let mut count = 0;
    for norm in norms.into_iter().chain([Norm::TransformerEngineLayerNorm, Norm::TransformerEngineRmsNorm]) {
        for positions in [Rotary, Learned, Sinusoidal, Alibi, RelativeBuckets, Absent] {
            for gpt_j_residual in [true, false] {
                let files = |drift: f64| {
                    TinyModel::new()
                        .with(|options| {
                            (options.norm, options.positions, options.drift) = (norm, positions, drift);
                            options.gpt_j_residual = gpt_j_residual;
                        })
                        .write()
                };
                let place = format!("{norm}, {positions}, gpt_j_residual {gpt_j_residual}");
                let evaluation = evaluate_variants(&files(0.0).open(), &variants(&["reduce-aware", "fold"]));
                for (scores, exactness) in evaluation.scores[1..].iter().zip(&evaluation.exactness[1..]) {
                    assert!(exactness.is_exact(), "{place}: {:?}", exactness.because());
                    assert!(worst_difference(&evaluation.scores[0], scores) < 1e-5, "{place}");
                }
                let evaluation = evaluate_variants(&files(0.05).open(), &variants(&["fold", "mean"]));
                let exact = gpt_j_residual && positions != Learned;
                assert_eq!(
                    evaluation.exactness[1].is_exact(),
                    exact,
                    "{place}: {:?}",
                    evaluation.exactness[1].because()
                );
                if exact {
                    let worst = worst_difference(&evaluation.scores[0], &evaluation.scores[1]);
                    assert!(worst < 2e-5, "{place}: off by {worst:e}");
                }
                // Without gains, all that is left to lose is what folding loses too.
                let same_merge = norm == Norm::NonParametricLayerNorm && !gpt_j_residual;
                let (mean, folded) = (mean_kl(&evaluation.scores[2]), mean_kl(&evaluation.scores[1]));
                assert!(if same_merge { mean >= folded } else { mean > folded }, "{place}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 72);
}

#[test]
fn a_norm_without_parameters_may_leave_an_empty_file() {
    let bare = || tiny(|options| options.norm = Norm::NonParametricLayerNorm);
    let expected = scores(&bare());
    let files = bare();
    for tp_rank in RANKS {
        assert!(!files.layer_file(5, tp_rank).exists());
        save_tensors(&files.layer_file(5, tp_rank), std::iter::empty::<(&str, &HostTensor)>()).unwrap();
    }
    assert_same(&scores(&files), &expected);
}

#[test]
fn a_configuration_may_be_json_and_layers_may_be_numbered_otherwise() {
    let expected = scores(&tiny(|_| {}));
    let files = tiny(|_| {});
    set(&files, &[]);
    fs::rename(files.config_file(), files.config_file().with_extension("json")).unwrap();
    assert_same(&scores(&files), &expected);
    // Where a module was put in, everything after it has moved on by one; what a file is, its content says.
    for stage in [6, 5, 3, 2] {
        for tp_rank in RANKS {
            fs::rename(files.layer_file(stage, tp_rank), files.layer_file(stage + 1, tp_rank)).unwrap();
        }
    }
    assert_same(&scores(&files), &expected);
}

#[test]
fn sequence_parallel_is_evaluated_without_and_says_so() {
    let files = tiny(|options| options.gpt_j_residual = false);
    let expected = scores(&files);
    set(&files, &[("sequence_parallel", json!(true))]);
    assert_same(&scores(&files), &expected);
    assert_eq!(
        files.open().warnings(),
        ["sequence_parallel: in training each rank's norms and row-parallel biases acted on its own stretch of the \
          sequence; it is evaluated without, as gpt-neox does at inference: each rank uses its own everywhere"]
    );
    let parallel = tiny(|_| {});
    set(&parallel, &[("sequence_parallel", json!(true))]);
    assert!(parallel.open().warnings()[0].contains("each rank's norms acted"));
}

#[test]
fn what_stands_in_the_files_is_refused_by_name() {
    let refused = |stage: usize, name: &str, reason: &str, needed: &str| {
        let files = tiny(|_| {});
        for tp_rank in RANKS {
            edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
                let tensor = HostTensor::from_f64(DType::F32, vec![1, 32], &[0.0; 32]).unwrap();
                *tensors = [(name.to_owned(), tensor)].into();
            });
        }
        let error = Checkpoint::open(files.path(), &[]).unwrap_err();
        assert!(error.hint().unwrap().starts_with(needed), "{:?}", error.hint());
        let error = error.to_string();
        assert!(error.starts_with("this model is refused: "), "{error}");
        assert!(error.ends_with(&format!(": tensor `{name}`: {reason}")), "{error}");
    };
    let gpt_neox = "evaluate it with gpt-neox itself";
    refused(2, "mlp.experts.mlp.w1", "routing tokens to experts is not implemented", gpt_neox);
    refused(2, "mlp.router.layer.weight", "routing tokens to experts is not implemented", gpt_neox);
    refused(2, "sgu.norm.weight", "gMLP and aMLP blocks are not implemented", gpt_neox);
    refused(
        2,
        "mixer.in_proj.weight",
        "state-space blocks are not implemented",
        "gpt-neox's tools/ckpts/convert_neox_to_mamba_ssm.py",
    );
    refused(2, "attention.sparse_attn.master_layout", "block-sparse attention is not implemented", gpt_neox);
    let another = "gpt-neox's GPT has no token types: this is another model";
    refused(0, "tokentype_embeddings.weight", another, "evaluate it with the program that wrote it");
}

#[test]
fn masks_that_only_transformers_has_are_passed_over() {
    let files = tiny(|_| {});
    let expected = scores(&files);
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(2, tp_rank), |tensors| {
            let mask = HostTensor::new(DType::U8, vec![1, 1, 4, 4], vec![1; 16]).unwrap();
            tensors.insert("attention.bias".to_owned(), mask.clone());
            tensors.insert("attention.masked_bias".to_owned(), mask);
        });
    }
    assert_same(&scores(&files), &expected);
}

#[test]
fn saved_buffers_must_have_their_shape() {
    let files = tiny(|options| options.positions = PositionEmbedding::Alibi);
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(2, tp_rank), |tensors| {
            tensors.remove("attention.alibi_embed.slopes");
        });
    }
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.ends_with("rank 0: missing tensor `attention.alibi_embed.slopes`"), "{error}");
}
