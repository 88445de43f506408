//! Models that are read and merged although they cannot be evaluated, or although no merge of them is exact; trained
//! prompts. What is refused altogether: `tests/evaluation/architectures` and `src/config/tests/refusals.rs`.

use crate::common::evaluation::{Evaluation, evaluate, options, passages, variants, worst_difference};
use crate::common::{TinyCheckpoint, TinyModel, edit_layer_file, read_tensors};
use assert_cmd::Command;
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, ModelSource, OpenOptions};
use kintsugi::config::{Head, PositionEmbedding, QuirkOptions};
use kintsugi::eval::{EvalError, Quiet, Variant};
use kintsugi::export::save_tensors;
use kintsugi::export::synth::SynthOptions;
use kintsugi::merge::{Exactness, MergeError, StageMerger, Strategy};
use kintsugi::partition::{Role, StageId, StageTensors};
use kintsugi::tensor::{DType, HostTensor, Piece, concatenate};
use serde_json::{Value, json};

const RANKS: std::ops::Range<usize> = 0..2;
const HIDDEN: usize = 64;

fn tiny(change: impl FnOnce(&mut SynthOptions)) -> TinyCheckpoint {
    TinyModel::new().with(change).write()
}

fn set(files: &TinyCheckpoint, settings: &[(&str, Value)]) {
    files.edit_config(|raw| raw.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))));
}

type Pairs = Vec<(Vec<u32>, Vec<u32>)>;

fn pairs() -> Pairs {
    let ids = |count: u32, step: u32, passage: u32| (0..count).map(|at| (at * step + passage * 13) % 120).collect();
    (0..5_u32).map(|passage| (ids(9 + 5 * passage, 7, passage), ids(1 + passage % 3, 11, passage))).collect()
}

fn run(checkpoint: &Checkpoint, pairs: &Pairs, variants: &[Variant]) -> Result<Evaluation, EvalError> {
    let passages = passages(pairs, checkpoint.architecture().longest_input());
    evaluate(checkpoint, variants, passages, &options(), &Quiet)
}

/// A stage merged by a built-in strategy, and whether nothing was lost.
fn merged(checkpoint: &Checkpoint, id: StageId, strategy: &Strategy) -> Result<(StageTensors, Exactness), MergeError> {
    let stage = checkpoint.read_stage(id).unwrap();
    let mut exactness = Exactness::default();
    let merged = StageMerger::new(&stage, checkpoint.architecture()).merge(strategy, &mut exactness)?;
    Ok((merged, exactness))
}

/// What evaluating says, and its hint.
#[track_caller]
fn evaluation_refused(files: &TinyCheckpoint) -> (String, String) {
    let checkpoint = files.open();
    let error = run(&checkpoint, &pairs(), &[Variant::baseline()]).unwrap_err();
    // Merging goes on all the same.
    for id in checkpoint.stage_ids() {
        let (_, exactness) = merged(&checkpoint, id, &Strategy::resolve("fold").unwrap()).unwrap();
        assert!(exactness.is_exact(), "{:?}", exactness.because());
    }
    (error.to_string(), error.hint().unwrap())
}

fn inspect(files: &TinyCheckpoint) -> String {
    let assert = Command::new(env!("CARGO_BIN_EXE_kintsugi")).arg("inspect").arg(files.path()).assert().success();
    let stdout = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A reward model whose final norms drifted; rank r holds `[1, hidden / ranks]` of the head.
fn reward_model() -> TinyCheckpoint {
    let files = tiny(|options| options.drift = 0.02);
    set(&files, &[("train_impl", json!("rm"))]);
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(6, tp_rank), |tensors| {
            let values: Vec<f64> =
                (0..32_u32).map(|at| f64::from(at) / 32.0 - f64::from(u8::from(tp_rank == 1))).collect();
            let head = HostTensor::from_f64(DType::F32, vec![1, HIDDEN / 2], &values).unwrap();
            *tensors = [("rm_linear.weight".to_owned(), head)].into();
        });
    }
    files
}

#[test]
fn a_reward_model_is_merged_and_not_evaluated() {
    let files = reward_model();
    let (refusal, hint) = evaluation_refused(&files);
    assert_eq!(
        refusal,
        "this model is refused: train_impl: rm: a reward-model head returns one score, not the probabilities of tokens"
    );
    assert!(hint.starts_with("`kintsugi inspect` and merging read it"), "{hint}");
    let checkpoint = files.open();
    assert_eq!(checkpoint.architecture().head, Head::Reward);
    let (output, _) = merged(&checkpoint, StageId::Output, &Strategy::resolve("fold").unwrap()).unwrap();
    let head = output.get(Role::HeadWeight).unwrap().value.tensors()[0].clone();
    let shards = RANKS.map(|tp_rank| read_tensors(&files.layer_file(6, tp_rank))["rm_linear.weight"].clone());
    let shards: Vec<_> = shards.collect();
    let pieces: Vec<_> = shards.iter().map(|tensor| Piece { tensor, range: 0..HIDDEN / 2 }).collect();
    assert!(head.same_bits(&concatenate(1, &pieces).unwrap()));
    // Each rank reads its own slice of its own norm.
    let gain = output.replicas(Role::FinalNormGain)[0].to_f64().unwrap();
    for tp_rank in RANKS {
        let own = read_tensors(&files.layer_file(5, tp_rank))["norm.weight"].to_f64().unwrap();
        let slice = tp_rank * HIDDEN / 2..(tp_rank + 1) * HIDDEN / 2;
        assert_eq!(gain[slice.clone()], own[slice]);
    }
}

#[test]
fn inspect_reads_what_is_not_evaluated_and_compare_says_why_not() {
    let files = reward_model();
    let stdout = inspect(&files);
    assert!(stdout.contains("one score, row-parallel"), "{stdout}");
    assert!(stdout.contains("it can be merged but not evaluated: train_impl: rm: a reward-model head"), "{stdout}");
    for command in ["compare", "eval"] {
        let mut kintsugi = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
        let assert =
            kintsugi.arg(command).arg(files.path()).args(["--data", "none", "--device", "cpu"]).assert().code(2);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains("error: this model is refused: train_impl: rm"), "{stderr}");
        assert!(stderr.contains("hint: `kintsugi inspect` and merging read it"), "{stderr}");
    }
}

#[test]
fn a_head_of_the_other_kind_is_not_in_the_model() {
    let files = reward_model();
    set(&files, &[("train_impl", json!("normal"))]);
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.ends_with("the configuration excludes it (train_impl is not rm, or embeddings are tied)"));
    let files = tiny(|_| {});
    set(&files, &[("train_impl", json!("rm"))]);
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("tensor `final_linear.weight`"), "{error}");
}

#[test]
fn a_model_of_unknown_width_is_merged_and_not_evaluated() {
    let files = tiny(|_| {});
    set(&files, &[("use_mup", json!(true))]);
    let (refusal, hint) = evaluation_refused(&files);
    assert!(refusal.ends_with("which is in the base-shapes file of the training run only"), "{refusal}");
    assert!(hint.starts_with("give it with --quirk mup-width=NUMBER"), "{hint}");
    let settings = vec!["mup-width=2".parse().unwrap()];
    let options = OpenOptions { quirks: QuirkOptions { era: None, settings }, ..OpenOptions::default() };
    assert!(Checkpoint::open_with(files.path(), &options).unwrap().check_evaluation().is_ok());
    set(&files, &[("mup_attn_temp", json!(2))]);
    let (refusal, hint) = evaluation_refused(&files);
    assert!(refusal.contains("whether the temperatures act depends on gpt-neox's version"), "{refusal}");
    assert!(hint.contains("the gpt-neox that trained it"), "{hint}");
}

/// Puts a prompt in, `[rows, hidden]` on each rank, and moves every later file on by one.
fn with_prompt(files: &TinyCheckpoint, of_rank: impl Fn(usize) -> HostTensor) {
    let stages: Vec<_> = (2..12).filter(|&stage| files.layer_file(stage, 0).exists()).collect();
    for tp_rank in RANKS {
        for &stage in stages.iter().rev() {
            fs::rename(files.layer_file(stage, tp_rank), files.layer_file(stage + 1, tp_rank)).unwrap();
        }
        let prompt = of_rank(tp_rank);
        save_tensors(&files.layer_file(1, tp_rank), [("soft_embedding_weight", &prompt)]).unwrap();
    }
    set(files, &[("soft_prompt_tuning", json!({ "enabled": true, "num_tokens": 3 }))]);
}

/// Rows of the word embedding, all ranks together.
fn words(files: &TinyCheckpoint, ids: &[usize]) -> HostTensor {
    let shards = RANKS.map(|tp_rank| read_tensors(&files.layer_file(0, tp_rank))["word_embeddings.weight"].clone());
    let shards: Vec<_> = shards.collect();
    let pieces: Vec<_> =
        ids.iter().map(|&id| Piece { tensor: &shards[id / 64], range: id % 64..id % 64 + 1 }).collect();
    concatenate(0, &pieces).unwrap()
}

#[test]
fn a_trained_prompt_stands_before_every_passage() {
    const PROMPT: [usize; 3] = [70, 5, 99];
    let positions = [
        PositionEmbedding::Rotary,
        PositionEmbedding::Alibi,
        PositionEmbedding::RelativeBuckets,
        PositionEmbedding::Absent,
    ];
    for positions in positions {
        let plain = || tiny(|options| (options.positions, options.drift) = (positions, 0.02));
        // A prompt that is made of words is these words.
        let prefixed = pairs().into_iter().map(|(context, target)| {
            let prompt = PROMPT.map(|id| u32::try_from(id).unwrap());
            (prompt.into_iter().chain(context).collect(), target)
        });
        let files = plain();
        let expected = run(&files.open(), &prefixed.collect(), &variants(&["fold"])).unwrap();
        let prompt = words(&files, &PROMPT);
        with_prompt(&files, |_| prompt.clone());
        let checkpoint = files.open();
        assert_eq!(checkpoint.architecture().longest_input(), 61);
        let found = run(&checkpoint, &pairs(), &variants(&["fold"])).unwrap();
        for (expected, found) in expected.scores.iter().zip(&found.scores) {
            let worst = worst_difference(expected, found);
            assert!(worst < 1e-6, "{positions}: off by {worst:e}");
        }
        assert!(found.exactness[1].is_exact());
    }
}

#[test]
fn a_prompt_has_no_positions_and_every_rank_its_own() {
    let learned = |shift: f64| {
        let files = tiny(|options| {
            (options.positions, options.gpt_j_residual) = (PositionEmbedding::Learned, false);
        });
        with_prompt(&files, |tp_rank| {
            let own = if tp_rank == 1 { shift } else { 0.0 };
            let values: Vec<f64> = (0..3 * HIDDEN).map(|at| if at % 3 == 0 { 0.3 + own } else { -0.2 }).collect();
            HostTensor::from_f64(DType::F32, vec![3, HIDDEN], &values).unwrap()
        });
        files
    };
    let files = learned(0.0);
    let checkpoint = files.open();
    let before = run(&checkpoint, &pairs(), &[Variant::baseline()]).unwrap();
    // The first token has position 0: no passage reaches the last three rows, and no prompt the first.
    for tp_rank in RANKS {
        edit_layer_file(&files.layer_file(0, tp_rank), |tensors| {
            let table = &tensors["position_embeddings.weight"];
            let mut values = table.to_f64().unwrap();
            values[61 * HIDDEN..].fill(9.0);
            let changed = HostTensor::from_f64(DType::F32, table.shape().to_vec(), &values).unwrap();
            tensors.insert("position_embeddings.weight".to_owned(), changed);
        });
    }
    let after = run(&files.open(), &pairs(), &[Variant::baseline()]).unwrap();
    assert!(worst_difference(&before.scores[0], &after.scores[0]) < 1e-12);

    let files = learned(0.2);
    let drifted = run(&files.open(), &pairs(), &variants(&["mean", "zeroth"])).unwrap();
    assert!(worst_difference(&drifted.scores[0], &before.scores[0]) > 1e-6);
    for (scores, exactness) in drifted.scores[1..].iter().zip(&drifted.exactness[1..]) {
        assert!(worst_difference(&drifted.scores[0], scores) > 1e-6);
        let because = exactness.because().join("\n");
        assert!(
            because.contains("soft_embedding_weight: replicas differ, so every rank has a residual stream of its own")
        );
    }
    // Without drift the merge by rank 0 reads the same prompt.
    assert!(worst_difference(&drifted.scores[2], &before.scores[0]) < 1e-6);
}

#[test]
fn a_prompt_belongs_to_a_model_that_was_tuned_so() {
    let prompt = || HostTensor::from_f64(DType::F32, vec![3, HIDDEN], &[0.5; 3 * HIDDEN]).unwrap();
    let files = tiny(|_| {});
    with_prompt(&files, |_| prompt());
    let stdout = inspect(&files);
    assert!(stdout.contains("layer_01 is the trained prompt"), "{stdout}");
    for tp_rank in RANKS {
        fs::remove_file(files.layer_file(1, tp_rank)).unwrap();
    }
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.ends_with("expected one soft prompt, found 0"), "{error}");
    let files = tiny(|_| {});
    with_prompt(&files, |_| prompt());
    set(&files, &[("soft_prompt_tuning", json!({ "enabled": false }))]);
    let error = Checkpoint::open(files.path(), &[]).unwrap_err().to_string();
    assert!(error.ends_with("the configuration excludes it (soft_prompt_tuning is not enabled)"), "{error}");
}

#[test]
fn replicas_that_were_trained_on_stretches_of_the_sequence_are_not_merged_where_they_differ() {
    let files = |gpt_j_residual: bool, drift: f64| {
        let files = tiny(|options| (options.gpt_j_residual, options.drift) = (gpt_j_residual, drift));
        set(&files, &[("sequence_parallel", json!(true))]);
        files
    };
    for gpt_j_residual in [true, false] {
        let drifted = files(gpt_j_residual, 0.02);
        let checkpoint = drifted.open();
        run(&checkpoint, &pairs(), &[Variant::baseline()]).unwrap();
        let error = run(&checkpoint, &pairs(), &variants(&["fold"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "strategy `fold`, layer 0: no exact merge exists: with sequence_parallel each replica of \
             `input_layernorm.weight` was trained on its own stretch of the sequence, and they differ: which one acts \
             depends on the position"
        );
        assert!(error.hint().unwrap().contains("--allow-inexact merges anyway"));
        let allowed = Strategy { allow_inexact: true, ..Strategy::resolve("fold").unwrap() };
        let evaluation = run(&checkpoint, &pairs(), &[Variant::baseline(), Variant::merged(allowed)]).unwrap();
        assert!(!evaluation.exactness[1].is_exact());
        let because = evaluation.exactness[1].because().join("\n");
        assert!(because.contains("with sequence_parallel each was trained on its own stretch"), "{because}");
        // Where they agree there is one model.
        let agreeing = files(gpt_j_residual, 0.0);
        let evaluation = run(&agreeing.open(), &pairs(), &variants(&["reduce-aware"])).unwrap();
        assert!(evaluation.exactness[1].is_exact(), "{:?}", evaluation.exactness[1].because());
    }
}
