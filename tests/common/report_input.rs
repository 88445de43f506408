//! A report from fixed synthetic samples, for the tests of every rendering.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "tests; each uses some of it"
)]

use kintsugi::merge::{Drift, ParamDrift};
use kintsugi::partition::{Kind, StageId};
use kintsugi::report::{
    CheckpointInfo, DataInfo, DivergenceCurve, Exact, FileDigest, ModelRecord, ModelRole, PassageCounts, ReportInput,
    RunInfo, StageSeconds, TaskInfo, TokenizerInfo, Versions,
};
use kintsugi::samples::{PassageText, Sample, TokenScore, TopToken};
use kintsugi::stats::PairedBootstrap;
use serde_json::json;

/// Number of passages.
pub(crate) const PASSAGE_COUNT: usize = 400;

/// The texts that the samples are of; every tenth would break a page that takes text for markup.
pub(crate) fn passages() -> Vec<PassageText> {
    let text = |doc_id: usize| PassageText {
        doc_id,
        context: match doc_id % 10 {
            0 => format!(
                "She wrote <script>alert({doc_id})</script> & \"{}\" on the board, and he read",
                "so on ".repeat(30)
            ),
            _ => format!("Passage {doc_id} speaks of many things, and in the end of"),
        },
        target: format!(" word{doc_id}"),
    };
    (0..PASSAGE_COUNT).map(text).collect()
}

/// Two likely tokens; the first is the model's answer.
fn top(id: u32, greedy_id: u32, logprob: f64) -> Vec<TopToken> {
    let candidate = |id: u32, text: &str, logprob| TopToken { id, text: text.to_owned(), logprob };
    if id == greedy_id {
        return vec![candidate(id, " right", logprob), candidate(7, "\n", logprob - 1.0)];
    }
    vec![candidate(7, "<b>", logprob + 0.1), candidate(id, " right", logprob), candidate(50_400, "", -9.0)]
}

/// A fixed scatter of numbers in `[0, 1)`: the fractional parts of multiples of the golden ratio.
fn scatter(index: usize) -> f64 {
    (index as f64 * 0.618_033_988_749_894_9).fract()
}

/// Samples of one model: `shift` nats lost a passage, with a spread, and every `flip`-th answer wrong.
pub(crate) fn samples(count: usize, shift: f64, flip: Option<usize>, has_kl: bool) -> Vec<Sample> {
    (0..count)
        .map(|doc_id| {
            let base = -3.0 * scatter(doc_id + 1);
            let loss = shift * (0.5 + scatter(7 * doc_id + 3));
            let logprobs = [0.75 * (base - loss), 0.25 * (base - loss)];
            let is_greedy = doc_id % 10 < 7 && flip.is_none_or(|flip| doc_id % flip != 0);
            let tokens = logprobs.into_iter().enumerate().map(|(index, logprob)| {
                let id = 100 + u32::try_from(2 * doc_id + index).unwrap();
                let greedy_id = if is_greedy { id } else { 7 };
                TokenScore {
                    id,
                    greedy_id,
                    logprob,
                    kl: has_kl.then_some(0.1 * loss * loss),
                    top: top(id, greedy_id, logprob),
                }
            });
            Sample {
                doc_id,
                target: format!(" word{doc_id}"),
                loglikelihood: logprobs.iter().sum(),
                is_greedy,
                tokens: tokens.collect(),
                prompt_hash: format!("{doc_id:064x}"),
                target_hash: format!("{:064x}", doc_id + 1000),
            }
        })
        .collect()
}

fn model(role: ModelRole, name: &str, description: &str, exact: Option<Exact>) -> ModelRecord {
    ModelRecord {
        name: name.into(),
        also: Vec::new(),
        strategies: Vec::new(),
        role,
        description: description.into(),
        source: "built in".into(),
        exact,
        miscounts: Vec::new(),
        folding: None,
        candidate: None,
        findings: Vec::new(),
    }
}

fn inexact(because: &[&str]) -> Exact {
    Exact { exact: false, because: because.iter().map(|&line| line.to_owned()).collect() }
}

fn run_info() -> RunInfo {
    RunInfo {
        argv: ["kintsugi", "compare", "20B checkpoints", "--data", "lambada_test.jsonl"].map(str::to_owned).to_vec(),
        started: "2026-11-23T08:30:00Z".parse().unwrap(),
        seconds: 212.5,
        device: "NVIDIA H200".into(),
        dtype: "f16".into(),
        threads: 16,
        versions: Versions { kintsugi: "0.1.0".into(), git_commit: Some("0a1b2c3".into()), libtorch: "2.11.0".into() },
        limit: None,
        run_shard: None,
        run_shards: None,
        until_decided: None,
        chunk_tokens: 16_384,
        slices: 1,
        peak_rss_bytes: Some(5_300_000_000),
        stages: Some(StageSeconds {
            read_seconds: 40.0,
            merge_seconds: 12.25,
            compute_seconds: 150.0,
            copy_seconds: 8.0,
            divergence_seconds: 1.5,
        }),
        tokens: 32_000,
        tokens_per_second: 753.0,
    }
}

fn checkpoint_info() -> CheckpointInfo {
    let architecture = json!({"hidden_size": 6144, "num_layers": 44, "residual": "parallel"});
    let digest = |rank: u64| FileDigest {
        file: format!("layer_00-model_{rank:02}-model_states.pt"),
        blake3: format!("{:064x}", 0xfeed + rank),
        bytes: 309_657_600,
    };
    CheckpointInfo {
        path: "20B checkpoints".into(),
        name: "gpt-neox-20b".into(),
        iteration: 150_000,
        tp_size: 2,
        layout: "layer files".into(),
        dtype: "f16".into(),
        parameter_count: 20_554_567_680,
        bytes: 41_112_854_242,
        architecture: architecture.as_object().unwrap().clone(),
        digests: Some(vec![digest(0), digest(1)]),
    }
}

fn task_info(count: usize) -> TaskInfo {
    TaskInfo {
        name: "lambada_openai".into(),
        version: 1.0,
        data: DataInfo {
            file: "lambada_test.jsonl".into(),
            sha256: "4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226".into(),
            is_task_data: Some(true),
            identity: "the file that lambada_openai pins".into(),
        },
        passages: PassageCounts { original: count, effective: count },
        tokenizer: TokenizerInfo {
            file: "20B_tokenizer.json".into(),
            sha256: format!("{:064x}", 0xbeef),
            special_tokens: "none".into(),
        },
        splitting: "target is the text after the last space".into(),
        rolling: None,
        truncated_count: 0,
    }
}

/// One baseline, two ways to lose, one way not to, and the noise floor.
pub(crate) fn input() -> ReportInput {
    let n = PASSAGE_COUNT;
    let norms = "input_layernorm.weight (44 layers): replicas differ between ranks";
    let bias = "added by every rank before the all-reduce: the sum counts";
    let zeroth = [&format!("attention.dense.bias (44 layers): {bias}, `rank0` keeps 1/2 of it"), norms];
    let mean = [&format!("attention.dense.bias (44 layers): {bias}, `mean` keeps 1/2 of it"), norms];
    let exact = Exact { exact: true, because: Vec::new() };
    ReportInput {
        limits: ("built-in".into(), kintsugi::limits::Gates::built_in().unwrap()),
        run: run_info(),
        checkpoint: checkpoint_info(),
        task: task_info(n),
        models: vec![
            model(ModelRole::Baseline, "baseline", "every rank with its own replicas", None),
            model(ModelRole::Variant, "zeroth", "the first rank's replica", Some(inexact(&zeroth))),
            model(ModelRole::Variant, "mean", "the mean over ranks", Some(inexact(&mean))),
            model(ModelRole::Variant, "fold", "norms folded, biases summed", Some(exact)),
            model(ModelRole::Variant, "another tool", "a merge made by another tool", None),
            model(ModelRole::NoiseFloor, "noise floor", "the baseline again with chunks of 8192 tokens", None),
        ],
        samples: vec![
            samples(n, 0.0, None, false),
            samples(n, 0.11, Some(12), true),
            samples(n, 0.004, Some(90), true),
            samples(n, 0.0, None, true),
            samples(n, 1e-6, None, false),
            samples(n, 2e-6, None, true),
        ],
        divergence: [("zeroth", 0.1), ("mean", 0.08), ("fold", 0.0)].map(curve).to_vec(),
        drift: drift(),
        findings: vec!["row-parallel biases are summed by the unmerged model: 44 layers, 88 parameters".into()],
        bootstrap: PairedBootstrap { replicate_count: 500, ..PairedBootstrap::default() },
    }
}

fn curve((strategy, size): (&str, f64)) -> DivergenceCurve {
    DivergenceCurve { strategy: strategy.to_owned(), relative: vec![0.0, size, 1.5 * size] }
}

fn drift() -> Vec<ParamDrift> {
    let entry = |stage, name: &str, kind, relative| ParamDrift {
        stage,
        name: name.to_owned(),
        kind,
        used: true,
        drift: Drift {
            bit_identical: relative == 0.0,
            max_abs: 0.5 * relative,
            mean_abs: 0.1 * relative,
            relative,
            max_ulps: 12,
            min_cosine: 1.0,
            most_different_ranks: (relative > 0.0).then_some([0, 1]),
        },
    };
    let (gain, bias) = (Kind::NormGain, Kind::RowParallelBias);
    vec![
        entry(StageId::Layer(0), "input_layernorm.weight", gain, 0.02),
        entry(StageId::Layer(0), "attention.dense.bias", bias, 0.2),
        entry(StageId::Layer(1), "input_layernorm.weight", gain, 0.0),
    ]
}
