//! Models made analysis, judged beside the checkpoint: they score what transformers computes, what was done to their
//! parameters is recognised, and vocabularies of another size are handled.

use std::path::Path;
use std::sync::Arc;

use crate::common::evaluation::{
    Evaluation, evaluate, flips, greedy_ids, hugging_face_models, ids, json, loglikelihood, mean_kl, options, pairs,
    passages, perplexity, shared_checkpoint, variants, worst_difference,
};
use crate::common::hugging_face::HuggingFace;
use crate::common::{TinyCheckpoint, TinyModel};
use kintsugi::checkpoint::{Checkpoint, HuggingFaceModel, ModelSource, OpenOptions, open_model};
use kintsugi::config::{Architecture, AttentionKind, MlpInput, Norm, Residual};
use kintsugi::eval::{EngineOptions, EvalError, Quiet, Variant};
use kintsugi::merge::effective_differences;
use serde_json::json;

fn candidate(folder: &Path) -> Variant {
    Variant::candidate("analysis".to_owned(), Arc::from(open_model(folder, &OpenOptions::default()).unwrap()))
}

/// Passages that the tiny models know all tokens of.
fn tiny_pairs() -> Vec<(Vec<u32>, Vec<u32>)> {
    let passage = |passage: u32| {
        let ids = |count: u32, step: u32| (0..count).map(|at| (at * step + passage * 13) % 100).collect();
        (ids(9 + 5 * passage, 7), ids(1 + passage % 3, 11))
    };
    (0..6).map(passage).collect()
}

fn try_evaluate(model: &dyn ModelSource, variants: &[Variant]) -> Result<Evaluation, EvalError> {
    evaluate(model, variants, passages(&tiny_pairs(), 64), &options(), &Quiet)
}

fn tiny(gpt_j_residual: bool) -> TinyCheckpoint {
    let change = |options: &mut kintsugi::export::synth::SynthOptions| {
        (options.drift, options.gpt_j_residual, options.bias_gelu_fusion) = (0.05, gpt_j_residual, gpt_j_residual);
        options.rotary_pct = 1.0;
    };
    TinyModel::new().with(change).write()
}

#[test]
fn models_of_transformers_score_what_transformers_computes() {
    for folder in &hugging_face_models() {
        let name = folder.file_name().unwrap().to_string_lossy();
        let model = HuggingFaceModel::open(folder).unwrap();
        assert_eq!(model.notes(), Vec::<String>::new(), "{name}");
        let expected = json!({ "passages": json(&folder.join("expected.json")) });
        let passages = passages(&pairs(&expected), 32);
        let evaluation = evaluate(&model, &[Variant::baseline()], passages, &options(), &Quiet).unwrap();
        for (passage, tokens) in expected["passages"].as_array().unwrap().iter().zip(&evaluation.scores[0]) {
            assert_eq!(greedy_ids(tokens), ids(&passage["greedy_ids"]), "{name}");
            let logprobs = passage["token_logprobs"].as_array().unwrap();
            assert_eq!(logprobs.len(), tokens.len());
            for (token, expected) in tokens.iter().zip(logprobs) {
                let difference = (token.logprob - expected.as_f64().unwrap()).abs();
                assert!(difference < 2e-5, "{name}: log-probabilities differ by {difference:e}");
            }
        }
    }
}

#[test]
fn a_merge_written_analysis_scores_what_the_strategy_scores() {
    for gpt_j_residual in [true, false] {
        let files = tiny(gpt_j_residual);
        let checkpoint = files.open();
        let folder = tempfile::tempdir().unwrap();
        let strategies = ["zeroth", "merge20b", "fold"];
        let mut all = variants(&strategies);
        for (at, strategy) in strategies.iter().enumerate() {
            let path = folder.path().join(strategy);
            let written = HuggingFace::merged(&checkpoint, strategy);
            if at == 0 {
                written.write_sharded(&path);
            } else {
                written.write(&path);
            }
            all.push(candidate(&path));
        }
        // One slice and several make no difference.
        for memory_budget in [None, Some(200_000)] {
            let options = EngineOptions { memory_budget, digests: true, ..options() };
            let evaluation = evaluate(&checkpoint, &all, passages(&tiny_pairs(), 64), &options, &Quiet).unwrap();
            assert_eq!(evaluation.slice_count > 1, memory_budget.is_some());
            for at in 1..=strategies.len() {
                let (merged, analysis) = (&evaluation.scores[at], &evaluation.scores[at + strategies.len()]);
                let strategy = strategies[at - 1];
                assert!(worst_difference(&evaluation.scores[0], merged) > 0.0, "{strategy} is no different at all");
                assert_eq!(merged, analysis, "{strategy}");
            }
            let files = evaluation.candidate_digests[&4].iter().map(|digest| digest.file.as_str()).collect::<Vec<_>>();
            assert_eq!(files, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
        }
    }
}

#[test]
fn a_candidate_may_be_a_checkpoint_of_several_ranks() {
    for gpt_j_residual in [true, false] {
        let files = tiny(gpt_j_residual);
        let evaluation = try_evaluate(&files.open(), &[Variant::baseline(), candidate(files.path())]).unwrap();
        assert_eq!(worst_difference(&evaluation.scores[0], &evaluation.scores[1]), 0.0);
        assert_eq!(mean_kl(&evaluation.scores[1]), 0.0);
    }
}

#[test]
fn the_strategy_of_a_candidate_is_recognised() {
    for gpt_j_residual in [true, false] {
        let files = tiny(gpt_j_residual);
        let checkpoint = files.open();
        let strategies = ["zeroth", "mean", "merge20b", "reduce-aware", "fold"];
        let folder = tempfile::tempdir().unwrap();
        let mut all = vec![Variant::baseline()];
        for strategy in strategies {
            HuggingFace::merged(&checkpoint, strategy).write(&folder.path().join(strategy));
            all.push(candidate(&folder.path().join(strategy)));
        }
        all.push(candidate(files.path()));
        let evaluation = try_evaluate(&checkpoint, &all).unwrap();
        for (at, strategy) in strategies.into_iter().enumerate() {
            let found = evaluation.candidate_analyses[&(at + 1)].conclude();
            // With means where the biases are added once, three strategies are two.
            let (name, same_as): (_, &[&str]) = match (strategy, gpt_j_residual) {
                ("merge20b" | "reduce-aware", true) => ("reduce-aware", &["merge20b"]),
                ("mean" | "reduce-aware", false) => ("reduce-aware", &["mean"]),
                (strategy, _) => (strategy, &[]),
            };
            assert_eq!(
                (found.strategy.as_str(), found.same_as.as_slice()),
                (name, &same_as.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()[..]),
                "{strategy}"
            );
            assert!(found.same_bits && found.exceptions.is_empty() && found.explained == found.parameters, "{found:?}");
            let factor = match (strategy, gpt_j_residual) {
                ("zeroth" | "mean", true) => 0.5,
                ("merge20b", false) => 2.0,
                _ => 1.0,
            };
            let words = format!("attention.dense.bias and mlp.linear2.bias {factor} times what the model has");
            let warnings = found.warnings();
            assert_eq!(warnings.len(), usize::from(factor != 1.0), "{strategy}: {warnings:?}");
            assert!(warnings.iter().all(|warning| warning.ends_with(&words)), "{warnings:?}");
        }
        let unmerged = evaluation.candidate_analyses[&(strategies.len() + 1)].conclude();
        assert_eq!(unmerged.summary(), "all 28 parameters are each rank's own, unmerged, bit for bit");
        assert!(unmerged.warnings().is_empty());
    }
}

#[test]
fn settings_without_effect_are_no_differences() {
    let own = tiny(true).open().architecture().clone();
    let names = |change: &dyn Fn(&mut Architecture)| {
        let mut other = own.clone();
        change(&mut other);
        let found = effective_differences(&own, &other);
        found.into_iter().map(|(name, ..)| name).collect::<Vec<_>>()
    };
    let window = |other: &mut Architecture, width: usize| {
        (other.attention, other.sliding_window) = (vec![AttentionKind::Flash; other.layer_count], Some(width));
    };
    let without_effect: [&dyn Fn(&mut Architecture); 7] = [
        &|other| (other.qkv_bias, other.attention_output_bias, other.mlp_bias) = (false, false, false),
        &|other| other.residual = Residual::ParallelReducedApart,
        &|other| other.query_key_layer_scaling = true,
        &|other| other.norm = Norm::TransformerEngineLayerNorm,
        &|other| other.mlp_input = MlpInput::AttentionNorm,
        &|other| other.max_position_embeddings += 1,
        // The last of 64 tokens has 63 before it.
        &|other| window(other, 63),
    ];
    for (at, change) in without_effect.into_iter().enumerate() {
        assert_eq!(names(change), Vec::<String>::new(), "{at}");
    }
    assert_eq!(names(&|other| window(other, 62)), ["sliding_window"]);
    assert_eq!(names(&|other| other.residual = Residual::Sequential), ["residual"]);
    assert_eq!(names(&|other| other.norm_epsilon *= 2.0), ["norm"]);
    assert_eq!(names(&|other| other.norm = Norm::RmsNorm), ["norm"]);
    assert_eq!(names(&|other| other.mlp_input = MlpInput::NormOfAttentionNorm), ["mlp_norm"]);
    let first = |other: &mut Architecture| {
        window(other, 8);
        other.attention[1] = AttentionKind::Global;
    };
    let mut other = own.clone();
    first(&mut other);
    let words = |name: &str, own: &str, other: &str| vec![(name.to_owned(), own.to_owned(), other.to_owned())];
    assert_eq!(effective_differences(&own, &other), words("sliding_window", "none", "the last 9 tokens in layer 0"));
}

#[test]
fn a_vocabulary_of_another_size_is_compared_over_what_both_have() {
    let files = tiny(true);
    let checkpoint = files.open();
    let rows = checkpoint.architecture().padded_vocab_size;
    let folder = tempfile::tempdir().unwrap();
    let exact = HuggingFace::merged(&checkpoint, "fold");
    for (name, rows) in [("trimmed", rows - 20), ("whole", rows), ("padded", rows + 20)] {
        exact.clone().with_vocabulary(rows).write(&folder.path().join(name));
    }
    let mut all = vec![Variant::baseline()];
    all.extend(["whole", "trimmed", "padded"].map(|name| candidate(&folder.path().join(name))));
    let evaluation = try_evaluate(&checkpoint, &all).unwrap();
    let [baseline, whole, trimmed, padded] = &evaluation.scores[..] else { unreachable!() };
    assert!(worst_difference(baseline, whole) < 2e-5);
    // The merge is exact, so given one of the tokens that both have the distributions are the same.
    for scores in [whole, trimmed, padded] {
        // To within a rounding of log-probabilities of about −5 in float32.
        assert!(scores.iter().flatten().all(|token| token.kl.unwrap().abs() < 1e-6));
    }
    // Fewer rows leave more probability for each token, more rows less.
    for ((whole, trimmed), padded) in whole.iter().zip(trimmed).zip(padded) {
        assert!(loglikelihood(trimmed) > loglikelihood(whole) + 1e-3);
        assert!(loglikelihood(padded) < loglikelihood(whole) - 1e-3);
    }
}

#[test]
fn what_cannot_be_a_merge_of_the_checkpoint_is_refused() {
    let files = tiny(true);
    let checkpoint = files.open();
    let refusal = |change: fn(&mut kintsugi::export::synth::SynthOptions)| {
        let other = TinyModel::new().with(|options| options.rotary_pct = 1.0).with(change).write();
        try_evaluate(&checkpoint, &[Variant::baseline(), candidate(other.path())]).unwrap_err().to_string()
    };
    let complaint = refusal(|options| options.shape.layer_count = 3);
    assert_eq!(complaint, "candidate `analysis`: expected num_layers 2 as in the checkpoint, found 3");
    let complaint = refusal(|options| options.shape.hidden_size = 32);
    assert_eq!(complaint, "candidate `analysis`: expected hidden_size 64 as in the checkpoint, found 32");
    let complaint = refusal(|options| options.shape.max_position_embeddings = 16);
    assert_eq!(complaint, "candidate `analysis` takes at most 16 tokens, the longest passage has 36");
    let folder = tempfile::tempdir().unwrap();
    HuggingFace::merged(&checkpoint, "mean").with_vocabulary(40).write(folder.path());
    let error = try_evaluate(&checkpoint, &[Variant::baseline(), candidate(folder.path())]).unwrap_err();
    assert_eq!(error.to_string(), "candidate `analysis` has a vocabulary of 40 tokens, the passages hold token 99");
    assert!(error.hint().unwrap().contains("trim the vocabulary to the tokenizer's size"));
}

#[test]
fn rotary_tables_are_each_models_own() {
    let files = tiny(true);
    let checkpoint = files.open();
    let folder = tempfile::tempdir().unwrap();
    let mut written = HuggingFace::merged(&checkpoint, "mean");
    written.write(&folder.path().join("same"));
    written.config.insert("rotary_emb_base".to_owned(), json!(500));
    written.write(&folder.path().join("other"));
    let alone = HuggingFaceModel::open(&folder.path().join("other")).unwrap();
    let alone = try_evaluate(&alone, &[Variant::baseline()]).unwrap();
    let mut all = variants(&["mean"]);
    all.extend(["same", "other"].map(|name| candidate(&folder.path().join(name))));
    let evaluation = try_evaluate(&checkpoint, &all).unwrap();
    assert_eq!(evaluation.scores[1], evaluation.scores[2]);
    assert!(worst_difference(&evaluation.scores[2], &evaluation.scores[3]) > 1e-4);
    assert_eq!(worst_difference(&alone.scores[0], &evaluation.scores[3]), 0.0);
}

/// What gpt-neox's own converter made, against transformers' numbers for it.
#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn upstream_conversions_score_what_transformers_computes_with_them() {
    let references = [
        ("parallel-residual-tp2-drift", None, "hf_reference.json"),
        ("parallel-residual-tp2-drift", Some("gelu_new"), "hf_reference_gelu_new.json"),
        ("sequential-residual-tied-tp2-drift", None, "hf_reference.json"),
        ("llama-gqa-swiglu-tp2-drift", None, "hf_reference.json"),
    ];
    for (name, activation, reference) in references {
        let folder = shared_checkpoint(name);
        let converted = folder.join("hf_converted");
        let copy = tempfile::tempdir().unwrap();
        let candidate = match activation {
            None => candidate(&converted),
            Some(activation) => {
                let mut config = json(&converted.join("config.json"));
                config["hidden_act"] = json!(activation);
                fs_err::write(copy.path().join("config.json"), config.to_string()).unwrap();
                fs_err::copy(converted.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
                candidate(copy.path())
            }
        };
        let (checkpoint, own) = (Checkpoint::open(&folder, &[]).unwrap(), json(&folder.join("reference.json")));
        let passages = passages(&pairs(&own), checkpoint.architecture().max_position_embeddings);
        let variants = [Variant::baseline(), candidate];
        let evaluation = evaluate(&checkpoint, &variants, passages, &options(), &Quiet).unwrap();
        let [baseline, scores] = &evaluation.scores[..] else { unreachable!() };
        let expected = json(&folder.join(reference));
        for (passage, tokens) in expected["passages"].as_array().unwrap().iter().zip(scores) {
            let difference = (loglikelihood(tokens) - passage["sum_logprob"].as_f64().unwrap()).abs();
            assert!(difference < 1e-4, "{name}: passage {}: log-likelihoods differ by {difference:e}", passage["i"]);
        }
        let relative = perplexity(scores) / expected["perplexity"].as_f64().unwrap() - 1.0;
        assert!(relative.abs() < 1e-6, "{name}: perplexities differ by {relative:e}");
        assert_eq!(Some(flips(baseline, scores) as u64), expected["greedy_disagreements"].as_u64(), "{name}");
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn the_defects_of_the_upstream_converter_are_found() {
    let findings = |name: &str| {
        let folder = shared_checkpoint(name);
        let (checkpoint, own) = (Checkpoint::open(&folder, &[]).unwrap(), json(&folder.join("reference.json")));
        let passages = passages(&pairs(&own), checkpoint.architecture().max_position_embeddings);
        let model = HuggingFaceModel::open(&folder.join("hf_converted")).unwrap();
        let differences = effective_differences(checkpoint.architecture(), model.architecture());
        let variants = [Variant::baseline(), Variant::candidate("upstream".to_owned(), Arc::new(model))];
        let evaluation = evaluate(&checkpoint, &variants, passages, &options(), &Quiet).unwrap();
        let perplexities = [0, 1].map(|at| format!("{:.3}", perplexity(&evaluation.scores[at])));
        let flipped = flips(&evaluation.scores[0], &evaluation.scores[1]);
        (evaluation.candidate_analyses[&1].conclude(), differences, perplexities, flipped)
    };
    let (analysis, differences, perplexities, flipped) = findings("sequential-residual-tied-tp2-drift");
    assert_eq!((perplexities, flipped), (["3.094".to_owned(), "3.257".to_owned()], 38));
    assert_eq!(
        analysis.warnings(),
        [
            "its row-parallel biases are the sum of the ranks', although the model adds them once, after the all-reduce: \
             attention.dense.bias and mlp.linear2.bias 2 times what the model has"
        ]
    );
    assert!(differences.is_empty(), "{differences:?}");

    let (analysis, differences, ..) = findings("parallel-residual-tp2-drift");
    assert!(analysis.warnings().is_empty(), "{:?}", analysis.warnings());
    assert_eq!(differences, [("activation".to_owned(), "gelu (tanh)".to_owned(), "gelu".to_owned())]);

    let (analysis, differences, ..) = findings("llama-gqa-swiglu-tp2-drift");
    assert!(analysis.warnings().is_empty() && differences.is_empty());
    assert_eq!(
        analysis.summary(),
        "all 27 parameters are as reduce-aware makes them, bit for bit; mean and merge20b would make the same of this checkpoint"
    );
}
