//! What is decided about gpt-neox's versions, and by what.

use super::*;

/// The architecture and quirks of a checkpoint whose layers hold these tensors, on `tp_size` ranks.
pub(super) fn resolve_on(
    tp_size: usize,
    settings: Value,
    names: &[&str],
    options: &QuirkOptions,
) -> Result<(Architecture, Quirks), Unsupported> {
    let observed = Observed {
        tp_size,
        mlp_inner_size: Some(256),
        padded_vocab_size: Some(128),
        layer_tensors: names.iter().map(|&name| name.to_owned()).collect(),
        ..Observed::default()
    };
    Architecture::resolve_with(&with(settings).unwrap(), &observed, options)
}

fn resolve(settings: Value, names: &[&str], options: &QuirkOptions) -> (Architecture, Quirks) {
    resolve_on(2, settings, names, options).unwrap()
}

fn era(name: &str) -> QuirkOptions {
    QuirkOptions { era: Some(name.parse().unwrap()), settings: Vec::new() }
}

fn quirk(settings: &[&str]) -> QuirkOptions {
    QuirkOptions { era: None, settings: settings.iter().map(|setting| setting.parse().unwrap()).collect() }
}

pub(super) fn none() -> QuirkOptions {
    QuirkOptions::default()
}

/// `name=value (why)` of every quirk that matters.
fn mattering(quirks: &Quirks) -> Vec<String> {
    let lines = quirks.list().into_iter().filter(|line| line.matters);
    lines.map(|line| format!("{}={} ({})", line.name, line.value, line.why)).collect()
}

pub(super) const OLD: &[&str] = &["mlp.dense_h_to_4h.weight"];
pub(super) const NEW: &[&str] = &["mlp.linear1.weight"];

#[test]
fn eras_are_dates_or_names() {
    let parse = |text: &str| text.parse::<Era>();
    assert_eq!(parse("2022-12-10").unwrap().date.to_string(), "2022-12-10");
    assert_eq!(parse("tied-inverted").unwrap().date.to_string(), "2022-12-10");
    for (name, date, _) in &era::NAMED {
        assert_eq!(parse(name).unwrap(), Era { name: (*name).to_owned(), date: *date });
    }
    for wrong in ["", "yesterday", "2022", "2022-13-01", "2022-12-32", "2022-12-10-1", "1999-01-01", "2022-00-01"] {
        let error = parse(wrong).unwrap_err();
        assert!(error.starts_with(&format!("`{wrong}`: expected a date such as 2022-12-10 or one of branch-2021, ")));
    }
}

#[test]
fn a_quirk_is_one_of_its_words() {
    let problem = |text: &str| text.parse::<QuirkSetting>().unwrap_err();
    assert_eq!(problem("norm-tying"), "expected NAME=VALUE");
    assert_eq!(
        problem("tying=inverted"),
        "no quirk `tying`; there are reduction, mlp-norm-input, norm-tying, attention-branch, rotary-tables, mask-value, \
         rms-epsilon, gqa-layout, mup-width"
    );
    assert_eq!(problem("norm-tying=yes"), "`yes`: norm-tying is one of as-configured, inverted");
    for wrong in ["0", "-2", "wide", "inf"] {
        assert_eq!(problem(&format!("mup-width={wrong}")), format!("`{wrong}`: mup-width is a number above 0"));
    }
}

#[test]
fn nothing_known_means_today() {
    let (architecture, quirks) = resolve(json!({ "gpt_j_residual": true }), NEW, &none());
    assert_eq!((architecture.residual, architecture.mlp_input), (Residual::Parallel, MlpInput::OwnNorm));
    assert_eq!(
        mattering(&quirks),
        ["reduction=shared (default)", "mlp-norm-input=residual (default)", "norm-tying=as-configured (default)"]
    );
}

#[test]
fn the_residual_of_every_era() {
    let of = |settings: Value, options: &QuirkOptions| {
        let (architecture, _) = resolve(settings, &[], options);
        (architecture.residual, architecture.mlp_input)
    };
    let (parallel, apart) = (Residual::Parallel, Residual::ParallelReducedApart);
    let untied = || json!({ "gpt_j_residual": true });
    let tied = || json!({ "gpt_j_residual": true, "gpt_j_tied": true });
    // One shared norm, two reductions, whatever the configuration says about tying.
    assert_eq!(of(untied(), &era("2021-09-28")), (apart, MlpInput::AttentionNorm));
    assert_eq!(of(tied(), &era("branch-2021")), (apart, MlpInput::AttentionNorm));
    assert_eq!(of(untied(), &quirk(&["reduction=per-branch"])), (apart, MlpInput::AttentionNorm));
    for day in ["2021-09-29", "2021-10-19", "norm-of-norm"] {
        assert_eq!(of(untied(), &era(day)), (parallel, MlpInput::NormOfAttentionNorm), "{day}");
    }
    for day in ["2021-10-20", "2022-12-05", "2022-12-27", "2023-01-15", "20b", "pythia", "head"] {
        assert_eq!(of(untied(), &era(day)), (parallel, MlpInput::OwnNorm), "{day}");
        assert_eq!(of(tied(), &era(day)), (parallel, MlpInput::AttentionNorm), "{day}");
    }
    for day in ["2022-12-06", "2022-12-26", "tied-inverted"] {
        assert_eq!(of(untied(), &era(day)), (parallel, MlpInput::AttentionNorm), "{day}");
        assert_eq!(of(tied(), &era(day)), (parallel, MlpInput::OwnNorm), "{day}");
    }
    // Without a parallel residual nothing of it matters.
    let sequential = (Residual::Sequential, MlpInput::OwnNorm);
    for day in ["branch-2021", "norm-of-norm", "tied-inverted", "head"] {
        assert_eq!(of(json!({ "gpt_j_tied": true }), &era(day)), sequential, "{day}");
    }
    assert_eq!(of(untied(), &quirk(&["norm-tying=inverted"])), (parallel, MlpInput::AttentionNorm));
    assert_eq!(of(untied(), &quirk(&["mlp-norm-input=attention-norm"])), (parallel, MlpInput::NormOfAttentionNorm));
}

#[test]
fn the_attention_branch_is_lost_where_gpt_neox_loses_it() {
    let bias_free = || json!({ "gpt_j_residual": true, "use_bias_in_mlp": false });
    let lost =
        |settings: Value, names: &[&str], options: &QuirkOptions| resolve(settings, names, options).0.attention_dropped;
    assert!(lost(bias_free(), NEW, &none()));
    assert!(!lost(bias_free(), OLD, &none()));
    assert!(!lost(bias_free(), NEW, &quirk(&["attention-branch=kept"])));
    assert!(lost(bias_free(), OLD, &quirk(&["attention-branch=dropped"])));
    assert!(!lost(bias_free(), &[], &era("2024-09-09")));
    assert!(lost(bias_free(), &[], &era("2024-09-10")));
    // With biases, or one residual after the other, nothing is lost.
    assert!(!lost(json!({ "gpt_j_residual": true }), NEW, &none()));
    assert!(!lost(json!({ "use_bias_in_mlp": false }), NEW, &none()));
    let (_, quirks) = resolve(bias_free(), NEW, &none());
    let why = "attention-branch=dropped (from the files: the MLP has the names it has since 2024-09)";
    assert!(mattering(&quirks).iter().any(|line| line == why), "{:?}", mattering(&quirks));
}

#[test]
fn rmsnorm_and_grouped_queries_are_dated_by_the_names_of_the_mlp() {
    let llama = || json!({ "norm": "rmsnorm", "num_kv_heads": 2 });
    let of = |names: &[&str], options: &QuirkOptions| {
        let (architecture, quirks) = resolve(llama(), names, options);
        (architecture.rms_epsilon, architecture.qkv, mattering(&quirks))
    };
    let (inside, outside) = (EpsilonPlacement::Inside, EpsilonPlacement::Outside);
    let old = "from the files: the MLP has the names it had until 2024-09";
    let lines = |layout: &str, epsilon: &str, why: &str| {
        vec![format!("gqa-layout={layout} ({why})"), format!("rms-epsilon={epsilon} ({why})")]
    };
    for names in [OLD, &["mlp.w1.weight"]] {
        let expected = (outside, QkvLayout::InterleavedGroups, lines("interleaved", "outside", old));
        assert_eq!(of(names, &none()), expected);
        // The files know better than the era.
        assert_eq!(of(names, &era("head")), expected);
    }
    assert_eq!(of(NEW, &none()), (inside, QkvLayout::Blocks, lines("blocks", "inside", "default")));
    let (epsilon, layout, why) = of(NEW, &era("2024-11-13"));
    assert_eq!((epsilon, layout), (outside, QkvLayout::InterleavedGroups));
    assert_eq!(why, lines("interleaved", "outside", "--era 2024-11-13"));
    assert_eq!(of(NEW, &era("2024-11-14")).1, QkvLayout::Blocks);
    assert_eq!(of(NEW, &era("2025-05-08")).0, outside);
    assert_eq!(of(NEW, &era("2025-05-09")).0, inside);
    // What was asked for knows best; the last word counts.
    let asked = quirk(&["gqa-layout=interleaved", "rms-epsilon=outside", "gqa-layout=blocks", "rms-epsilon=inside"]);
    assert_eq!(of(OLD, &asked), (inside, QkvLayout::Blocks, lines("blocks", "inside", "--quirk")));
    // Transformer Engine's own has it under the root always.
    let (architecture, quirks) = resolve(json!({ "norm": "te_rmsnorm" }), OLD, &none());
    assert_eq!(architecture.rms_epsilon, inside);
    assert_eq!(mattering(&quirks), ["rms-epsilon=inside (from the configuration: te_rmsnorm)"]);
}

#[test]
fn what_merge_wrote_comes_before_names_and_eras() {
    let stated = |settings: &[&str]| Observed { stated: quirk(settings).settings, ..Observed::default() };
    let config = with(json!({ "norm": "rmsnorm", "num_attention_heads": 8, "num_kv_heads": 4 })).unwrap();
    let observed = Observed {
        layer_tensors: OLD.iter().map(|&name| name.to_owned()).collect(),
        ..stated(&["gqa-layout=blocks", "rms-epsilon=inside"])
    };
    let why = "from the files: kintsugi merge wrote them so";
    let lines = |options: &QuirkOptions| mattering(&Quirks::decide(&config, &observed, options));
    for options in [none(), era("2021-01-01")] {
        assert_eq!(lines(&options), [format!("gqa-layout=blocks ({why})"), format!("rms-epsilon=inside ({why})")]);
    }
    assert_eq!(lines(&quirk(&["rms-epsilon=outside"]))[1], "rms-epsilon=outside (--quirk)");
    let fused = with(json!({ "norm": "rmsnorm", "rmsnorm_fusion": true })).unwrap();
    let quirks = Quirks::decide(&fused, &stated(&["rms-epsilon=outside"]), &none());
    assert_eq!(mattering(&quirks), [format!("rms-epsilon=outside ({why})")]);
    let config = with(json!({ "use_mup": true })).unwrap();
    let quirks = Quirks::decide(&config, &stated(&["mup-width=2"]), &none());
    assert_eq!(mattering(&quirks), [format!("mup-width=2 ({why})")]);
    Architecture::check_settings(&config, &stated(&["mup-width=2"]), &none()).unwrap();
}

#[test]
fn rotary_tables_matter_in_half_precision_only() {
    let of = |settings: Value, names: &[&str], options: &QuirkOptions| {
        let (architecture, quirks) = resolve(settings, names, options);
        (architecture.rotary_tables, mattering(&quirks))
    };
    let half = || json!({ "pos_emb": "rotary", "fp16": { "enabled": true } });
    let line = |value: &str, why: &str| vec![format!("rotary-tables={value} ({why})")];
    assert_eq!(of(half(), NEW, &none()), (RotaryTables::Float32, line("float32", "default")));
    assert_eq!(of(half(), NEW, &era("20b")), (RotaryTables::Storage, line("storage", "--era 20b")));
    assert_eq!(of(half(), NEW, &era("2023-09-24")).0, RotaryTables::Storage);
    assert_eq!(of(half(), NEW, &era("2023-09-25")).0, RotaryTables::Float32);
    assert_eq!(of(json!({ "pos_emb": "rotary" }), NEW, &none()), (RotaryTables::Float32, Vec::new()));
    let engine = "from the files: the attention is Transformer Engine's";
    let found = of(half(), &["attention.qkv.weight", "mlp.linear1.weight"], &none());
    assert_eq!(found, (RotaryTables::RoundedAngles, line("rounded-angles", engine)));
}

#[test]
fn masks_differ_without_a_difference() {
    let line = |options: &QuirkOptions| {
        let (_, quirks) = resolve(json!({}), NEW, options);
        quirks.list().into_iter().find(|line| line.name == "mask-value").unwrap()
    };
    assert_eq!(line(&none()).value, "smallest");
    assert_eq!(line(&era("2023-06-04")).value, "minus-10000");
    assert_eq!(line(&era("2023-06-05")).value, "smallest");
    assert!(!line(&era("2021-01-01")).matters);
}

#[test]
fn transformer_engines_modules_have_epsilons_biases_and_activations_of_their_own() {
    let settings =
        json!({ "norm": "rmsnorm", "rms_norm_epsilon": 0.1, "activation": "geglu", "use_bias_in_mlp": false });
    let (architecture, _) = resolve(settings, &["mlp.fc1_weight"], &none());
    assert_eq!(architecture.mlp_matrices, MlpMatrices::TransformerEngine);
    assert_eq!((architecture.norm_form().epsilon, architecture.mlp_norm_form().epsilon), (0.1, 1e-8));
    assert!(architecture.mlp_bias && architecture.tanh_gelu);
    let (architecture, _) = resolve(json!({ "layernorm_epsilon": 0.1 }), &["mlp.fc1_weight"], &none());
    assert_eq!((architecture.norm_form().epsilon, architecture.mlp_norm_form().epsilon), (0.1, 1e-5));
    let settings = json!({ "pos_emb": "rotary", "use_bias_in_attn_linear": false });
    assert!(resolve(settings, &["attention.qkv.weight"], &none()).0.qkv_bias);
}

#[test]
fn maximal_update_parametrisation_needs_the_width() {
    let settings = json!({ "use_mup": true, "mup_embedding_mult": 3, "mup_rp_embedding_mult": 0.5 });
    let (architecture, quirks) = resolve(settings, NEW, &quirk(&["mup-width=4"]));
    let expected = Multipliers { embedding: 3.0, positions: 0.5, logit_divisor: 4.0, scores_by_head_size: true };
    assert_eq!(architecture.multipliers, expected);
    assert_eq!(mattering(&quirks), ["mup-width=4 (--quirk)"]);
    // gpt-neox multiplies positions by theirs without mup too.
    let (architecture, _) = resolve(json!({ "mup_rp_embedding_mult": 0.5 }), NEW, &none());
    assert_eq!(architecture.multipliers, Multipliers { positions: 0.5, ..Multipliers::NONE });
}

#[test]
fn slopes_are_those_of_gpt_neox() {
    let fixtures = include_str!("../../../tests/fixtures/positions/positions.json");
    let fixtures: Value = serde_json::from_str(fixtures).unwrap();
    for case in fixtures["slopes"].as_array().unwrap() {
        let heads = case["heads"].as_u64().unwrap();
        let settings = json!({ "hidden_size": heads * 4, "num_attention_heads": heads, "pos_emb": "alibi" });
        let (architecture, _) = resolve_on(1, settings, NEW, &none()).unwrap();
        let expected: Vec<f64> = case["of"].as_array().unwrap().iter().map(|slope| slope.as_f64().unwrap()).collect();
        let found = architecture.alibi_slopes();
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-15, "{heads} heads: off by {worst:e}");
    }
}

#[test]
fn either_mask_leaves_a_later_token_no_probability() {
    // exp(−10000 − largest) is 0 in float32 and float64 for any score that a model has, as exp(smallest − largest) is.
    for largest in [-500.0_f64, 0.0, 500.0] {
        assert_eq!((-10_000.0 - largest).exp().to_bits(), 0.0_f64.to_bits());
        assert_eq!((f64::from(f32::MIN) - largest).exp().to_bits(), 0.0_f64.to_bits());
    }
    let decided = |date: &str| resolve(json!({}), NEW, &era(date)).1.mask_value.value;
    assert_eq!([decided("2023-06-04"), decided("2023-06-05")], [MaskValue::MinusTenThousand, MaskValue::Smallest]);
}
