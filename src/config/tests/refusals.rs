//! What is refused, altogether or for evaluation alone, and the reason given.

use super::quirks::{NEW, OLD, none, resolve_on};
use super::*;

const ENGINE_ATTENTION: &[&str] = &["attention.qkv.weight"];
const ENGINE_MLP: &[&str] = &["mlp.fc1_weight"];

#[track_caller]
fn refused_on(tp_size: usize, settings: Value, names: &[&str], expected: &str) {
    let refusal = resolve_on(tp_size, settings, names, &none()).unwrap_err();
    assert_eq!(refusal.to_string(), expected);
    assert!(!refusal.needed.is_empty());
}

/// Read and merged, but not evaluated.
#[track_caller]
fn not_evaluated(settings: Value, names: &[&str], expected: &str) {
    let refusal = resolve_on(2, settings, names, &none()).unwrap().0.not_evaluated.unwrap();
    assert_eq!(refusal.to_string(), expected);
    assert!(!refusal.needed.is_empty());
}

#[track_caller]
fn refused(settings: Value, names: &[&str], expected: &str) {
    refused_on(2, settings, names, expected);
}

#[test]
fn models_that_are_no_plain_language_model() {
    not_evaluated(
        json!({ "train_impl": "rm" }),
        NEW,
        "train_impl: rm: a reward-model head returns one score, not the probabilities of tokens",
    );
    assert_eq!(resolve_on(2, json!({}), NEW, &none()).unwrap().0.not_evaluated, None);
    refused(json!({ "moe_num_experts": 8 }), NEW, "moe_num_experts: 8: routing tokens to experts is not implemented");
    refused(
        json!({ "apply_residual_connection_post_layernorm": true }),
        NEW,
        "apply_residual_connection_post_layernorm: true: a residual taken after the norm (until 2021-08) is not \
         implemented",
    );
}

#[test]
fn kinds_of_attention() {
    const GATED: &str = "the norm in its gate takes its statistics over one rank's channels, so no one-rank model equals \
                         it, and its forward pass is not implemented";
    const SPARSE: &str = "block-sparse attention is not implemented";
    for (kind, reason) in [
        ("gmlp", GATED),
        ("amlp", GATED),
        ("mamba", "state-space blocks are not implemented"),
        ("rwkv", "gpt-neox runs RWKV on one rank only: there is nothing to merge"),
        ("local", SPARSE),
        ("sparse_fixed", SPARSE),
        ("sparse_variable", SPARSE),
        ("bigbird", SPARSE),
        ("bslongformer", SPARSE),
        ("hyena", "a kind of attention that is not known here"),
    ] {
        let expected = format!("attention_config: {kind}: {reason}");
        refused(json!({ "attention_config": [[[kind], "all"]] }), NEW, &expected);
        // One layer of it is enough.
        refused(json!({ "attention_config": [[["global", "flash", "global", kind], 1]] }), NEW, &expected);
    }
}

#[test]
fn settings_that_gpt_neox_cannot_run_itself() {
    refused(
        json!({ "mlp_type": "llama", "activation": "swiglu" }),
        &["mlp.w1.weight"],
        "mlp_type: llama with activation: swiglu: w1, w2 and w3 take an activation of one input without bias",
    );
    refused(
        json!({ "mlp_type": "llama", "bias_gelu_fusion": true }),
        &["mlp.w1.weight"],
        "mlp_type: llama with activation: gelu with bias_gelu_fusion: w1, w2 and w3 take an activation of one input \
         without bias",
    );
    for norm in ["scalenorm", "te_layernorm", "te_rmsnorm"] {
        refused(
            json!({ "use_qk_layernorm": true, "norm": norm }),
            NEW,
            &format!(
                "use_qk_layernorm: true with norm: {norm}: what this norm does over heads and their elements is not \
                 established"
            ),
        );
    }
    refused(
        json!({ "use_qk_layernorm": true, "num_kv_heads": 2, "attention_config": [[["flash"], "all"]] }),
        NEW,
        "use_qk_layernorm: true with num_kv_heads and flash attention: gpt-neox itself fails: the norm is made for as many \
         heads as queries have",
    );
    refused(
        json!({ "num_attention_heads": 32, "num_kv_heads": 8 }),
        OLD,
        "num_kv_heads: 8 with gqa-layout interleaved: the heads of keys do not divide among the heads of queries, so \
         gpt-neox could not have run it",
    );
}

#[test]
fn transformer_engine_where_it_is_not_settled() {
    const UNSETTLED: &str = "what Transformer Engine computes then is not established";
    not_evaluated(
        json!({ "te_fp8_mha": true, "pos_emb": "rotary" }),
        ENGINE_ATTENTION,
        "te_fp8_mha: true: attention in 8-bit floats is not implemented",
    );
    for (settings, what) in [
        (json!({ "te_mha": true, "pos_emb": "rotary", "num_kv_heads": 2 }), "with num_kv_heads"),
        (json!({ "te_mha": true, "pos_emb": "rotary", "use_qk_layernorm": true }), "with use_qk_layernorm"),
    ] {
        refused(settings, ENGINE_ATTENTION, &format!("te_mha {what}: {UNSETTLED}"));
    }
    for (settings, what) in [
        (json!({ "te_mha": true }), "without rotary positions"),
        (json!({ "te_mha": true, "pos_emb": "rotary", "sliding_window_width": 8 }), "with sliding_window_width"),
    ] {
        not_evaluated(settings, ENGINE_ATTENTION, &format!("te_mha {what}: {UNSETTLED}"));
    }
    refused(
        json!({ "activation": "mish" }),
        ENGINE_MLP,
        "te_layernorm_mlp with activation: mish: Transformer Engine has no such activation",
    );
    refused(
        json!({ "norm": "scalenorm" }),
        ENGINE_MLP,
        "te_layernorm_mlp with norm: scalenorm: Transformer Engine has layernorm and rmsnorm only",
    );
}

#[test]
fn what_transformer_engine_reduces_twice() {
    const TWICE: &str = "Transformer Engine reduces inside the module and gpt-neox once more after it, so that branch \
                         counts once per rank; whether a checkpoint was trained so is not recorded";
    let parallel = || json!({ "gpt_j_residual": true });
    let expected = |module: &str, ranks: usize| format!("{module} with gpt_j_residual on {ranks} ranks: {TWICE}");
    refused_on(2, parallel(), ENGINE_ATTENTION, &expected("te_mha", 2));
    refused_on(4, parallel(), ENGINE_MLP, &expected("te_layernorm_mlp", 4));
    let linear = json!({ "gpt_j_residual": true, "te_rowparallel": true, "pos_emb": "rotary" });
    refused_on(8, linear.clone(), NEW, &expected("te_rowparallel", 8));
    // On one rank nothing is reduced.
    assert!(resolve_on(1, linear, &["attention.qkv.weight", "mlp.fc1_weight"], &none()).is_ok());
}

#[test]
fn maximal_update_parametrisation_of_unknown_width() {
    not_evaluated(
        json!({ "use_mup": true }),
        NEW,
        "use_mup: true: the logits are divided by the model's width in units of the base shape, which is in the \
         base-shapes file of the training run only",
    );
    for temperature in ["mup_attn_temp", "mup_output_temp"] {
        not_evaluated(
            json!({ "use_mup": true, temperature: 2 }),
            NEW,
            "use_mup: true with mup_attn_temp or mup_output_temp: whether the temperatures act depends on gpt-neox's \
             version, which is not recorded",
        );
    }
}

#[test]
fn only_a_norm_over_the_heads_of_a_rank_has_no_exact_merge() {
    let (architecture, _) = resolve_on(2, json!({ "use_qk_layernorm": true }), NEW, &none()).unwrap();
    assert!(architecture.never_exact().unwrap().contains("over the heads of one rank"));
    // An rmsnorm takes them over the elements of each head.
    let by_head = json!({ "use_qk_layernorm": true, "norm": "rmsnorm" });
    assert_eq!(resolve_on(2, by_head, NEW, &none()).unwrap().0.never_exact(), None);
    assert_eq!(resolve_on(2, json!({}), NEW, &none()).unwrap().0.never_exact(), None);
}
