//! Checkpoints of every era and kind from their files: the same function under other names and layouts scores the same,
//! every setting makes the difference it should, merges of replicas that agree are the unmerged model.

mod files;
mod names;
mod settings;

use std::path::Path;

use crate::common::evaluation::{Evaluation, evaluate, mean_kl, options, passages, variants, worst_difference};
use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file};
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, OpenOptions};
use kintsugi::config::{Activation, Norm, PositionEmbedding, QuirkOptions};
use kintsugi::eval::{Quiet, Variant};
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
