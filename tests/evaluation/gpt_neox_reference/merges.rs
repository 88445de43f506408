//! Merges against gpt-neox's own numbers.

use super::*;

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn merging_replicas_that_agree_is_exact_where_biases_are_summed_and_costs_where_they_are_not() {
    let name = "one-file-per-rank-tp2";
    let strategies = ["reduce-aware", "fold", "merge20b", "zeroth", "mean"];
    let evaluation = run(&shared_checkpoint(name), &shared_reference(name), &variants(&strategies));
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
    let name = "sequential-residual-tied-tp2-drift";
    let variants = variants(&["merge20b", "reduce-aware", "fold"]);
    let evaluation = run(&trained_checkpoint(name), &trained_reference(name), &variants);
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

/// Folding is exact, and averaging replicas that drifted is not.
fn check_fold(name: &str, folder: &Path, reference: &Value) {
    let evaluation = run(folder, reference, &variants(&["fold", "reduce-aware"]));
    let [baseline, folded, averaged] = &evaluation.scores[..] else { unreachable!() };
    let worst = worst_difference(baseline, folded);
    assert!(worst < 2e-5, "{name}: log-likelihoods differ by {worst:e}");
    assert_eq!(flips(baseline, folded), 0, "{name}");
    assert!(evaluation.exactness[1].is_exact(), "{name}");
    // The replicas did drift: averaging them shows.
    assert!(worst_difference(baseline, averaged) > 1e-2, "{name}");
    assert!(!evaluation.exactness[2].is_exact(), "{name}");
}

#[test]
fn folding_loses_nothing_where_ranks_share_one_stream() {
    for name in ["llama-gqa-swiglu-tp2-drift", "parallel-residual-tied-norm-alibi-tp2-drift"] {
        check_fold(name, &trained_checkpoint(name), &trained_reference(name));
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn folding_loses_nothing_of_shared_checkpoints_whose_ranks_share_one_stream() {
    for name in ["parallel-residual-tp2-drift", "validation-logits-tp2-drift"] {
        check_fold(name, &shared_checkpoint(name), &shared_reference(name));
    }
}

/// Folding and summing are exact.
fn check_without_drift(name: &str, folder: &Path, reference: &Value) {
    let evaluation = run(folder, reference, &variants(&["fold", "reduce-aware"]));
    for (merged, exactness) in evaluation.scores[1..].iter().zip(&evaluation.exactness[1..]) {
        let worst = worst_difference(&evaluation.scores[0], merged);
        assert!(worst < 2e-5, "{name}: log-likelihoods differ by {worst:e}");
        assert!(exactness.is_exact(), "{name}: {:?}", exactness.because());
    }
}

#[test]
fn folding_and_summing_are_exact_where_replicas_never_drifted() {
    let name = "validation-logits-tp2";
    check_without_drift(name, &trained_checkpoint(name), &trained_reference(name));
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn folding_and_summing_are_exact_for_shared_checkpoints_whose_replicas_never_drifted() {
    for name in ["one-file-per-rank-tp2", "neox-v1.0-tp2-full-state"] {
        check_without_drift(name, &shared_checkpoint(name), &shared_reference(name));
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
}

/// Folding in float16 and bfloat16 leaves no more than averaging.
fn check_sixteen_bits(name: &str, step: &Path, reference: &Value) {
    for dtype in [DType::F16, DType::BF16] {
        let copy = tempfile::tempdir().unwrap();
        copy_folder(step, copy.path());
        for file in layer_files(copy.path()) {
            edit_layer_file(&file, |tensors| {
                for tensor in tensors.values_mut() {
                    let values = tensor.to_f64().unwrap();
                    *tensor = HostTensor::from_f64(dtype, tensor.shape().to_vec(), &values).unwrap();
                }
            });
        }
        let evaluation = run(copy.path(), reference, &variants(&["fold", "reduce-aware"]));
        let [_, folded, averaged] = &evaluation.scores[..] else { unreachable!() };
        let (folded, averaged) = (mean_kl(folded), mean_kl(averaged));
        assert!(folded <= averaged, "{name} in {dtype}: {folded:e} against {averaged:e}");
    }
}

#[test]
fn folding_in_sixteen_bits_leaves_no_more_than_averaging_in_either_format() {
    for (name, step) in [
        ("llama-gqa-swiglu-tp2-drift", "global_step1600"),
        ("parallel-residual-tied-norm-alibi-tp2-drift", "global_step400"),
    ] {
        check_sixteen_bits(name, &trained_checkpoint(name).join(step), &trained_reference(name));
    }
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn folding_shared_checkpoints_in_sixteen_bits_leaves_no_more_than_averaging() {
    check_half_precision(
        "parallel-residual-tp2-fp16-drift",
        &shared_checkpoint("parallel-residual-tp2-fp16-drift"),
        &shared_reference("parallel-residual-tp2-fp16-drift"),
    );
    for (name, step) in
        [("parallel-residual-tp2-drift", "global_step1600"), ("validation-logits-tp2-drift", "global_step400")]
    {
        check_sixteen_bits(name, &shared_checkpoint(name).join(step), &shared_reference(name));
    }
}

#[test]
fn a_model_that_no_merge_can_keep_is_merged_only_on_request() {
    let name = "qk-layernorm-tp2-refuse";
    let reference = trained_reference(name);
    let checkpoint = Checkpoint::open(&trained_checkpoint(name), &[]).unwrap();
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
