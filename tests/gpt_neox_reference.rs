//! The forward pass and the merges against gpt-neox's own numbers: residual streams stage by stage and rank by rank,
//! logits, log-likelihoods passage by passage. The bundled checkpoint is always checked; those of `../shared` are
//! skipped where they are missing.
#![cfg(feature = "libtorch")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::evaluation::{
    cpu, demo, demo_reference, flips, greedy_ids, ids, in_repository, is_greedy, json, loglikelihood, mean_kl, options,
    pairs, passages, perplexity, run, shared_checkpoint, variants, worst_difference,
};
use common::npz::{Array, parse_npy, read_npz};
use common::{copy_folder, edit_layer_file, layer_files};
use kintsugi::checkpoint::Checkpoint;
use kintsugi::eval::documents::read_documents;
use kintsugi::eval::task::Task;
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::eval::{Quiet, Variant, evaluate};
use kintsugi::merge::Strategy;
use kintsugi::model::{Chunk, EmbeddingStage, Group, LayerStage, OutputStage, RotaryTable, Streams, Uploader};
use kintsugi::partition::StageId;
use kintsugi::tensor::{DType, HostTensor};
use serde_json::Value;
use tch::Tensor;

/// Every checkpoint that gpt-neox evaluated.
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
    "validation-logits-tp2",
    "validation-logits-tp2-drift",
    "parallel-residual-tied-norm-alibi-tp2-drift",
    "qk-layernorm-tp2-refuse",
];

/// Runs the unmerged model over passages and hears of every rank's stream after every stage; returns the logits of all
/// rows, `[rows, padded vocabulary]`.
fn forward(checkpoint: &Checkpoint, inputs: &[Vec<i64>], mut hear: impl FnMut(StageId, &Streams)) -> Tensor {
    let architecture = checkpoint.architecture();
    let mut groups = Vec::new();
    let (mut start, mut positions) = (0, Vec::new());
    for input in inputs {
        let length = i64::try_from(input.len()).unwrap();
        groups.push(Group { start, passages: 1, length });
        start += length;
        positions.extend(0..length);
    }
    let longest = inputs.iter().map(Vec::len).max().unwrap();
    let chunk = Chunk { start: 0, tokens: start, groups, positions: Tensor::from_slice(&positions) };
    let rotary = RotaryTable::new(architecture, cpu(), longest).unwrap();
    let mut streams = Streams::new(Vec::new());
    for id in checkpoint.stage_ids() {
        let stage = checkpoint.read_stage(id).unwrap();
        let mut uploader = Uploader::new(cpu());
        match id {
            StageId::Embedding => {
                let embedding = EmbeddingStage::new(&stage, architecture, &mut uploader).unwrap();
                streams = embedding.forward(&Tensor::from_slice(&inputs.concat()), &chunk).unwrap();
            }
            StageId::Layer(_) => {
                let layer = LayerStage::new(&stage, architecture, &mut uploader).unwrap();
                layer.forward(&mut streams, &chunk, rotary.as_ref(), None).unwrap();
            }
            StageId::Output => {
                let output = OutputStage::new(&stage, architecture, &mut uploader).unwrap();
                return output.logits(&streams, &Tensor::arange(start, (tch::Kind::Int64, tch::Device::Cpu))).unwrap();
            }
        }
        hear(id, &streams);
    }
    unreachable!("the last stage returns")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(tch::Kind::Double).reshape([-1])).unwrap()
}

/// Largest difference between a tensor and an array of as many elements.
fn largest_difference(tensor: &Tensor, array: &Array) -> f64 {
    let values = values(tensor);
    assert_eq!(values.len(), array.values.len());
    values.iter().zip(&array.values).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max)
}

fn input_of(passage: &Value) -> Vec<i64> {
    let (context, target) = (ids(&passage["ctx_ids"]), ids(&passage["target_ids"]));
    context.iter().chain(&target[..target.len() - 1]).map(|&id| i64::from(id)).collect()
}

#[test]
fn residual_streams_of_every_rank_are_those_of_gpt_neox_after_every_stage() {
    for name in ["parallel-residual-tp2-drift", "sequential-residual-tied-tp2-drift"] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        let checkpoint = Checkpoint::open(&folder, &[]).unwrap();
        let input = input_of(&json(&folder.join("reference.json"))["passages"][0]);
        let ranks: Vec<BTreeMap<String, Array>> = (0..checkpoint.tp_size())
            .map(|tp_rank| read_npz(&folder.join(format!("reference_hidden_rank{tp_rank}.npz"))))
            .collect();
        let mut stages = 0;
        let logits = forward(&checkpoint, std::slice::from_ref(&input), |id, streams| {
            let (number, form) = match id {
                // [batch, tokens, hidden], where layers have [tokens, batch, hidden]; the batch is one passage.
                StageId::Embedding => (0, [1, input.len(), 128]),
                StageId::Layer(number) => (number + 2, [input.len(), 1, 128]),
                StageId::Output => unreachable!(),
            };
            for (tp_rank, reference) in ranks.iter().enumerate() {
                let expected = &reference[&format!("p0_layer_{number:02}_out")];
                assert_eq!(expected.shape, form, "{name}: {id}");
                let difference = largest_difference(streams.of_rank(tp_rank), expected);
                assert!(difference < 5e-5, "{name}: {id}, rank {tp_rank}: streams differ by {difference:e}");
            }
            stages += 1;
        });
        assert_eq!(stages, 5, "{name}");
        if let Some(expected) = ranks[0].get("p0_layer_08_out") {
            let difference = largest_difference(&logits, expected);
            assert!(difference < 5e-5, "{name}: logits differ by {difference:e}");
        }
    }
}

#[test]
fn ranks_have_streams_of_their_own_exactly_where_gpt_neox_gives_them_some() {
    for (name, counts) in [("parallel-residual-tp2-drift", [1, 1]), ("sequential-residual-tied-tp2-drift", [1, 2])] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        let mut found = Vec::new();
        let _ = forward(&Checkpoint::open(&folder, &[]).unwrap(), &[vec![1, 2, 3]], |_, streams| {
            found.push(streams.count());
        });
        assert_eq!(found[..2], counts, "{name}");
        let reference: Vec<_> =
            [0, 1].map(|rank| read_npz(&folder.join(format!("reference_hidden_rank{rank}.npz")))).into();
        let differ = reference[0]["p0_layer_02_out"] != reference[1]["p0_layer_02_out"];
        assert_eq!(differ, counts[1] == 2, "{name}");
    }
}

#[test]
fn logits_are_those_of_gpt_neox_at_every_position() {
    for name in [
        "parallel-residual-tp2-drift",
        "sequential-residual-tied-tp2-drift",
        "llama-gqa-swiglu-tp2-drift",
        "sequential-residual-geglu-learned-tp2-drift",
        "neox-v1.0-sequential-geglu-tied-tp2-drift",
        "validation-logits-tp2",
    ] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        let reference = read_npz(&folder.join("reference_logits.npz"));
        let passages = json(&folder.join("reference.json"))["passages"].as_array().unwrap().clone();
        let recorded = (0..8).filter(|passage| reference.contains_key(&format!("all_{passage}"))).count();
        assert!(recorded >= 4, "{name}");
        let inputs: Vec<_> = passages[..recorded].iter().map(input_of).collect();
        let logits = forward(&Checkpoint::open(&folder, &[]).unwrap(), &inputs, |_, _| {});
        let mut start = 0;
        for (passage, input) in inputs.iter().enumerate() {
            let ids: Vec<_> = reference[&format!("ids_{passage}")].values.clone();
            #[expect(clippy::cast_precision_loss, reason = "token ids")]
            let ours: Vec<_> = input.iter().map(|&id| id as f64).collect();
            assert_eq!(ids, ours, "{name}: passage {passage}");
            let all = &reference[&format!("all_{passage}")];
            assert_eq!(all.shape, [input.len(), 768], "{name}");
            // What the model says after the context.
            let last = start + passages[passage]["n_ctx"].as_i64().unwrap() - 1;
            let length = i64::try_from(input.len()).unwrap();
            let worst = largest_difference(&logits.narrow(0, start, length), all)
                .max(largest_difference(&logits.get(last), &reference[&format!("final_{passage}")]));
            assert!(worst < 5e-5, "{name}: passage {passage}: logits differ by {worst:e}");
            start += length;
        }
    }
}

/// Log-likelihoods, greedy tokens and summary numbers of the unmerged model.
fn check(name: &str, folder: &Path, reference: &Value) {
    let evaluation = run(folder, reference, &[Variant::baseline()]);
    let scores = &evaluation.scores[0];
    let expected = reference["passages"].as_array().unwrap();
    assert_eq!(scores.len(), expected.len(), "{name}");
    for (passage, tokens) in expected.iter().zip(scores) {
        let place = format!("{name}: passage {}", passage["i"]);
        let difference = (loglikelihood(tokens) - passage["sum_logprob"].as_f64().unwrap()).abs();
        assert!(difference < 1e-4, "{place}: log-likelihoods differ by {difference:e}");
        for (token, logprob) in tokens.iter().zip(passage["token_logprobs"].as_array().unwrap()) {
            let difference = (token.logprob - logprob.as_f64().unwrap()).abs();
            assert!(difference < 1e-4, "{place}: token {}: log-probabilities differ by {difference:e}", token.id);
        }
        assert_eq!(greedy_ids(tokens), ids(&passage["greedy_ids"]), "{place}");
        assert_eq!(is_greedy(tokens), passage["is_greedy"].as_bool().unwrap(), "{place}");
    }
    let correct = scores.iter().filter(|tokens| is_greedy(tokens)).count();
    assert_eq!(Some(correct as u64), reference["n_correct"].as_u64(), "{name}");
    let (found, expected) = (perplexity(scores), reference["perplexity"].as_f64().unwrap());
    assert!((found / expected - 1.0).abs() < 1e-6, "{name}: perplexity {found} against {expected}");
}

#[test]
fn the_bundled_checkpoint_scores_what_gpt_neox_computed() {
    check("demo", &demo(), &demo_reference());
}

#[test]
fn baselines_score_what_gpt_neox_computed() {
    for name in FOLDERS {
        let Some(folder) = shared_checkpoint(name) else { continue };
        check(name, &folder, &json(&folder.join("reference.json")));
    }
}

#[test]
fn the_bundled_passages_are_tokenized_as_gpt_neox_tokenized_them() {
    let task = Task::resolve("lambada_openai").unwrap();
    let data = read_documents(&in_repository("evals/demo/passages.jsonl"), &task, None).unwrap();
    let tokenizer = Tokenizer::from_file(&in_repository("evals/demo/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode_documents(&data.documents).unwrap(), pairs(&demo_reference()));
}

#[test]
fn merging_replicas_that_agree_is_exact_where_biases_are_summed_and_costs_where_they_are_not() {
    let Some(folder) = shared_checkpoint("one-file-per-rank-tp2") else { return };
    let strategies = ["reduce-aware", "fold", "merge20b", "zeroth", "mean"];
    let evaluation = run(&folder, &json(&folder.join("reference.json")), &variants(&strategies));
    let baseline = &evaluation.scores[0];
    assert_eq!(format!("{:.3}", perplexity(baseline)), "4.650");
    for (at, name) in strategies.into_iter().enumerate() {
        let scores = &evaluation.scores[at + 1];
        let exact = at < 3;
        assert_eq!(evaluation.exactness[at + 1].is_exact(), exact, "{name}");
        if exact {
            let worst = worst_difference(baseline, scores);
            assert!(worst < 1e-5, "{name}: log-likelihoods differ by {worst:e}");
            assert_eq!(flips(baseline, scores), 0, "{name}");
            assert!(mean_kl(scores) < 1e-8, "{name}: {}", mean_kl(scores));
        } else {
            assert_eq!(format!("{:.3}", perplexity(scores)), "5.482", "{name}");
            let because = evaluation.exactness[at + 1].because();
            assert_eq!(because.len(), 2, "{because:?}");
            assert!(
                because.iter().all(|line| line.contains("(4 layers): every rank adds its own before the all-reduce"))
            );
        }
    }
}

#[test]
fn summing_biases_costs_a_sequential_model_what_gpt_neox_measured() {
    let Some(folder) = shared_checkpoint("sequential-residual-tied-tp2-drift") else { return };
    let evaluation =
        run(&folder, &json(&folder.join("reference.json")), &variants(&["merge20b", "reduce-aware", "fold"]));
    let [baseline, summed, averaged, folded] = &evaluation.scores[..] else { unreachable!() };
    assert_eq!(format!("{:.3}", perplexity(baseline)), "3.094");
    assert_eq!(format!("{:.3}", perplexity(summed)), "3.257");
    assert_eq!(flips(baseline, summed), 38);
    assert_eq!(format!("{:.3}", perplexity(averaged)), "3.095");
    // Drifted norms are folded without loss; what remains is the ranks' streams, of which a merge keeps one.
    let kl = [summed, averaged, folded].map(|scores| mean_kl(scores));
    assert!(kl[0] > 1e-2 && kl[1] < 1e-4 && kl[2] * 100.0 < kl[1], "{kl:?}");
    for (at, words) in [(1, "after the all-reduce"), (2, "replicas differ"), (3, "a residual stream of its own")] {
        let because = evaluation.exactness[at].because().join("\n");
        assert!(because.contains(words), "{because}");
    }
}

#[test]
fn folding_loses_nothing_where_ranks_share_one_stream() {
    for name in [
        "parallel-residual-tp2-drift",
        "llama-gqa-swiglu-tp2-drift",
        "parallel-residual-tied-norm-alibi-tp2-drift",
        "validation-logits-tp2-drift",
    ] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        let evaluation = run(&folder, &json(&folder.join("reference.json")), &variants(&["fold", "reduce-aware"]));
        let [baseline, folded, averaged] = &evaluation.scores[..] else { unreachable!() };
        let worst = worst_difference(baseline, folded);
        assert!(worst < 2e-5, "{name}: log-likelihoods differ by {worst:e}");
        assert_eq!(flips(baseline, folded), 0, "{name}");
        assert!(evaluation.exactness[1].is_exact(), "{name}");
        // The replicas did drift: averaging them shows.
        assert!(worst_difference(baseline, averaged) > 1e-2, "{name}");
        assert!(!evaluation.exactness[2].is_exact(), "{name}");
    }
}

#[test]
fn folding_and_summing_are_exact_where_replicas_never_drifted() {
    for name in ["one-file-per-rank-tp2", "neox-v1.0-tp2-full-state", "validation-logits-tp2"] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        let evaluation = run(&folder, &json(&folder.join("reference.json")), &variants(&["fold", "reduce-aware"]));
        for (merged, exactness) in evaluation.scores[1..].iter().zip(&evaluation.exactness[1..]) {
            let worst = worst_difference(&evaluation.scores[0], merged);
            assert!(worst < 2e-5, "{name}: log-likelihoods differ by {worst:e}");
            assert!(exactness.is_exact(), "{name}: {:?}", exactness.because());
        }
    }
}

/// Rounding folded weights to float16 must cost far less than averaging the norms.
fn check_half_precision(name: &str, folder: &Path, reference: &Value) {
    let evaluation = run(folder, reference, &variants(&["fold", "reduce-aware", "mean"]));
    let [baseline, folded, averaged, mean] = &evaluation.scores[..] else { unreachable!() };
    let (folded_kl, averaged_kl, mean_kl) = (mean_kl(folded), mean_kl(averaged), mean_kl(mean));
    assert!(folded_kl * 100.0 < averaged_kl, "{name}: {folded_kl:e} against {averaged_kl:e}");
    assert!(averaged_kl * 10.0 < mean_kl, "{name}: {averaged_kl:e} against {mean_kl:e}");
    assert!(worst_difference(baseline, folded) < 2e-3, "{name}");
    assert_eq!(flips(baseline, folded), 0, "{name}");
}

#[test]
fn folding_a_half_precision_model_costs_a_rounding() {
    check_half_precision("demo", &demo(), &demo_reference());
    if let Some(folder) = shared_checkpoint("parallel-residual-tp2-fp16-drift") {
        check_half_precision("parallel-residual-tp2-fp16-drift", &folder, &json(&folder.join("reference.json")));
    }
}

#[test]
fn folding_in_sixteen_bits_leaves_no_more_than_averaging_in_either_format() {
    for (name, step) in [
        ("parallel-residual-tp2-drift", "global_step1600"),
        ("llama-gqa-swiglu-tp2-drift", "global_step1600"),
        ("parallel-residual-tied-norm-alibi-tp2-drift", "global_step400"),
        ("validation-logits-tp2-drift", "global_step400"),
    ] {
        let Some(folder) = shared_checkpoint(name) else { continue };
        for dtype in [DType::F16, DType::BF16] {
            let copy = tempfile::tempdir().unwrap();
            copy_folder(&folder.join(step), copy.path());
            for file in layer_files(copy.path()) {
                edit_layer_file(&file, |tensors| {
                    for tensor in tensors.values_mut() {
                        let values = tensor.to_f64().unwrap();
                        *tensor = HostTensor::from_f64(dtype, tensor.shape().to_vec(), &values).unwrap();
                    }
                });
            }
            let reference = json(&folder.join("reference.json"));
            let evaluation = run(copy.path(), &reference, &variants(&["fold", "reduce-aware"]));
            let [_, folded, averaged] = &evaluation.scores[..] else { unreachable!() };
            let (folded, averaged) = (mean_kl(folded), mean_kl(averaged));
            assert!(folded <= averaged, "{name} in {dtype}: {folded:e} against {averaged:e}");
        }
    }
}

#[test]
fn a_model_that_no_merge_can_keep_is_merged_only_on_request() {
    let Some(folder) = shared_checkpoint("qk-layernorm-tp2-refuse") else { return };
    let reference = json(&folder.join("reference.json"));
    let checkpoint = Checkpoint::open(&folder, &[]).unwrap();
    let passages = passages(&pairs(&reference), checkpoint.architecture().max_position_embeddings);
    let run = |variants: &[Variant]| evaluate(&checkpoint, variants, passages.clone(), &options(), &Quiet);
    for name in ["zeroth", "mean", "merge20b", "reduce-aware", "fold", "fold-calibrated"] {
        let error = run(&variants(&[name])).unwrap_err();
        let expected = format!(
            "strategy `{name}`: no exact merge exists: qk_layernorm takes its statistics over the heads of one rank, so no \
             one-rank model equals this one"
        );
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().contains("--allow-inexact"), "{error}");
    }
    let strategy = Strategy { allow_inexact: true, ..Strategy::resolve("fold").unwrap() };
    let evaluation = run(&[Variant::baseline(), Variant::merged(strategy)]).unwrap();
    let [baseline, merged] = &evaluation.scores[..] else { unreachable!() };
    assert_eq!(format!("{:.2}", perplexity(baseline)), "13.66");
    // What gpt-neox itself makes of the one-rank model.
    assert_eq!(format!("{:.2}", perplexity(merged)), "14.99");
    assert_eq!(flips(baseline, merged), 20);
    assert!(!evaluation.exactness[1].is_exact());
    let because = evaluation.exactness[1].because().join("\n");
    assert!(because.contains("attention.qk_layernorm (3 layers): qk_layernorm takes its statistics"), "{because}");
}

#[test]
fn arrays_are_read_as_numpy_wrote_them() {
    let file = |header: &str, data: &[u8]| {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
    };
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n";
    let data = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
    let array = parse_npy(&file(header, &data)).unwrap();
    assert_eq!(array, Array { shape: vec![1, 2], values: vec![1.5, -2.0] });
    let vector = parse_npy(&file("{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", &7_i64.to_le_bytes()));
    assert_eq!(vector.unwrap(), Array { shape: vec![1], values: vec![7.0] });
    for wrong in [header.replace("False", "True"), header.replace("(1, 2)", "(3,)"), header.replace("f4", "f2")] {
        assert!(parse_npy(&file(&wrong, &data)).is_err(), "{wrong}");
    }
}
