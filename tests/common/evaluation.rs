//! Evaluations from token ids, the numbers that come out, and where checkpoints with reference numbers are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kintsugi::checkpoint::{FileDigest, ModelSource, OpenOptions, open_model};
use kintsugi::eval::chunk_plan::ChunkPlan;
use kintsugi::eval::packing::TokenizedPassage;
use kintsugi::eval::{
    Divergence, EngineOptions, EvalError, Models, Observer, Quiet, SliceOutcome, Variant, evaluate_chunks, plan_chunks,
};
use kintsugi::merge::{CandidateAnalysis, Exactness, Strategy};
use kintsugi::model::Backend;
use kintsugi::samples::TokenScore;
use serde_json::Value;

/// A path of this repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Models that transformers wrote, with what it computes: the fixtures, and those in the folder that `KINTSUGI_HUGGING_FACE`
/// names (evals/verify/hugging_face_models.py writes them).
pub fn hugging_face_models() -> Vec<PathBuf> {
    let fixtures = in_repository("tests/fixtures/hugging_face");
    let further = std::env::var_os("KINTSUGI_HUGGING_FACE").map(PathBuf::from);
    let entries = std::iter::once(fixtures).chain(further).flat_map(|folder| fs_err::read_dir(folder).unwrap());
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("expected.json").is_file());
    assert!(folders.len() >= 10);
    folders.sort();
    folders
}

/// The bundled checkpoint: two ranks, parallel residual, float16, replicas that drifted.
pub fn demo() -> PathBuf {
    in_repository("evals/demo/checkpoint")
}

/// What gpt-neox computed with the bundled checkpoint.
pub fn demo_reference() -> Value {
    json(&in_repository("evals/demo/gpt_neox_reference.json"))
}

/// A checkpoint that gpt-neox trained and evaluated, of `tests/fixtures/checkpoints`.
pub fn trained_checkpoint(name: &str) -> PathBuf {
    in_repository("tests/fixtures/checkpoints").join(name)
}

/// gpt-neox's numbers for such a checkpoint. Its passages are those of the bundled one, whose reference has their ids.
pub fn trained_reference(name: &str) -> Value {
    let mut reference = json(&trained_checkpoint(name).join("reference.json"));
    let with_ids = demo_reference();
    let passages = reference["passages"].as_array_mut().unwrap();
    for (passage, demo) in passages.iter_mut().zip(with_ids["passages"].as_array().unwrap()) {
        for field in ["i", "ctx_ids", "target_ids"] {
            passage[field] = demo[field].clone();
        }
    }
    reference
}

/// A checkpoint of `../shared`: tests of it are ignored where `kintsugi_shared` is not set (`build.rs`).
pub fn shared_checkpoint(name: &str) -> PathBuf {
    in_repository("../shared/checkpoints").join(name)
}

/// gpt-neox's numbers for a checkpoint of `../shared`.
pub fn shared_reference(name: &str) -> Value {
    json(&shared_checkpoint(name).join("reference.json"))
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap()
}

/// Token ids of a reference file.
pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// float32 on the CPU.
pub fn cpu() -> Backend {
    Backend { device: tch::Device::Cpu, kind: tch::Kind::Float }
}

/// Everything at its default, on the CPU.
pub fn options() -> EngineOptions {
    EngineOptions::on(vec![cpu()])
}

/// A built-in strategy.
pub fn merge_by(name: &str) -> Variant {
    Variant::merged(Strategy::resolve(name).unwrap())
}

/// The baseline, then these strategies.
pub fn variants(strategies: &[&str]) -> Vec<Variant> {
    std::iter::once(Variant::baseline()).chain(strategies.iter().map(|name| merge_by(name))).collect()
}

/// Context and target of every passage of a reference file.
pub fn pairs(reference: &Value) -> Vec<(Vec<u32>, Vec<u32>)> {
    let passages = reference["passages"].as_array().unwrap();
    passages.iter().map(|passage| (ids(&passage["ctx_ids"]), ids(&passage["target_ids"]))).collect()
}

pub fn passages(pairs: &[(Vec<u32>, Vec<u32>)], max_length: usize) -> Vec<TokenizedPassage> {
    let passages = pairs.iter().enumerate();
    passages
        .map(|(index, (context, target))| TokenizedPassage::new(index, context, target, max_length).unwrap())
        .collect()
}

/// What all slices of an evaluation found.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// `[variants][passages]`, in the order given: one score per target token.
    pub scores: Vec<Vec<Vec<TokenScore>>>,
    /// By variant.
    pub exactness: Vec<Exactness>,
    /// `[variants][stages but the last]`; empty unless asked for.
    pub divergence: Vec<Vec<Divergence>>,
    /// Of the files read; empty unless asked for.
    pub digests: Vec<FileDigest>,
    /// By variant.
    pub candidate_digests: BTreeMap<usize, Vec<FileDigest>>,
    /// By variant.
    pub candidate_analyses: BTreeMap<usize, CandidateAnalysis>,
    /// Passes over the checkpoint.
    pub slice_count: usize,
    /// Tokens that went through a stage together.
    pub chunk_tokens: usize,
    /// Input tokens of all passages.
    pub token_count: usize,
}

impl Evaluation {
    /// Joins the slices of a whole plan.
    pub fn of(plan: &ChunkPlan, variants: usize, slices: Vec<SliceOutcome>) -> Self {
        let passage_count = (0..plan.chunk_count()).map(|chunk| plan.passages(chunk).len()).sum();
        let mut evaluation = Self {
            scores: vec![vec![Vec::new(); passage_count]; variants],
            exactness: vec![Exactness::default(); variants],
            divergence: Vec::new(),
            digests: Vec::new(),
            candidate_digests: BTreeMap::new(),
            candidate_analyses: BTreeMap::new(),
            slice_count: slices.len(),
            chunk_tokens: plan.chunk_tokens(),
            token_count: 0,
        };
        let mut by_chunk = BTreeMap::new();
        for (number, slice) in slices.into_iter().enumerate() {
            for (all, of_slice) in evaluation.scores.iter_mut().zip(slice.scores) {
                for (passage, scores) in of_slice {
                    all[passage] = scores;
                }
            }
            by_chunk.extend(slice.divergence);
            evaluation.token_count += slice.token_count;
            if number == 0 {
                evaluation.exactness = slice.exactness;
                evaluation.digests = slice.digests;
                evaluation.candidate_digests = slice.candidate_digests;
                evaluation.candidate_analyses = slice.candidate_analyses;
            }
        }
        // In the chunks' order, so that sums are the same however the chunks were divided.
        for of_chunk in by_chunk.into_values() {
            if evaluation.divergence.is_empty() {
                evaluation.divergence = of_chunk;
                continue;
            }
            for (total, more) in evaluation.divergence.iter_mut().flatten().zip(of_chunk.into_iter().flatten()) {
                total.squared_distance += more.squared_distance;
                total.squared_norm += more.squared_norm;
            }
        }
        evaluation
    }
}

/// Evaluates every variant on every passage; they are indexed 0, 1, 2, ….
#[expect(clippy::needless_pass_by_value, reason = "callers make the passages for one evaluation")]
pub fn evaluate(
    checkpoint: &dyn ModelSource,
    variants: &[Variant],
    passages: Vec<TokenizedPassage>,
    options: &EngineOptions,
    observer: &dyn Observer,
) -> Result<Evaluation, EvalError> {
    let models = Models { checkpoint, variants };
    let plan = plan_chunks(models, &passages, options)?;
    let mut slices = Vec::new();
    let mut keep = |slice| {
        slices.push(slice);
        Ok(())
    };
    evaluate_chunks::<EvalError>(models, &plan, &plan.whole(), options, observer, &mut keep)?;
    Ok(Evaluation::of(&plan, variants.len(), slices))
}

/// Evaluates variants of a checkpoint on the passages of a reference file.
pub fn run(folder: &Path, reference: &Value, variants: &[Variant]) -> Evaluation {
    let checkpoint = open_model(folder, &OpenOptions::default()).unwrap();
    let passages = passages(&pairs(reference), checkpoint.architecture().max_position_embeddings);
    evaluate(&*checkpoint, variants, passages, &options(), &Quiet).unwrap()
}

pub fn loglikelihood(tokens: &[TokenScore]) -> f64 {
    tokens.iter().map(|token| token.logprob).sum()
}

pub fn greedy_ids(tokens: &[TokenScore]) -> Vec<u32> {
    tokens.iter().map(|token| token.greedy_id).collect()
}

pub fn is_greedy(tokens: &[TokenScore]) -> bool {
    tokens.iter().all(|token| token.greedy_id == token.id)
}

#[expect(clippy::cast_precision_loss, reason = "a count of passages")]
pub fn perplexity(passages: &[Vec<TokenScore>]) -> f64 {
    (-passages.iter().map(|tokens| loglikelihood(tokens)).sum::<f64>() / passages.len() as f64).exp()
}

/// Largest difference of log-likelihoods of the same passage.
pub fn worst_difference(left: &[Vec<TokenScore>], right: &[Vec<TokenScore>]) -> f64 {
    assert_eq!(left.len(), right.len());
    let differences = left.iter().zip(right).map(|(left, right)| (loglikelihood(left) - loglikelihood(right)).abs());
    differences.fold(0.0, f64::max)
}

/// Passages that one model gets right and the other does not.
pub fn flips(left: &[Vec<TokenScore>], right: &[Vec<TokenScore>]) -> usize {
    left.iter().zip(right).filter(|(left, right)| is_greedy(left) != is_greedy(right)).count()
}

/// Mean over target tokens of the divergence from the baseline.
#[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
pub fn mean_kl(passages: &[Vec<TokenScore>]) -> f64 {
    let divergences: Vec<f64> = passages.iter().flatten().map(|token| token.kl.unwrap()).collect();
    divergences.iter().sum::<f64>() / divergences.len() as f64
}
