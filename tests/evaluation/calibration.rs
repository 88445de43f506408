//! `fold-calibrated` where ranks' residual streams differ: at least nine tenths of the divergence that `mean` leaves is
//! gone with the bundled text, which has nothing to do with the passages scored.

use std::path::Path;

use crate::common::evaluation::{
    demo_reference, evaluate, in_repository, mean_kl, options, pairs, passages, trained_checkpoint, variants,
};
use crate::common::{TinyModel, copy_folder, edit_layer_file, layer_files};
use kintsugi::checkpoint::Checkpoint;
use kintsugi::config::OutputLayerParallelism;
use kintsugi::eval::data_error::DataError;
use kintsugi::eval::data_set::{Passage, read_passages};
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::task::Task;
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::eval::{EngineOptions, Quiet, calibration_passages};
use kintsugi::tensor::HostTensor;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

/// A passage with its token ids brought down to a tiny vocabulary.
fn small(passage: TokenizedPassage) -> TokenizedPassage {
    let small = |ids: Vec<i64>| ids.into_iter().map(|id| id % 120).collect();
    TokenizedPassage { input_ids: small(passage.input_ids), target_ids: small(passage.target_ids), ..passage }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(&in_repository("evals/demo/tokenizer.json")).unwrap()
}

/// Mean KL that `mean`, `fold` and `fold-calibrated` leave on the demo's passages.
fn divergences(folder: &Path, reduce: fn(TokenizedPassage) -> TokenizedPassage) -> [f64; 3] {
    let checkpoint = Checkpoint::open(folder, &[]).unwrap();
    let architecture = checkpoint.architecture();
    let calibration = calibration_passages(None, &tokenizer(), architecture, &[]).unwrap();
    let scored = passages(&pairs(&demo_reference()), architecture.max_position_embeddings);
    let reduced = |passages: Vec<TokenizedPassage>| passages.into_iter().map(reduce).collect();
    let options = EngineOptions { calibration: reduced(calibration), ..options() };
    let variants = variants(&["mean", "fold", "fold-calibrated"]);
    let evaluation = evaluate(&checkpoint, &variants, reduced(scored), &options, &Quiet).unwrap();
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
        assert_nine_tenths(divergences(&path, |passage| passage));
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&path.join(step), folder.path());
        drift(folder.path(), 0.05);
        assert_nine_tenths(divergences(folder.path(), |passage| passage));
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
    assert_nine_tenths(divergences(checkpoint.path(), small));
}

#[test]
fn a_row_parallel_head_is_left_as_it_is() {
    let model = TinyModel::new().with(|options| {
        options.gpt_j_residual = false;
        options.head = OutputLayerParallelism::Row;
        options.drift = 0.05;
    });
    let checkpoint = model.write();
    let [mean, _, calibrated] = divergences(checkpoint.path(), small);
    assert!(calibrated < mean, "mean leaves {mean:e}, fold-calibrated {calibrated:e}");
}

#[test]
fn texts_are_cut_into_windows_and_must_not_be_scored() {
    let model = TinyModel::new();
    let checkpoint = Checkpoint::open(model.write().path(), &[]).unwrap();
    let architecture = checkpoint.architecture();
    let of = |file: Option<&Path>, scored: &[Passage]| calibration_passages(file, &tokenizer(), architecture, scored);
    let bundled = of(None, &[]).unwrap();
    let longest = architecture.longest_input();
    assert!(bundled.iter().all(|passage| passage.input_ids.len() <= longest && passage.target_ids.len() == 1));
    let tokens: usize = bundled.iter().map(|passage| passage.input_ids.len()).sum();
    assert!((4_000..16_000).contains(&tokens), "{tokens}");

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs_err::write(&path, text).unwrap();
        path
    };
    let data = write("data.jsonl", "{\"text\": \"one two three\"}\n{\"text\": \"four five six\"}\n");
    let task = |name| Task::resolve(name).unwrap();
    let other = write("other.txt", "seven eight nine\nten eleven twelve");
    for name in ["lambada_openai", "text_perplexity"] {
        let scored = read_passages(&data, &task(name), None).unwrap().passages;
        assert!(!of(Some(&other), &scored).unwrap().is_empty());
        let lines = write("lines.txt", "seven eight nine\nfour five six\nten");
        for file in [&data, &lines] {
            let error = of(Some(file), &scored).unwrap_err();
            assert!(matches!(error, DataError::CalibrationScored { id: 0 }), "{error}");
        }
    }
    for text in ["", "{\"text\": \"\"}\n"] {
        let error = of(Some(&write("empty", text)), &[]).unwrap_err();
        assert!(matches!(error, DataError::NoPassages { .. }), "{error}");
    }
    // Only the beginning of a long text is used.
    let long = of(Some(&write("long.txt", &"A word or two more, \u{e9}. ".repeat(40_000))), &[]).unwrap();
    assert!(long.iter().map(|passage| passage.input_ids.len()).sum::<usize>() < 70_000);
}
