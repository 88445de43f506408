//! Single values: how they may be written, and what a bad one is told.

use super::*;

#[track_caller]
fn refused(changes: Value, expected: &str) {
    assert_eq!(with(changes).unwrap_err().to_string(), format!("a.yml: {expected}"));
}

#[test]
fn numbers_may_be_text_and_whole_floats() {
    let config = with(json!({
        "num_layers": "4", "hidden_size": 64.0, "num_attention_heads": " 4 ", "seq_length": "1e2",
        "make_vocab_size_divisible_by": "1_024", "layernorm_epsilon": "1e-5", "rms_norm_epsilon": 1,
        "scalenorm_epsilon": " 1E-6", "rotary_pct": "0.25", "rotary_emb_base": "1e4", "iteration": 1.5e5,
        "zero_optimization": { "stage": "1" },
    }))
    .unwrap();
    assert_eq!((config.num_layers, config.hidden_size, config.num_attention_heads), (4, 64, 4));
    assert_eq!((config.seq_length, config.make_vocab_size_divisible_by, config.zero_stage), (100, 1024, 1));
    let epsilons = (config.layernorm_epsilon, config.rms_norm_epsilon, config.scalenorm_epsilon);
    assert_eq!(epsilons, (1e-5, 1.0, 1e-6));
    assert_eq!((config.rotary_pct, config.rotary_emb_base, config.iteration), (0.25, 10_000.0, Some(150_000)));
}

#[test]
fn flags_may_be_words_and_digits() {
    for yes in [json!(true), json!("True"), json!("yes"), json!(" ON "), json!(1), json!(1.0), json!("1")] {
        assert!(with(json!({ "gpt_j_residual": yes })).unwrap().gpt_j_residual, "{yes}");
    }
    for no in [json!(false), json!("False"), json!("no"), json!("off"), json!(0), json!("0"), json!(null)] {
        assert!(!with(json!({ "gpt_j_residual": no })).unwrap().gpt_j_residual, "{no}");
    }
    for other in [json!(2), json!("maybe"), json!([]), json!({})] {
        let expected = format!("`gpt_j_residual` should be true or false, found {other}");
        refused(json!({ "gpt_j_residual": other }), &expected);
    }
}

#[test]
fn every_required_key_is_missed_by_name() {
    for key in ["num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"] {
        let mut map = small();
        map.shift_remove(key);
        let error = NeoxConfig::from_raw(map, Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), format!("configuration: key `{key}` is missing"));
        assert!(error.hint().unwrap().contains("global_stepN/configs"));
        assert_eq!(with(json!({ key: null })).unwrap_err().to_string(), format!("a.yml: key `{key}` is missing"));
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    let size = "should be a whole number from 1 to 2147483647, found";
    refused(json!({ "hidden_size": 0 }), &format!("`hidden_size` {size} 0"));
    refused(json!({ "hidden_size": -64 }), &format!("`hidden_size` {size} -64"));
    refused(json!({ "hidden_size": 64.5 }), &format!("`hidden_size` {size} 64.5"));
    refused(json!({ "hidden_size": "wide" }), &format!("`hidden_size` {size} \"wide\""));
    refused(json!({ "hidden_size": true }), &format!("`hidden_size` {size} true"));
    refused(json!({ "hidden_size": [64] }), &format!("`hidden_size` {size} [64]"));
    refused(json!({ "num_kv_heads": 0 }), &format!("`num_kv_heads` {size} 0"));
    refused(
        json!({ "model_parallel_size": -1 }),
        "`model_parallel_size` should be a whole number from 0 to 2147483647, found -1",
    );
    refused(json!({ "padded_vocab_size": 1u64 << 31 }), &format!("`padded_vocab_size` {size} 2147483648"));
    refused(json!({ "padded_vocab_size": 1e300 }), &format!("`padded_vocab_size` {size} 1e+300"));
    refused(
        json!({ "padded_vocab_size": "99999999999999999999" }),
        &format!("`padded_vocab_size` {size} \"99999999999999999999\""),
    );
    refused(
        json!({ "num_layers": 2_000_000_000 }),
        "`num_layers` should be a whole number from 1 to 100000, found 2000000000",
    );
    refused(
        json!({ "pipe_parallel_size": -1 }),
        "`pipe_parallel_size` should be a whole number from 0 to 2147483647, found -1",
    );
    refused(
        json!({ "zero_optimization": { "stage": 4 } }),
        "`zero_optimization.stage` should be a whole number from 0 to 3, found 4",
    );
    assert_eq!(with(json!({ "pipe_parallel_size": 0, "zero_stage": 3 })).unwrap().zero_stage, 3);
}

#[test]
fn numbers_out_of_range_are_refused() {
    refused(
        json!({ "layernorm_epsilon": -1e-5 }),
        "`layernorm_epsilon` should be a number of at least 0, found -0.00001",
    );
    refused(
        json!({ "layernorm_epsilon": "nan" }),
        "`layernorm_epsilon` should be a number of at least 0, found \"nan\"",
    );
    refused(json!({ "rms_norm_epsilon": "inf" }), "`rms_norm_epsilon` should be a number of at least 0, found \"inf\"");
    refused(json!({ "rotary_emb_base": 0 }), "`rotary_emb_base` should be a number above 0, found 0");
    refused(json!({ "expansion_factor": {} }), "`expansion_factor` should be a number above 0, found {}");
    refused(json!({ "rotary_pct": 1.5 }), "`rotary_pct` should be a number from 0 to 1, found 1.5");
    refused(json!({ "use_mup": true, "mup_attn_temp": 0 }), "`mup_attn_temp` should be a number above 0, found 0");
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    refused(json!({ "hidden_size": 66 }), "`hidden_size` should be a multiple of num_attention_heads (4), found 66");
    refused(json!({ "num_kv_heads": 3 }), "`num_attention_heads` should be a multiple of num_kv_heads (3), found 4");
    refused(
        json!({ "model_parallel_size": 3 }),
        "`num_attention_heads` should be a multiple of model_parallel_size (3), found 4",
    );
    refused(
        json!({ "model_parallel_size": 4, "num_kv_heads": 2 }),
        "`num_kv_heads` should be a multiple of model_parallel_size (4), found 2",
    );
    refused(
        json!({ "model_parallel_size": 2, "padded_vocab_size": 50_257 }),
        "`padded_vocab_size` should be a multiple of model_parallel_size (2), found 50257",
    );
    refused(json!({ "seq_length": 256 }), "`max_position_embeddings` should be at least seq_length (256), found 128");
    let rotary = "`rotary_pct` should be such that an even number of the 16 dimensions of a head is turned, found";
    refused(json!({ "pos_emb": "rotary", "rotary_pct": 0.2 }), &format!("{rotary} 0.2, which turns 3"));
    refused(json!({ "pos_emb": "rotary", "rotary_pct": 0 }), &format!("{rotary} 0, which turns 0"));
    assert_eq!(with(json!({ "rotary_pct": 0.2 })).unwrap().rotary_ndims(), 3);
}

#[test]
fn words_are_checked_against_the_list() {
    refused(
        json!({ "norm": "batchnorm" }),
        "`norm` should be one of layernorm, rmsnorm, non_parametric_layernorm, scalenorm, te_rmsnorm, te_layernorm, \
         found \"batchnorm\"",
    );
    refused(
        json!({ "pos_emb": "RoPE" }),
        "`pos_emb` should be one of learned, rotary, sinusoidal, rpe, alibi, none, found \"RoPE\"",
    );
    refused(
        json!({ "activation": 3 }),
        "`activation` should be one of gelu, geglu, relu, softsign, swish, mish, silu, reglu, swiglu, bilinear, glu, \
         found 3",
    );
    refused(
        json!({ "output_layer_parallelism": "both" }),
        "`output_layer_parallelism` should be one of column, row, found \"both\"",
    );
    refused(json!({ "precision": "int8" }), "`precision` should be one of fp16, bfloat16, fp32, found \"int8\"");
    refused(json!({ "mlp_type": "moe" }), "`mlp_type` should be one of regular, llama, gated, found \"moe\"");
    refused(json!({ "tokenizer_type": 5 }), "`tokenizer_type` should be text, found 5");
    refused(json!({ "fp16": true }), "`fp16` should be a mapping, found true");
    for word in ["non_parametric_layernorm", "scalenorm", "te_rmsnorm"] {
        assert_eq!(with(json!({ "norm": word })).unwrap().norm.to_string(), word);
    }
    let gated = ["geglu", "reglu", "swiglu", "bilinear", "glu"];
    for word in ["gelu", "relu", "softsign", "swish", "mish", "silu"].iter().chain(&gated) {
        let activation = with(json!({ "activation": word })).unwrap().activation;
        assert_eq!((activation.as_str(), activation.is_gated()), (*word, gated.contains(word)));
    }
}

#[test]
fn a_long_value_is_shortened_in_the_message() {
    let found = with(json!({ "norm": "é".repeat(5000) })).unwrap_err().to_string();
    assert!(found.ends_with("é…") && found.len() < 300, "{found}");
}

#[test]
fn precision_follows_gpt_neox() {
    for (changes, expected) in [
        (json!({}), Precision::Fp32),
        (json!({ "precision": "fp16" }), Precision::Fp16),
        (json!({ "precision": "bfloat16" }), Precision::Bf16),
        (json!({ "fp16": { "enabled": true } }), Precision::Fp16),
        (json!({ "fp16": { "fp16": true } }), Precision::Fp16),
        (json!({ "fp16": { "fp16": true, "enabled": false } }), Precision::Fp32),
        (json!({ "fp16": {} }), Precision::Fp32),
        (json!({ "fp16": { "enabled": true, "type": "bfloat16" } }), Precision::Bf16),
        (json!({ "bf16": { "enabled": true } }), Precision::Bf16),
        (json!({ "bf16": { "enabled": true }, "fp16": { "enabled": false } }), Precision::Bf16),
        (json!({ "precision": "bfloat16", "fp16": { "enabled": true } }), Precision::Bf16),
        (json!({ "precision": "fp16", "fp16": { "enabled": false } }), Precision::Fp16),
    ] {
        assert_eq!(with(changes.clone()).unwrap().precision, expected, "{changes}");
    }
    let conflict = json!({ "precision": "fp32", "fp16": { "enabled": true } });
    assert!(with(conflict.clone()).unwrap_err().hint().unwrap().contains("keep the one"));
    refused(conflict, "`precision` is fp32, but `fp16.enabled` is true");
    refused(
        json!({ "precision": "fp16", "bf16": { "enabled": true } }),
        "`precision` is fp16, but `bf16.enabled` is true",
    );
    refused(
        json!({ "fp16": { "enabled": true }, "bf16": { "enabled": true } }),
        "`fp16.enabled` is true, but `bf16.enabled` is true",
    );
}

#[test]
fn switches_that_exclude_or_imply_each_other() {
    let both = json!({ "onnx_safe": true, "bias_gelu_fusion": true });
    refused(both, "`onnx_safe` is true, but `bias_gelu_fusion` is true");
    assert!(with(json!({ "apply_query_key_layer_scaling": true })).unwrap().attention_softmax_in_fp32);
    assert!(!with(json!({ "soft_prompt_tuning": { "enabled": false } })).unwrap().soft_prompt_tuning);
    assert!(!with(json!({ "bias_gelu_fusion": true, "activation": "relu" })).unwrap().uses_tanh_gelu());
}

#[test]
fn attention_is_expanded_for_each_layer() {
    use AttentionKind::{Flash, Global, Local, Other};
    for (value, expected) in [
        (json!([[["flash"], 4]]), vec![Flash; 4]),
        (json!([[["local", "global"], 2]]), vec![Local, Global, Local, Global]),
        (json!([[["local", "global"], "all"]]), vec![Local, Global, Local, Global]),
        (json!([[["local"], 1], [["global"], 3]]), vec![Local, Global, Global, Global]),
        (json!([[["local"], 3], [["global"], "all"]]), vec![Global; 4]),
        (json!(["global", "flash", "hyena", "local"]), vec![Global, Flash, Other("hyena".to_owned()), Local]),
    ] {
        assert_eq!(with(json!({ "attention_config": value })).unwrap().attention, expected, "{value}");
    }
    for value in [
        json!([[["flash"], 3]]),
        json!([[["flash"], 5]]),
        json!([[["flash"], 4_000_000_000_000_u64]]),
        json!([[["flash", "local", "global"], "all"]]),
        json!(["flash"]),
        json!([]),
    ] {
        let expected = format!("`attention_config` should be one kind for each of num_layers (4), found {value}");
        refused(json!({ "attention_config": value }), &expected);
    }
    for value in
        [json!("flash"), json!([["flash", 4]]), json!([[["flash"]]]), json!([[["flash"], -1]]), json!([[[], "all"]])]
    {
        let expected =
            format!("`attention_config` should be a list of kinds or of [[kinds], count or \"all\"], found {value}");
        refused(json!({ "attention_config": value }), &expected);
    }
    for word in ["sparse_fixed", "sparse_variable", "bigbird", "bslongformer", "gmlp", "amlp", "mamba", "rwkv", "new"] {
        let kind = AttentionKind::from_word(word);
        assert_eq!((kind.to_string(), matches!(kind, Other(_))), (word.to_owned(), word == "new"));
    }
}
