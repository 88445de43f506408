//! Checkpoints that Megatron-LM wrote, of 2020 to 2026, against its own numbers: residual streams stage by stage and rank by
//! rank, logits, log-likelihoods passage by passage, and its one-rank models with the joined weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::evaluation::{
    evaluate, flips, greedy_ids, ids, in_repository, json, loglikelihood, options, pairs, passages, run, variants,
    worst_difference,
};
use crate::common::merging::Merge;
use crate::common::npz::read_npz;
use crate::gpt_neox_reference::{check, forward, input_of, largest_difference};
use kintsugi::checkpoint::{MegatronCheckpoint, ModelSource, OpenOptions, open_model};
use kintsugi::eval::{Quiet, Variant};
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::StageId;
use kintsugi::samples::TokenScore;
use kintsugi::tensor::DType;
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    in_repository("../shared/megatron").join(name)
}

fn open(name: &str) -> MegatronCheckpoint {
    MegatronCheckpoint::open(&folder(name), &[]).unwrap().unwrap()
}

fn reference(name: &str) -> Value {
    json(&folder(name).join("reference.json"))
}

/// Every folder with files of ranks.
fn names() -> Vec<String> {
    let folders = fs_err::read_dir(in_repository("../shared/megatron")).unwrap();
    let is_read = |path: &Path| matches!(MegatronCheckpoint::open(path, &[]), Ok(Some(_)) | Err(_));
    let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir() && is_read(path));
    let mut names: Vec<_> = folders.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 20, "{names:?}");
    names
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn every_checkpoint_scores_what_megatron_computed() {
    for name in names() {
        check(&name, &folder(&name), &reference(&name));
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn streams_of_every_rank_and_logits_are_megatrons_after_every_stage() {
    let (mut with_streams, mut with_logits) = (0, 0);
    for name in names() {
        let arrays = folder(&name).join("reference_arrays.npz");
        if !arrays.is_file() {
            continue;
        }
        let (arrays, reference, checkpoint) = (read_npz(&arrays), reference(&name), open(&name));
        for passage in 0..2 {
            let input = input_of(&reference["passages"][passage]);
            let mut worst = 0.0_f64;
            let logits = forward(&checkpoint, std::slice::from_ref(&input), |id, streams| {
                let number = match id {
                    StageId::Embedding => 0,
                    StageId::Layer(number) => number + 1,
                    StageId::Output => unreachable!(),
                };
                for tp_rank in 0..checkpoint.tp_size() {
                    let Some(hidden) = arrays.get(&format!("hidden_rank{tp_rank}")).filter(|_| passage == 0) else {
                        continue;
                    };
                    let [_, tokens, width] = hidden.shape[..] else { panic!("{:?}", hidden.shape) };
                    let stage = &hidden.values[number * tokens * width..(number + 1) * tokens * width];
                    let ours = Vec::<f64>::try_from(streams.of_rank(tp_rank).to_kind(tch::Kind::Double).reshape([-1]));
                    let pairs = ours.unwrap().into_iter().zip(stage).map(|(ours, theirs)| (ours - theirs).abs());
                    let difference = pairs.fold(0.0, f64::max);
                    assert!(difference < 5e-5, "{name}: {id}, rank {tp_rank}: streams differ by {difference:e}");
                    worst = worst.max(difference);
                    with_streams += 1;
                }
            });
            let difference = largest_difference(&logits, &arrays[&format!("logits_{passage}")]);
            assert!(difference < 1e-4, "{name}: passage {passage}: logits differ by {difference:e}");
            with_logits += 1;
        }
    }
    assert!(with_streams >= 100 && with_logits >= 30, "{with_streams}, {with_logits}");
}

/// The stages bit for bit, but for names.
fn assert_same_stages(left: &dyn ModelSource, right: &dyn ModelSource) {
    assert_eq!(left.architecture(), right.architecture());
    for id in left.stage_ids() {
        assert!(left.read_stage(id).unwrap().same_bits(&right.read_stage(id).unwrap()), "{id}");
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn the_same_model_is_the_same_in_other_pipelines_names_and_versions() {
    for (name, sibling) in [
        ("gpt-learned-tied-tp2-drift", "gpt-learned-tied-tp2-pp2-drift"),
        ("gpt-learned-tied-tp2-drift", "gpt-learned-tied-tp2-te-names-drift"),
        ("llama-gqa-tp2-drift", "llama-gqa-tp2-core-v0.12-drift"),
        ("legacy-v2.6-tp2-drift", "legacy-v1.0-tp2-drift"),
        ("legacy-v2.6-tp2-drift", "legacy-2020-10-version1-tp2-drift"),
    ] {
        let (left, right) = (open(name), open(sibling));
        let (v1, v2) = (left.architecture(), right.architecture());
        assert_eq!(v1, v2, "{sibling}");
        assert_same_stages(&left, &right);
        let scores = |name: &str| run(&folder(name), &reference(name), &[Variant::baseline()]).scores.remove(0);
        assert_eq!(scores(name), scores(sibling), "{sibling}");
    }
    assert_eq!(open("gpt-learned-tied-tp2-pp2-drift").stage_files(StageId::Output).len(), 4);
}

/// Log-likelihoods and greedy tokens of a merge, where both are given.
fn check_merge(place: &str, scores: &[Vec<TokenScore>], expected: &Value) {
    let expected = expected["passages"].as_array().unwrap();
    assert_eq!(scores.len(), expected.len(), "{place}");
    for (tokens, passage) in scores.iter().zip(expected) {
        let difference = (loglikelihood(tokens) - passage["sum_logprob"].as_f64().unwrap()).abs();
        assert!(difference < 1e-4, "{place}: passage {}: log-likelihoods differ by {difference:e}", passage["i"]);
        assert_eq!(greedy_ids(tokens), ids(&passage["greedy_ids"]), "{place}: passage {}", passage["i"]);
    }
}

/// The unmerged model, and merges that are written in float32 and read again.
fn with_float32_merges(name: &str, strategies: &[&str]) -> Vec<Vec<Vec<TokenScore>>> {
    let (checkpoint, reference) = (open(name), reference(name));
    let folders: Vec<_> = strategies.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    let mut variants = vec![Variant::baseline()];
    for (strategy, folder) in strategies.iter().zip(&folders) {
        let directory = folder.path().join("merged");
        let merge = Merge { dtype: Some(DType::F32), ..Merge::by(strategy).hf(1 << 30) };
        merge.write(&checkpoint, &directory).unwrap();
        let model = open_model(&directory, &OpenOptions::default()).unwrap();
        variants.push(Variant::candidate((*strategy).to_owned(), Arc::from(model)));
    }
    let passages = passages(&pairs(&reference), checkpoint.architecture().max_position_embeddings);
    evaluate(&checkpoint, &variants, passages, &options(), &Quiet).unwrap().scores
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn zeroth_and_mean_are_megatrons_one_rank_models() {
    let mut checked = 0;
    for name in names() {
        let expected = folder(&name).join("merged_reference.json");
        if !expected.is_file() {
            continue;
        }
        let expected = json(&expected);
        let strategies = ["zeroth", "mean"];
        // The mean of 16-bit replicas, which Megatron computed in float32, is rounded in files of 16 bits.
        let scores = if open(&name).dtype() == DType::F32 {
            run(&folder(&name), &reference(&name), &variants(&strategies)).scores
        } else {
            with_float32_merges(&name, &strategies)
        };
        for (at, strategy) in strategies.into_iter().enumerate() {
            check_merge(&format!("{name}: {strategy}"), &scores[at + 1], &expected[strategy]);
        }
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn folding_is_exact_without_biases() {
    let llama_like = |name: &String| name.contains("llama") && name.contains("drift") || name.starts_with("semantics");
    let names: Vec<_> = names().into_iter().filter(llama_like).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let scores = if open(&name).dtype() == DType::F32 {
            let evaluation = run(&folder(&name), &reference(&name), &variants(&["fold"]));
            assert!(evaluation.exactness[1].is_exact(), "{name}: {:?}", evaluation.exactness[1].because());
            evaluation.scores
        } else {
            with_float32_merges(&name, &["fold"])
        };
        let worst = worst_difference(&scores[0], &scores[1]);
        assert!(worst < 2e-5, "{name}: log-likelihoods differ by {worst:e}");
        assert_eq!(flips(&scores[0], &scores[1]), 0, "{name}");
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn no_merge_of_norms_per_head_that_drifted_is_exact() {
    let name = "qwen3-like-tp2-natural-drift";
    let evaluation = run(&folder(name), &reference(name), &variants(&["zeroth"]));
    assert!(!evaluation.exactness[1].is_exact());
    let worst = worst_difference(&evaluation.scores[0], &evaluation.scores[1]);
    assert!((worst - 0.70).abs() < 0.01, "{worst}");
    assert_eq!(flips(&evaluation.scores[0], &evaluation.scores[1]), 12);
}

#[test]
#[cfg_attr(not(kintsugi_shared_megatron), ignore = "needs ../shared/megatron")]
fn megatrons_converter_takes_rank_0s_copies() {
    let name = "llama-gqa-tp2-core-v0.12-drift";
    let (checkpoint, converted) = (open(name), open(&format!("{name}/converted_by_megatron")));
    assert_eq!(converted.tp_size(), 1);
    let zeroth = Strategy::resolve("zeroth").unwrap();
    for id in checkpoint.stage_ids() {
        let stage = checkpoint.read_stage(id).unwrap();
        let mut merger = StageMerger::new(&stage, checkpoint.architecture());
        let merged = merger.merge(&zeroth, &mut Exactness::default()).unwrap();
        let converted = converted.read_stage(id).unwrap();
        // Its vocabulary is padded for one rank; the same rows either way here.
        assert!(merged.same_bits(&converted), "{id}");
    }
}
