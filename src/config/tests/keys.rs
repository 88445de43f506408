//! The keys and values that gpt-neox and known forks of it have had.

use super::*;
use crate::config::keys::{Effect, known};

/// The smallest configuration with some keys replaced, its raw keys aside.
fn settings_of(changes: Value) -> NeoxConfig {
    NeoxConfig { raw: Map::new(), ..with(changes).unwrap() }
}

fn two_ranks() -> Observed {
    Observed { tp_size: 2, ..Observed::default() }
}

fn refusal(changes: Value) -> Option<String> {
    let config = with(changes).unwrap();
    Architecture::check_settings(&config, &two_ranks(), &QuirkOptions::default())
        .err()
        .map(|refusal| refusal.to_string())
}

#[test]
fn every_key_of_gpt_neox_is_known() {
    let of_neox = known().filter(|(_, key)| key.of == "gpt-neox").count();
    assert_eq!(of_neox, 353);
    // Some of every version.
    for key in ["sparsity", "geglu", "save_interval", "gas", "mlp_type", "moe_type", "te_fp8_format", "rmsnorm_fusion"]
    {
        assert!(known().any(|(name, _)| name == key), "{key}");
    }
}

#[test]
fn keys_that_are_called_irrelevant_change_nothing() {
    let plain = settings_of(json!({}));
    for (name, key) in known().filter(|(_, key)| key.effect == Effect::Irrelevant) {
        for value in [json!(true), json!({ "no": ["such", 1] }), json!("text"), json!(3)] {
            let config = with(json!({ name: value })).unwrap();
            assert!(config.unknown_keys().is_empty(), "{name}");
            assert_eq!(NeoxConfig { raw: Map::new(), ..config }, plain, "{name} of {}: {value}", key.of);
            assert_eq!(refusal(json!({ name: value })), None, "{name}");
        }
    }
}

#[test]
fn keys_that_are_called_read_are_read() {
    for (name, _) in known().filter(|(_, key)| key.effect == Effect::Read) {
        let wrong = [json!(["neither", { "this": 1 }]), json!({ "stage": "nor", "enabled": "that" })];
        let read = wrong.into_iter().any(|value| with(json!({ "use_mup": true, name: value })).is_err());
        assert!(read, "{name}");
    }
}

#[test]
fn settings_that_make_another_model_are_refused() {
    for (settings, expected) in [
        (
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            "rope_scaling: {\"type\":\"linear\",\"factor\":2.0}",
        ),
        (json!({ "rotary_scaling_factor": 2 }), "rotary_scaling_factor: 2"),
        (json!({ "rotary_interleaved": true }), "rotary_interleaved: true"),
        (json!({ "sparsity": "interspersed" }), "sparsity: interspersed"),
        (json!({ "sparsity": "all" }), "sparsity: all"),
        (json!({ "attention_head_type": "multiquery" }), "attention_head_type: multiquery"),
        (json!({ "pre_mlp_norm": "no" }), "pre_mlp_norm: no"),
        (json!({ "num_key_value_heads": 2 }), "num_key_value_heads: 2"),
        (json!({ "head_dim": 128 }), "head_dim: 128"),
        (json!({ "final_norm": "rmsnorm" }), "final_norm: rmsnorm"),
        (json!({ "moe_num_experts": 1, "moe_lora_experts": 16 }), "moe_lora_experts: 16"),
        (json!({ "qk_norm": true }), "qk_norm: true"),
        (json!({ "norm_placement": "post" }), "norm_placement: post"),
        (json!({ "postnorm": "yes" }), "postnorm: yes"),
        (json!({ "use_separate_qk_norms": 1 }), "use_separate_qk_norms: 1"),
        (json!({ "adapter_config": { "enabled": true, "downsample_factor": 4 } }), "adapter_config: {"),
        // There it is enabled unless it says otherwise.
        (json!({ "adapter_config": {} }), "adapter_config: {}"),
        (
            json!({ "attention_config": [[["flash_triton"], "all"]], "pos_emb": "alibi" }),
            "attention_config: flash_triton with pos_emb: alibi",
        ),
        (json!({ "mlp_type": "gated" }), "mlp_type: gated"),
    ] {
        let refusal = refusal(settings).unwrap();
        assert!(refusal.starts_with(expected) && refusal.ends_with("not implemented"), "{refusal}");
    }
    // As good as absent.
    for settings in [
        json!({ "rope_scaling": null }),
        json!({ "rope_scaling": { "type": "default" } }),
        json!({ "rope_scaling": { "type": "linear", "factor": 1.0 } }),
        json!({ "rotary_scaling_factor": 1.0, "rotary_interleaved": false, "qk_norm": "False" }),
        json!({ "sparsity": "none", "attention_head_type": "multihead", "norm_placement": "pre" }),
        json!({ "adapter_config": { "enabled": false, "downsample_factor": 4 } }),
        json!({ "attention_head_type": "groupedquery", "num_kv_heads": 2 }),
        json!({ "pre_mlp_norm": true, "prenorm": "True", "proj_groups": 1, "moe_lora_experts": 0 }),
        json!({ "head_dim": 16, "num_key_value_heads": 4, "final_norm": "layernorm" }),
    ] {
        assert_eq!(refusal(settings.clone()), None, "{settings}");
    }
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    for (unknown, meant) in [
        ("rotary_percent", Some("rotary_pct")),
        ("gpt_j_residul", Some("gpt_j_residual")),
        ("no_weight_tieing", Some("no_weight_tying")),
        ("number_of_kv_heads", None),
        ("layer_norm_epsilon", Some("layernorm_epsilon")),
        ("xyz", None),
    ] {
        let warnings = with(json!({ unknown: 1 })).unwrap().unknown_keys();
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        assert_eq!(warnings, [format!("`{unknown}` is not a setting of gpt-neox and is not read{hint}")]);
    }
    // Its place, and a key that is given already is not suggested.
    let directory = tempfile::tempdir().unwrap();
    let text = "{\n\"num-layers\": 4, \"hidden-size\": 64, \"num-attention-heads\": 4, \"max-position-embeddings\": 8,\n\"rotary-pct\": 1,\n\"rotary-percent\": 0.5}";
    let config = NeoxConfig::from_files(&[write(directory.path(), "a.yml", text)]).unwrap();
    let warning = config.unknown_keys().remove(0);
    assert!(warning.starts_with("`rotary_percent` (") && warning.contains("a.yml:4)"), "{warning}");
    assert!(!warning.contains("rotary_pct"), "{warning}");
}

#[test]
fn values_of_older_versions_are_read_as_what_they_were() {
    assert_eq!(settings_of(json!({ "norm": "apexlayernorm" })), settings_of(json!({ "norm": "layernorm" })));
    let fused = settings_of(json!({ "norm": "rmsnorm", "rmsnorm_fusion": true }));
    assert_eq!(settings_of(json!({ "norm": "apexrmsnorm" })), fused);
    assert_eq!(settings_of(json!({ "norm": "llamarmsnorm" })), fused);
    let kinds = |word: &str| settings_of(json!({ "attention_config": [[[word], "all"]] }));
    assert_eq!(kinds("flash_triton"), kinds("flash"));
    assert!(refusal(json!({ "attention_config": [[["ringX1"], "all"]] })).unwrap().ends_with("not known here"));
    // gpt-neox takes 0 for 1.
    assert_eq!(settings_of(json!({ "model_parallel_size": 0 })), settings_of(json!({ "model_parallel_size": 1 })));
    assert_eq!(settings_of(json!({ "openai_gelu": true })), settings_of(json!({ "bias_gelu_fusion": true })));
    assert_eq!(settings_of(json!({ "geglu": true })), settings_of(json!({ "activation": "geglu" })));
    assert_eq!(settings_of(json!({ "geglu": false, "openai_gelu": false })), settings_of(json!({})));
    assert_eq!(settings_of(json!({ "num_experts": 1 })), settings_of(json!({ "moe_num_experts": 1 })));
    assert!(refusal(json!({ "num_experts": 4 })).unwrap().starts_with("moe_num_experts: 4"));
    let conflict = with(json!({ "geglu": true, "activation": "relu" })).unwrap_err().to_string();
    assert_eq!(conflict, "a.yml: `geglu` is true, but `activation` is relu");
    // DeepSpeed's autotuning takes several stages.
    for settings in [json!({ "zero_stage": "all" }), json!({ "zero_optimization": { "stage": [0, 1, 2, 3] } })] {
        assert_eq!(with(settings).unwrap().zero_stage, 0);
    }
}

/// Every value that gpt-neox's types allow, from the first version that had it.
#[test]
fn every_value_that_gpt_neox_allowed_is_read_or_refused_as_a_model() {
    for (key, values) in [
        ("norm", "layernorm rmsnorm scalenorm apexlayernorm te_rmsnorm te_layernorm non_parametric_layernorm"),
        ("activation", "gelu geglu relu softsign swish mish silu reglu swiglu bilinear glu"),
        ("pos_emb", "learned rotary sinusoidal rpe alibi none"),
        ("output_layer_parallelism", "row column"),
        ("precision", "fp16 fp32 bfloat16"),
        ("mlp_type", "regular llama"),
        ("train_impl", "normal dpo rm kto reinforce"),
        (
            "tokenizer_type",
            "GPT2BPETokenizer HFTokenizer HFGPT2Tokenizer SPMTokenizer CharLevelTokenizer TiktokenTokenizer",
        ),
        ("sparsity", "none"),
        ("attention_config", "global flash"),
    ] {
        for value in values.split(' ') {
            let value = if key == "attention_config" { json!([[[value], "all"]]) } else { json!(value) };
            let config = with(
                json!({ key: value, "activation": if key == "activation" { value.clone() } else { json!("silu") } }),
            );
            let config = config.unwrap_or_else(|error| panic!("{key} {value}: {error}"));
            assert!(config.unknown_keys().is_empty());
            let refused = Architecture::check_settings(&config, &two_ranks(), &QuirkOptions::default());
            assert_eq!(refused, Ok(()), "{key}: {value}");
        }
    }
}

#[test]
fn the_refusal_of_a_kind_of_model_comes_before_its_sizes() {
    for (settings, expected) in [
        // gpt-neox's configs/mamba have 12 heads whatever the hidden size.
        (
            json!({ "attention_config": [[["mamba"], "all"]], "num_attention_heads": 12, "hidden_size": 20 }),
            "attention_config: mamba",
        ),
        (json!({ "attention_config": [[["rwkv"], "all"]], "num_attention_heads": 12 }), "attention_config: rwkv"),
        (json!({ "attention_config": [[["gmlp"], "all"]], "model_parallel_size": 3 }), "attention_config: gmlp"),
        (json!({ "moe_num_experts": 8, "seq_length": 4096 }), "moe_num_experts: 8"),
        (json!({ "qk_norm": true, "num_kv_heads": 3 }), "qk_norm: true"),
    ] {
        let refusal = refusal(settings).unwrap();
        assert!(refusal.starts_with(expected), "{refusal}");
    }
}

#[test]
fn a_fused_rmsnorm_adds_its_epsilon_inside_the_root() {
    use super::quirks::{NEW, OLD, none, resolve_on};
    let fused = json!({ "norm": "rmsnorm", "rmsnorm_fusion": true });
    let placement =
        |options: &QuirkOptions, names: &[&str]| resolve_on(2, fused.clone(), names, options).unwrap().0.rms_epsilon;
    let options = |settings: &[&str], era: Option<&str>| QuirkOptions {
        era: era.map(|era| era.parse().unwrap()),
        settings: settings.iter().map(|setting| setting.parse().unwrap()).collect(),
    };
    assert_eq!(placement(&none(), NEW), EpsilonPlacement::Inside);
    assert_eq!(placement(&none(), OLD), EpsilonPlacement::Inside);
    assert_eq!(placement(&options(&[], Some("2024-10-01")), NEW), EpsilonPlacement::Inside);
    assert_eq!(placement(&options(&["rms-epsilon=outside"], None), NEW), EpsilonPlacement::Outside);
    let plain = resolve_on(2, json!({ "norm": "rmsnorm" }), NEW, &options(&[], Some("2024-10-01"))).unwrap().0;
    assert_eq!(plain.rms_epsilon, EpsilonPlacement::Outside);
}

#[test]
fn the_names_in_the_files_decide_about_the_mlp() {
    use super::quirks::{NEW, OLD, none, resolve_on};
    const LLAMA: &[&str] = &["mlp.w1.weight", "mlp.w2.weight", "mlp.w3.weight"];
    let matrices = |settings: Value, names: &[&str]| resolve_on(2, settings, names, &none()).unwrap().0.mlp_matrices;
    let silu = || json!({ "activation": "silu" });
    let llama = || json!({ "activation": "silu", "mlp_type": "llama" });
    assert_eq!(matrices(silu(), LLAMA), MlpMatrices::Separate);
    assert_eq!(matrices(llama(), LLAMA), MlpMatrices::Separate);
    assert_eq!(matrices(llama(), NEW), MlpMatrices::UpGate);
    assert_eq!(matrices(llama(), OLD), MlpMatrices::UpGate);
    assert_eq!(matrices(llama(), &[]), MlpMatrices::Separate);
    // And it is said.
    let said = |settings: Value, names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Observed { layer_tensors: names, ..Observed::default() }.contradictions(&with(settings).unwrap())
    };
    assert_eq!(
        said(silu(), LLAMA),
        ["the files hold `mlp.w1`, as with mlp_type: llama, which the configuration does not have; the files decide"]
    );
    assert_eq!(
        said(llama(), NEW),
        ["mlp_type: llama, but the files hold `mlp.linear1` where it would be `mlp.w1`; the files decide"]
    );
    assert_eq!(said(llama(), LLAMA).len(), 0);
    assert_eq!(
        said(
            json!({ "te_layernorm_mlp": true, "te_mha": true }),
            &["attention.query_key_value.weight", "mlp.linear1.weight"]
        ),
        [
            "te_layernorm_mlp: true, but the files hold `mlp.linear1` where it would be `mlp.fc1`; the files decide",
            "te_mha: true, but the files hold `attention.query_key_value` where it would be `attention.qkv`; the files decide",
        ]
    );
}

#[test]
fn an_activation_that_the_shapes_contradict_is_refused() {
    let resolve = |activation: &str, first: usize| {
        let observed = Observed {
            tp_size: 2,
            mlp_first_size: Some(first),
            mlp_inner_size: Some(256),
            padded_vocab_size: Some(128),
            layer_tensors: vec!["mlp.linear1.weight".to_owned()],
            ..Observed::default()
        };
        Architecture::resolve(&with(json!({ "activation": activation })).unwrap(), &observed)
    };
    for activation in ["geglu", "swiglu", "reglu"] {
        assert!(resolve(activation, 512).is_ok());
        let refusal = resolve(activation, 256).unwrap_err();
        assert!(refusal.to_string().starts_with(&format!("activation: {activation} with a first layer of 256 rows")));
        assert!(refusal.needed.contains("--neox-config"));
    }
    for activation in ["gelu", "silu", "relu"] {
        assert!(resolve(activation, 256).is_ok());
        let refusal = resolve(activation, 512).unwrap_err();
        assert!(refusal.to_string().ends_with("the shapes are those of a gated MLP, the activation is not gated"));
    }
}

#[test]
fn keys_given_twice_matter_only_where_the_model_depends_on_them() {
    let read = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        read_files(&[write(directory.path(), "0.yml", text)]).map(|(map, _)| Value::Object(map))
    };
    for (text, expected) in [
        (
            "{optimizer: {type: Adam,\n params: {lr: 1, lr: 2}}}",
            json!({ "optimizer": { "type": "Adam", "params": { "lr": 2 } } }),
        ),
        ("{\"wandb_group\": a,\n\"wandb-group\": b}", json!({ "wandb_group": "b" })),
        (
            "{zero_optimization: {stage: 1,\n overlap_comm: true,\n overlap_comm: false}}",
            json!({ "zero_optimization": { "stage": 1, "overlap_comm": false } }),
        ),
        (
            "{fp16: {enabled: true,\n hysteresis: 2,\n hysteresis: 3}}",
            json!({ "fp16": { "enabled": true, "hysteresis": 3 } }),
        ),
        ("lr_decay_iters: 1\nlr_decay_iters: 2\n", json!({ "lr_decay_iters": 2 })),
        // As gpt-neox's configs/rwkv/170M.yml has a setting.
        ("{rotary_pct: 0.5,\nnum_layers: 1,\nrotary-pct: 0.5}", json!({ "rotary_pct": 0.5, "num_layers": 1 })),
    ] {
        assert_eq!(read(text).unwrap(), expected);
    }
    for text in [
        "{num_layers: 1,\nnum_layers: 2}",
        "{rotary_pct: 1,\nrotary-pct: 0.5}",
        "{zero_optimization: {stage: 1,\n stage: 2}}",
        "{fp16: {enabled: true, enabled: true}}",
        "{rope_scaling: {factor: 1, factor: 2}}",
        "{unknown: 1, unknown: 2}",
    ] {
        assert!(read(text).unwrap_err().to_string().contains("is given twice"), "{text}");
    }
}
