//! `fold-calibrated` where ranks' residual streams differ: at least nine tenths of the divergence that `mean` leaves is
//! gone, on passages that the calibration has not seen.

use std::path::Path;

use crate::common::evaluation::{
    demo_reference, evaluate, mean_kl, options, pairs, passages, trained_checkpoint, trained_reference, variants,
};
use crate::common::{TinyModel, copy_folder, edit_layer_file, layer_files};
use kintsugi::checkpoint::Checkpoint;
use kintsugi::config::OutputLayerParallelism;
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::{EngineOptions, Quiet};
use kintsugi::tensor::HostTensor;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

type TokenPairs = Vec<(Vec<u32>, Vec<u32>)>;

/// Every fifth passage calibrates, the others are scored.
fn divide(pairs: TokenPairs) -> (TokenPairs, TokenPairs) {
    let (calibration, scored): (Vec<_>, Vec<_>) = pairs.into_iter().enumerate().partition(|(at, _)| at % 5 == 4);
    let strip = |pairs: Vec<(usize, _)>| pairs.into_iter().map(|(_, pair)| pair).collect();
    (strip(calibration), strip(scored))
}

/// Mean KL that `mean`, `fold` and `fold-calibrated` leave.
fn divergences(folder: &Path, pairs: TokenPairs) -> [f64; 3] {
    let checkpoint = Checkpoint::open(folder, &[]).unwrap();
    let longest = checkpoint.architecture().max_position_embeddings;
    let (calibration, scored) = divide(pairs);
    let calibration: Vec<TokenizedPassage> = passages(&calibration, longest);
    let options = EngineOptions { calibration, ..options() };
    let variants = variants(&["mean", "fold", "fold-calibrated"]);
    let evaluation = evaluate(&checkpoint, &variants, passages(&scored, longest), &options, &Quiet).unwrap();
    assert!(evaluation.exactness.iter().skip(1).all(|exactness| !exactness.is_exact()));
    let kl: Vec<f64> = evaluation.scores.iter().skip(1).map(|scores| mean_kl(scores)).collect();
    eprintln!("{}: mean {:.2e}, fold {:.2e}, fold-calibrated {:.2e}", folder.display(), kl[0], kl[1], kl[2]);
    kl.try_into().unwrap()
}

fn assert_nine_tenths([mean, _, calibrated]: [f64; 3]) {
    assert!(calibrated <= 0.1 * mean, "mean leaves {mean:e}, fold-calibrated {calibrated:e}");
}

/// Lets every replicated parameter of every rank drift by this much, relative to its value.
fn drift(folder: &Path, by: f64) {
    let mut random = ChaCha12Rng::seed_from_u64(5);
    for file in layer_files(folder) {
        edit_layer_file(&file, |tensors| {
            for (name, tensor) in tensors {
                let replicated = name.contains("norm") || name.contains("position_embeddings");
                if replicated
                    || (name.rsplit('.').next() == Some("bias")
                        && (name.contains("dense.") || name.contains("linear2")))
                {
                    let mut noisy = |value: f64| value * (1.0 + by * 3f64.sqrt() * random.random_range(-1.0..1.0));
                    let values: Vec<f64> = tensor.to_f64().unwrap().into_iter().map(&mut noisy).collect();
                    *tensor = HostTensor::from_f64(tensor.dtype(), tensor.shape().to_vec(), &values).unwrap();
                }
            }
        });
    }
}

#[test]
fn calibration_removes_what_folding_leaves_on_checkpoints_of_gpt_neox() {
    let folders = [
        ("sequential-residual-tied-tp2-drift", "global_step1600"),
        ("sequential-residual-geglu-learned-tp2-drift", "global_step1200"),
        ("neox-v1.0-sequential-geglu-tied-tp2-drift", "global_step400"),
    ];
    for (name, step) in folders {
        let path = trained_checkpoint(name);
        let pairs = pairs(&trained_reference(name));
        assert_nine_tenths(divergences(&path, pairs.clone()));
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&path.join(step), folder.path());
        drift(folder.path(), 0.05);
        assert_nine_tenths(divergences(folder.path(), pairs));
    }
}

#[test]
fn calibration_removes_what_folding_leaves_on_a_synthetic_model() {
    let model = TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.tp_size = 4;
        options.drift = 0.05;
    });
    let checkpoint = model.write();
    // Token ids of the demo's passages, brought down to the tiny vocabulary.
    let small = |ids: Vec<u32>| ids.into_iter().map(|id| id % 120).collect::<Vec<_>>();
    let pairs = pairs(&demo_reference()).into_iter().map(|(context, target)| (small(context), small(target)));
    assert_nine_tenths(divergences(checkpoint.path(), pairs.collect()));
}

#[test]
fn a_row_parallel_head_is_left_as_it_is() {
    let model = TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.head = OutputLayerParallelism::Row;
        options.drift = 0.05;
    });
    let checkpoint = model.write();
    let small = |ids: Vec<u32>| ids.into_iter().map(|id| id % 120).collect::<Vec<_>>();
    let pairs = pairs(&demo_reference()).into_iter().map(|(context, target)| (small(context), small(target)));
    let [mean, _, calibrated] = divergences(checkpoint.path(), pairs.collect());
    assert!(calibrated < mean, "mean leaves {mean:e}, fold-calibrated {calibrated:e}");
}
