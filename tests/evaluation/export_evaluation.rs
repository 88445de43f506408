//! What `merge` wrote, evaluated by itself, gives to the last bit the numbers that the evaluation gave for its strategy, and
//! a model divided among any number of ranks the same ones up to rounding.

use std::path::Path;

use crate::common::TinyModel;
use crate::common::evaluation::{demo, demo_reference, evaluate, merge_by, options, pairs, passages};
use crate::common::merging::Merge;
use kintsugi::checkpoint::Checkpoint;
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::{CalibratedMerge, EngineOptions, Quiet, Variant};
use kintsugi::merge::{Exactness, Strategy};
use kintsugi::model::Backend;
use kintsugi::partition::StageTensors;
use kintsugi::samples::TokenScore;

/// Token ids that any tiny model knows.
fn tiny_passages(first: u32, count: u32) -> Vec<TokenizedPassage> {
    let ids =
        |seed: u32, length: u32| (0..length).map(|at| (seed * 37 + at * at * 11 + at * 5) % 120).collect::<Vec<_>>();
    let pairs: Vec<_> =
        (first..first + count).map(|seed| (ids(seed, 5 + seed % 9), ids(seed + 1, 1 + seed % 3))).collect();
    passages(&pairs, 64)
}

fn scores(
    checkpoint: &Checkpoint,
    variant: Variant,
    passages: Vec<TokenizedPassage>,
    options: &EngineOptions,
) -> Vec<Vec<TokenScore>> {
    // The baseline comes first in every evaluation.
    let variants = [Variant::baseline(), variant];
    evaluate(checkpoint, &variants, passages, options, &Quiet).unwrap().scores.pop().unwrap()
}

fn bits(scores: &[Vec<TokenScore>]) -> Vec<(u64, u32)> {
    scores.iter().flatten().map(|score| (score.logprob.to_bits(), score.greedy_id)).collect()
}

/// The written model by itself.
fn alone(directory: &Path, passages: Vec<TokenizedPassage>, options: &EngineOptions) -> Vec<Vec<TokenScore>> {
    let checkpoint = Checkpoint::open(directory, &[]).unwrap();
    evaluate(&checkpoint, &[Variant::baseline()], passages, options, &Quiet).unwrap().scores.pop().unwrap()
}

#[test]
fn the_written_model_scores_as_its_strategy_did() {
    let checkpoint = Checkpoint::open(&demo(), &[]).unwrap();
    let pairs = pairs(&demo_reference());
    for name in ["zeroth", "mean", "merge20b", "reduce-aware", "fold", "fold-calibrated"] {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("merged");
        Merge::by(name).write(&checkpoint, &directory).unwrap();
        let passages = || passages(&pairs[..40], 128);
        let expected = scores(&checkpoint, merge_by(name), passages(), &options());
        assert_eq!(bits(&alone(&directory, passages(), &options())), bits(&expected), "{name}");
    }
}

#[test]
fn a_calibrated_merge_is_written_as_it_was_evaluated() {
    let source =
        TinyModel::new().with(|o| (o.gpt_j_residual, o.tied_embeddings, o.drift) = (false, true, 0.05)).write();
    let checkpoint = source.open();
    let options = EngineOptions { calibration: tiny_passages(100, 12), ..options() };
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("merged");
    let strategy = Strategy::resolve("fold-calibrated").unwrap();
    let cpu = tch::Device::Cpu;
    let mut merge = CalibratedMerge::new(checkpoint.architecture(), &strategy, cpu, &options.calibration).unwrap();
    let mut supply = |stage: &StageTensors, exactness: &mut Exactness| Ok(merge.stage(stage, exactness)?);
    Merge::by("fold-calibrated")
        .with(&checkpoint, &directory, |job| {
            let mut job = *job;
            job.choice.calibrated = true;
            job.run(Some(&mut supply), &())
        })
        .unwrap();
    // Whatever the evaluation computes in, of which a merge knows nothing.
    for kind in [tch::Kind::Float, tch::Kind::BFloat16, tch::Kind::Double] {
        let options = EngineOptions { backends: vec![Backend { device: cpu, kind }], ..options.clone() };
        let expected = scores(&checkpoint, merge_by("fold-calibrated"), tiny_passages(0, 20), &options);
        assert_eq!(bits(&alone(&directory, tiny_passages(0, 20), &options)), bits(&expected), "{kind:?}");
        let folded = scores(&checkpoint, merge_by("fold"), tiny_passages(0, 20), &options);
        assert_ne!(bits(&folded), bits(&expected), "{kind:?}: the calibration changes something");
    }
}

#[test]
fn any_number_of_ranks_is_the_same_model() {
    let double = EngineOptions::on(vec![Backend { device: tch::Device::Cpu, kind: tch::Kind::Double }]);
    let sequential: fn(&mut kintsugi::export::synth::SynthOptions) = |o| o.gpt_j_residual = false;
    for change in [|_: &mut kintsugi::export::synth::SynthOptions| (), sequential] {
        for from in [1, 2, 4] {
            let source = TinyModel::new().with(|o| (o.tp_size, o.drift) = (from, 0.02)).with(change).write();
            let expected = scores(&source.open(), merge_by("fold"), tiny_passages(0, 12), &double);
            for to in [1, 2, 4] {
                let folder = tempfile::tempdir().unwrap();
                let divided = folder.path().join("divided");
                Merge::by("fold").ranks(to).write(&source.open(), &divided).unwrap();
                let back = folder.path().join("back");
                Merge::by("fold").ranks(from).write(&Checkpoint::open(&divided, &[]).unwrap(), &back).unwrap();
                for directory in [divided, back] {
                    let found = alone(&directory, tiny_passages(0, 12), &double);
                    for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
                        let difference = (expected.logprob - found.logprob).abs();
                        assert!(difference < 1e-9, "{from} to {to} ranks: {difference:e}");
                    }
                }
            }
        }
    }
}
