//! The forward pass and the merges against gpt-neox's own numbers: residual streams stage by stage and rank by rank,
//! logits, log-likelihoods passage by passage. Every architecture is in the repository; what needs more room (hidden
//! states, logits, the same architectures in other layouts) is in `../shared`.

mod merges;

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::evaluation::{
    cpu, demo, demo_reference, evaluate, flips, greedy_ids, ids, in_repository, is_greedy, loglikelihood, mean_kl,
    options, pairs, passages, perplexity, run, shared_checkpoint, shared_reference, trained_checkpoint,
    trained_reference, variants, worst_difference,
};
use crate::common::npz::{Array, parse_npy, read_npz};
use crate::common::{copy_folder, edit_layer_file, layer_files};
use kintsugi::checkpoint::{Checkpoint, ModelSource};
use kintsugi::eval::data_set::read_passages;
use kintsugi::eval::task::Task;
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::eval::{Quiet, Variant};
use kintsugi::merge::Strategy;
use kintsugi::model::{Chunk, EmbeddingStage, Group, LayerStage, OutputStage, RotaryTable, Streams, Uploader};
use kintsugi::partition::StageId;
use kintsugi::tensor::{DType, HostTensor};
use serde_json::Value;
use tch::Tensor;

/// Every architecture that gpt-neox trained and evaluated, beside the bundled checkpoint's.
const TRAINED: [&str; 7] = [
    "sequential-residual-tied-tp2-drift",
    "llama-gqa-swiglu-tp2-drift",
    "sequential-residual-geglu-learned-tp2-drift",
    "neox-v1.0-sequential-geglu-tied-tp2-drift",
    "validation-logits-tp2",
    "parallel-residual-tied-norm-alibi-tp2-drift",
    "qk-layernorm-tp2-refuse",
];

/// The same architectures in other types, layouts, names and states.
const SHARED: [&str; 6] = [
    "parallel-residual-tp2-drift",
    "parallel-residual-tp2-fp16-drift",
    "parallel-residual-tp2-fp16-old-names",
    "one-file-per-rank-tp2",
    "neox-v1.0-tp2-full-state",
    "validation-logits-tp2-drift",
];

/// Runs the unmerged model over passages and hears of every rank's stream after every stage; returns the logits of all
/// rows, `[rows, padded vocabulary]`.
pub(crate) fn forward(
    checkpoint: &dyn ModelSource,
    inputs: &[Vec<i64>],
    mut hear: impl FnMut(StageId, &Streams),
) -> Tensor {
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
                streams.fork(layer.streams_after(streams.count())).unwrap();
                layer.forward(&mut streams, &chunk, rotary.as_ref(), None).unwrap();
            }
            StageId::Output => {
                let output = OutputStage::new(&stage, architecture, &mut uploader).unwrap();
                return output.logits(&streams).unwrap();
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
pub(crate) fn largest_difference(tensor: &Tensor, array: &Array) -> f64 {
    let values = values(tensor);
    assert_eq!(values.len(), array.values.len());
    values.iter().zip(&array.values).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f64::max)
}

pub(crate) fn input_of(passage: &Value) -> Vec<i64> {
    let (context, target) = (ids(&passage["ctx_ids"]), ids(&passage["target_ids"]));
    context.iter().chain(&target[..target.len() - 1]).map(|&id| i64::from(id)).collect()
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn residual_streams_of_every_rank_are_those_of_gpt_neox_after_every_stage() {
    for name in ["parallel-residual-tp2-drift", "sequential-residual-tied-tp2-drift"] {
        let folder = shared_checkpoint(name);
        let checkpoint = Checkpoint::open(&folder, &[]).unwrap();
        let input = input_of(&shared_reference(name)["passages"][0]);
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
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn ranks_have_streams_of_their_own_exactly_where_gpt_neox_gives_them_some() {
    for (name, counts) in [("parallel-residual-tp2-drift", [1, 1]), ("sequential-residual-tied-tp2-drift", [1, 2])] {
        let folder = shared_checkpoint(name);
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
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn logits_are_those_of_gpt_neox_at_every_position() {
    for name in [
        "parallel-residual-tp2-drift",
        "sequential-residual-tied-tp2-drift",
        "llama-gqa-swiglu-tp2-drift",
        "sequential-residual-geglu-learned-tp2-drift",
        "neox-v1.0-sequential-geglu-tied-tp2-drift",
        "validation-logits-tp2",
    ] {
        let folder = shared_checkpoint(name);
        let reference = read_npz(&folder.join("reference_logits.npz"));
        let passages = shared_reference(name)["passages"].as_array().unwrap().clone();
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
pub(crate) fn check(name: &str, folder: &Path, reference: &Value) {
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
    for name in TRAINED {
        check(name, &trained_checkpoint(name), &trained_reference(name));
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn baselines_in_other_layouts_score_what_gpt_neox_computed() {
    for name in SHARED {
        check(name, &shared_checkpoint(name), &shared_reference(name));
    }
}

#[test]
fn the_bundled_passages_are_tokenized_as_gpt_neox_tokenized_them() {
    let task = Task::resolve("lambada_openai").unwrap();
    let data = read_passages(&in_repository("evals/demo/passages.jsonl"), &task, None).unwrap();
    let tokenizer = Tokenizer::from_file(&in_repository("evals/demo/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode_passages(&data.passages).unwrap(), pairs(&demo_reference()));
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
