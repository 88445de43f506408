//! Every setting makes the difference it should; merges of replicas that agree are the unmerged model.

use super::*;

#[test]
fn tying_inverted_is_the_other_tying() {
    let tied = |tied: bool| tiny(move |options| options.gpt_j_tied = tied);
    let (shared, own) = (scores(&tied(true)), scores(&tied(false)));
    assert_other(&shared, &own);
    assert_same(&scores_with(&tied(false), &["norm-tying=inverted"]), &shared);
    assert_same(&scores_with(&tied(true), &["norm-tying=inverted"]), &own);
    let fed = scores_with(&tied(false), &["mlp-norm-input=attention-norm"]);
    assert_other(&fed, &shared);
    assert_other(&fed, &own);
    // On the branch both read one norm, and biases count once.
    let branch = scores_with(&tied(false), &["reduction=per-branch"]);
    assert_other(&branch, &shared);
    let unbiased = |quirks: &[&str]| {
        let files = tiny(|options| {
            (options.attention_bias, options.mlp_bias) = (false, false);
            options.gpt_j_tied = true;
        });
        scores_with(&files, quirks)
    };
    assert_same(&unbiased(&["reduction=per-branch"]), &unbiased(&["attention-branch=kept"]));
}

#[test]
fn a_lost_attention_branch_makes_no_difference() {
    let files = tiny(|options| options.mlp_bias = false);
    let (lost, kept) = (scores(&files), scores_with(&files, &["attention-branch=kept"]));
    assert_other(&lost, &kept);
    for (stage, tp_rank) in LAYERS.flat_map(|stage| RANKS.map(move |tp_rank| (stage, tp_rank))) {
        edit_layer_file(&files.layer_file(stage, tp_rank), |tensors| {
            let shape = tensors["attention.dense.weight"].shape().to_vec();
            let ones = HostTensor::from_f64(DType::F32, shape.clone(), &vec![1.0; shape.iter().product()]).unwrap();
            tensors.insert("attention.dense.weight".to_owned(), ones);
        });
    }
    assert_same(&scores(&files), &lost);
    let warnings = open_with(files.path(), &[]).warnings();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("gpt-neox loses the attention branch since 2024-09-10"), "{warnings:?}");
    assert!(open_with(files.path(), &["attention-branch=kept"]).warnings().is_empty());
}

#[test]
fn the_epsilon_of_rmsnorm_stands_inside_or_outside() {
    let files = tiny(|options| options.norm = Norm::RmsNorm);
    set(&files, &[("rms_norm_epsilon", json!(0.5))]);
    let (inside, outside) = (scores(&files), scores_with(&files, &["rms-epsilon=outside"]));
    assert_other(&inside, &outside);
    rename(&files, LAYERS, &[("mlp.linear1", "mlp.dense_h_to_4h"), ("mlp.linear2", "mlp.dense_4h_to_h")]);
    assert_same(&scores(&files), &outside);
    assert_same(&scores_with(&files, &["rms-epsilon=inside"]), &inside);
}

#[test]
fn a_window_is_one_only_where_it_is_shorter_than_the_passage() {
    let flash = |settings: &[(&str, Value)]| {
        let files = tiny(|_| {});
        set(&files, &[("attention_config", json!([[["flash"], "all"]]))]);
        set(&files, settings);
        scores(&files)
    };
    let global = scores(&tiny(|_| {}));
    assert_same(&flash(&[]), &global);
    assert_same(&flash(&[("sliding_window_width", json!(64))]), &global);
    assert_other(&flash(&[("sliding_window_width", json!(3))]), &global);
    // Without flash attention gpt-neox does not look at it.
    let files = tiny(|_| {});
    set(&files, &[("sliding_window_width", json!(3))]);
    assert_same(&scores(&files), &global);
}

#[test]
fn layer_scaling_is_felt_by_relative_biases_alone() {
    let scaled = |positions, scaling: bool, kind: &str| {
        let files = TinyModel::new()
            .with(|options| {
                options.positions = positions;
                options.shape.layer_count = 3;
            })
            .write();
        set(
            &files,
            &[("apply_query_key_layer_scaling", json!(scaling)), ("attention_config", json!([[[kind], "all"]]))],
        );
        scores(&files)
    };
    assert_same(
        &scaled(PositionEmbedding::Rotary, true, "global"),
        &scaled(PositionEmbedding::Rotary, false, "global"),
    );
    // Flash attention is not given it.
    assert_same(&scaled(PositionEmbedding::Alibi, true, "flash"), &scaled(PositionEmbedding::Alibi, false, "global"));
    let difference = worst_difference(
        &scaled(PositionEmbedding::Alibi, true, "global"),
        &scaled(PositionEmbedding::Alibi, false, "global"),
    );
    assert!(difference > 1e-6, "off by {difference:e} only");
}

#[test]
fn multipliers_of_mup() {
    let files = tiny(|options| options.positions = PositionEmbedding::Learned);
    let plain = scores(&files);
    set(&files, &[("use_mup", json!(true))]);
    let one = scores_with(&files, &["mup-width=1"]);
    assert_other(&scores_with(&files, &["mup-width=4"]), &one);
    // Scores divided by the head size are all that is left at width 1.
    set(&files, &[("attention_config", json!([[["flash"], "all"]]))]);
    assert_same(&scores_with(&files, &["mup-width=1"]), &plain);
    set(&files, &[("mup_embedding_mult", json!(3))]);
    assert_other(&scores_with(&files, &["mup-width=1"]), &plain);
    set(&files, &[("use_mup", json!(false))]);
    assert_same(&scores(&files), &plain);
    set(&files, &[("mup_rp_embedding_mult", json!(3))]);
    assert_other(&scores(&files), &plain);
}

#[test]
fn every_norm_and_position_merges_without_loss_where_replicas_agree_and_folds_where_they_do_not() {
    use PositionEmbedding::{Absent, Alibi, Learned, RelativeBuckets, Rotary, Sinusoidal};
    let norms = [Norm::LayerNorm, Norm::RmsNorm, Norm::ScaleNorm, Norm::NonParametricLayerNorm];
    let mut count = 0;
    for norm in norms.into_iter().chain([Norm::TransformerEngineLayerNorm, Norm::TransformerEngineRmsNorm]) {
        for positions in [Rotary, Learned, Sinusoidal, Alibi, RelativeBuckets, Absent] {
            for gpt_j_residual in [true, false] {
                let files = |drift: f64| {
                    TinyModel::new()
                        .with(|options| {
                            (options.norm, options.positions, options.drift) = (norm, positions, drift);
                            options.gpt_j_residual = gpt_j_residual;
                        })
                        .write()
                };
                let place = format!("{norm}, {positions}, gpt_j_residual {gpt_j_residual}");
                let evaluation = evaluate_variants(&files(0.0).open(), &variants(&["reduce-aware", "fold"]));
                for (scores, exactness) in evaluation.scores[1..].iter().zip(&evaluation.exactness[1..]) {
                    assert!(exactness.is_exact(), "{place}: {:?}", exactness.because());
                    assert!(worst_difference(&evaluation.scores[0], scores) < 1e-5, "{place}");
                }
                let evaluation = evaluate_variants(&files(0.05).open(), &variants(&["fold", "mean"]));
                let exact = gpt_j_residual && positions != Learned;
                assert_eq!(
                    evaluation.exactness[1].is_exact(),
                    exact,
                    "{place}: {:?}",
                    evaluation.exactness[1].because()
                );
                if exact {
                    let worst = worst_difference(&evaluation.scores[0], &evaluation.scores[1]);
                    assert!(worst < 2e-5, "{place}: off by {worst:e}");
                }
                // Without gains, all that is left to lose is what folding loses too.
                let same_merge = norm == Norm::NonParametricLayerNorm && !gpt_j_residual;
                let (mean, folded) = (mean_kl(&evaluation.scores[2]), mean_kl(&evaluation.scores[1]));
                assert!(if same_merge { mean >= folded } else { mean > folded }, "{place}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 72);
}

#[test]
fn a_norm_without_parameters_may_leave_an_empty_file() {
    let bare = || tiny(|options| options.norm = Norm::NonParametricLayerNorm);
    let expected = scores(&bare());
    let files = bare();
    for tp_rank in RANKS {
        assert!(!files.layer_file(5, tp_rank).exists());
        save_tensors(&files.layer_file(5, tp_rank), std::iter::empty::<(&str, &HostTensor)>()).unwrap();
    }
    assert_same(&scores(&files), &expected);
}
