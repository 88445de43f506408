//! The unmerged forward pass against gpt-neox's own numbers, passage by passage: `reference.json` of the checkpoints in
//! `../shared` (skipped where it is missing), and of the bundled demo checkpoint always.
#![cfg(feature = "libtorch")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::path::{Path, PathBuf};

use kintsugi::checkpoint::Checkpoint;
use kintsugi::eval::packing::Passage;
use kintsugi::eval::{EngineOptions, Evaluation, Quiet, Variant, Weights, evaluate};
use kintsugi::merge::Strategy;
use kintsugi::model::Backend;
use serde_json::Value;

/// The folders whose architecture is supported, with the perplexity gpt-neox measured.
const FOLDERS: &[&str] = &[
    "parallel-residual-tp2-drift",
    "parallel-residual-tp2-fp16-drift",
    "parallel-residual-tp2-fp16-old-names",
    "sequential-residual-tied-tp2-drift",
    "one-file-per-rank-tp2",
    "neox-v1.0-tp2-full-state",
    "llama-gqa-swiglu-tp2-drift",
    "sequential-residual-geglu-learned-tp2-drift",
    "neox-v1.0-sequential-geglu-tied-tp2-drift",
];

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn shared_checkpoint(name: &str) -> Option<PathBuf> {
    let path = in_repository("../shared/checkpoints").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is missing", path.display());
        return None;
    }
    Some(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn run(folder: &Path, reference: &Value, variants: &[Variant]) -> Evaluation {
    let checkpoint = Checkpoint::open(folder, &[]).unwrap();
    let max_length = checkpoint.architecture().max_position_embeddings;
    let passages = reference["passages"].as_array().unwrap().iter().enumerate().map(|(index, passage)| {
        Passage::new(index, &ids(&passage["ctx_ids"]), &ids(&passage["target_ids"]), max_length).unwrap()
    });
    let backend = Backend { device: tch::Device::Cpu, kind: tch::Kind::Float };
    let options = EngineOptions { backends: vec![backend], chunk_tokens: None, memory_budget: None, digests: false };
    evaluate(&checkpoint, variants, passages.collect(), &options, &Quiet).unwrap()
}

fn baseline() -> Variant {
    Variant { name: "baseline".to_owned(), weights: Weights::Unmerged }
}

fn check(folder: &Path) {
    let name = folder.file_name().unwrap().to_string_lossy();
    let reference = json(&folder.join("reference.json"));
    let evaluation = run(folder, &reference, &[baseline()]);
    let (mut worst, mut total) = (0.0_f64, 0.0);
    let passages = reference["passages"].as_array().unwrap();
    for (passage, scores) in passages.iter().zip(&evaluation.scores[0]) {
        let sum: f64 = scores.iter().map(|score| score.logprob).sum();
        worst = worst.max((sum - passage["sum_logprob"].as_f64().unwrap()).abs());
        total += sum;
        let greedy: Vec<u32> = scores.iter().map(|score| score.greedy_id).collect();
        assert_eq!(greedy, ids(&passage["greedy_ids"]), "{name}: passage {}", passage["i"]);
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of passages")]
    let perplexity = (-total / passages.len() as f64).exp();
    let expected = reference["perplexity"].as_f64().unwrap();
    eprintln!("{name}: worst difference {worst:.2e}, perplexity {perplexity:.6} against {expected:.6}");
    assert!(worst < 1e-4, "{name}: log-likelihoods differ by {worst:e}");
    assert!((perplexity / expected - 1.0).abs() < 1e-6, "{name}: perplexity {perplexity} against {expected}");
}

#[test]
fn baselines_are_what_gpt_neox_computes() {
    for path in FOLDERS.iter().filter_map(|name| shared_checkpoint(name)) {
        check(&path);
    }
}

#[test]
fn folding_loses_nothing_where_ranks_share_one_stream() {
    for name in ["parallel-residual-tp2-drift", "parallel-residual-tp2-fp16-drift", "llama-gqa-swiglu-tp2-drift"] {
        let Some(path) = shared_checkpoint(name) else { continue };
        let reference = json(&path.join("reference.json"));
        let strategies = ["fold", "reduce-aware", "mean"].map(|name| Strategy::resolve(name).unwrap());
        let merged =
            strategies.map(|strategy| Variant { name: strategy.name.clone(), weights: Weights::Merged(strategy) });
        let variants: Vec<_> = std::iter::once(baseline()).chain(merged).collect();
        let evaluation = run(&path, &reference, &variants);
        for at in 1..variants.len() {
            let (mut worst, mut kl, mut count) = (0.0_f64, 0.0, 0);
            for (base, fold) in evaluation.scores[0].iter().zip(&evaluation.scores[at]) {
                let sum =
                    |scores: &[kintsugi::samples::TokenScore]| scores.iter().map(|score| score.logprob).sum::<f64>();
                worst = worst.max((sum(base) - sum(fold)).abs());
                for score in fold {
                    kl += score.kl.unwrap();
                    count += 1;
                }
            }
            eprintln!(
                "{name}: {} worst {worst:.2e} kl {:.2e} exact {} {:?}",
                variants[at].name,
                kl / count as f64,
                evaluation.exactness[at].is_exact(),
                evaluation.exactness[at].folding()
            );
        }
    }
}
