//! `config.json`: keys that make another model are refused by name, those that are off are read, unknown ones are named.

use std::collections::BTreeMap;
use std::path::Path;

use kintsugi::checkpoint::HuggingFaceModel;
use serde_json::{Map, Value, json};

/// What becomes of a model of this class with these settings and no tensors at all.
fn complaint(class: &str, changes: &Value) -> String {
    let mut config = json!({
        "architectures": [class], "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 24, "vocab_size": 40, "num_key_value_heads": 4, "head_dim": 8,
    });
    if class == "GPT2LMHeadModel" {
        config = json!({ "architectures": [class], "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40 });
    }
    let object = |value: &Value| -> Map<String, Value> { serde_json::from_value(value.clone()).unwrap() };
    config.as_object_mut().unwrap().extend(object(changes));
    let config = config.to_string();
    HuggingFaceModel::check(Path::new("config.json"), config.as_bytes(), BTreeMap::new()).unwrap_err().to_string()
}

/// Settings are read first, so that what is missing then are the tensors.
#[track_caller]
fn assert_read(class: &str, changes: &Value) {
    let complaint = complaint(class, changes);
    assert!(complaint.contains("missing tensor"), "{class} {changes}: {complaint}");
}

const CLASSES: [&str; 6] = [
    "GPTNeoXForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GPT2LMHeadModel",
];

#[test]
fn settings_of_other_functions_are_refused_by_name() {
    for class in CLASSES {
        assert_read(class, &json!({}));
        for (key, value) in [
            ("attention_multiplier", json!(0.007_812_5)),
            ("logit_scale", json!(0.0625)),
            ("logits_scaling", json!(8)),
            ("clip_qkv", json!(8.0)),
            ("no_rope_layers", json!([1, 0])),
            ("final_logit_softcapping", json!(30.0)),
            ("num_local_experts", json!(8)),
            ("pruned_heads", json!({ "1": [0] })),
            ("rope_interleaved", json!(true)),
            ("scale_attn_by_inverse_layer_idx", json!(true)),
        ] {
            let complaint = complaint(class, &json!({ key: value }));
            assert!(
                complaint.contains(&format!("refused: {key}: {value}: {class} is evaluated without it")),
                "{complaint}"
            );
            assert_read(class, &json!({ key: null }));
        }
        assert_read(class, &json!({ "logits_scaling": 1, "no_rope_layers": [1, 1], "pruned_heads": {} }));
        assert_read(class, &json!({ "somebodys_own_key": true, "_somebodys": 3 }));
    }
}

#[test]
fn settings_that_only_other_classes_read_are_refused() {
    for (class, changes, expected) in [
        (
            "LlamaForCausalLM",
            json!({ "sliding_window": 4096 }),
            "sliding_window: 4096: LlamaForCausalLM is evaluated without",
        ),
        ("LlamaForCausalLM", json!({ "layer_types": ["full_attention", "sliding_attention"] }), "layer_types"),
        (
            "LlamaForCausalLM",
            json!({ "partial_rotary_factor": 0.5 }),
            "partial_rotary_factor: 0.5: the class turns all",
        ),
        ("LlamaForCausalLM", json!({ "rotary_pct": 0.5 }), "rotary_pct: 0.5"),
        ("MistralForCausalLM", json!({ "attention_bias": true }), "attention_bias: true: MistralForCausalLM"),
        ("MistralForCausalLM", json!({ "layer_types": ["sliding_attention", "full_attention"] }), "layer_types"),
        (
            "MistralForCausalLM",
            json!({ "sliding_window": 1 }),
            "sliding_window: 1: it is to be a number of tokens, two or more",
        ),
        ("Qwen2ForCausalLM", json!({ "attention_bias": true }), "attention_bias: true"),
        ("Qwen2ForCausalLM", json!({ "mlp_bias": true }), "mlp_bias: true"),
        ("GPTNeoXForCausalLM", json!({ "num_key_value_heads": 2 }), "num_key_value_heads: 2"),
        ("GPTNeoXForCausalLM", json!({ "head_dim": 16 }), "head_dim: 16: GPTNeoXForCausalLM is evaluated without it"),
        ("GPT2LMHeadModel", json!({ "rope_scaling": { "rope_type": "linear", "factor": 2.0 } }), "rope_scaling"),
        ("GPT2LMHeadModel", json!({ "scale_attn_weights": false }), "scale_attn_weights: false"),
        ("GPT2LMHeadModel", json!({ "activation_function": "quick_gelu" }), "hidden_act: quick_gelu"),
        ("GPT2LMHeadModel", json!({ "add_cross_attention": true }), "add_cross_attention: true"),
        ("GPT2LMHeadModel", json!({ "n_head": 3 }), "`n_embd`"),
    ] {
        let complaint = complaint(class, &changes);
        assert!(complaint.contains(expected), "{class} {changes}: {complaint}");
    }
    for (class, changes) in [
        ("LlamaForCausalLM", json!({ "sliding_window": null, "layer_types": ["full_attention", "full_attention"] })),
        ("GPTNeoXForCausalLM", json!({ "head_dim": 8, "num_key_value_heads": 4 })),
        ("Qwen2ForCausalLM", json!({ "attention_bias": false, "sliding_window": 4096 })),
        ("GPT2LMHeadModel", json!({ "reorder_and_upcast_attn": true, "n_inner": null, "n_ctx": 1024 })),
    ] {
        assert_read(class, &changes);
    }
}

#[test]
fn windows_of_qwen_are_of_layers_that_exist() {
    let window = |changes: Value| {
        let mut all = json!({ "use_sliding_window": true, "sliding_window": 8 });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    for class in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        for changes in [
            json!({ "max_window_layers": 0 }),
            json!({ "max_window_layers": 1 }),
            json!({ "layer_types": ["full_attention", "sliding_attention"] }),
        ] {
            assert_read(class, &window(changes));
        }
        for (changes, expected) in [
            (json!({ "layer_types": ["full_attention"] }), "layer_types: 1 of them: there are 2 layers"),
            (json!({ "layer_types": ["full_attention", "linear_attention"] }), "layer_types: linear_attention"),
            (
                json!({ "use_sliding_window": false, "layer_types": ["full_attention", "sliding_attention"] }),
                "use_sliding_window is not true",
            ),
        ] {
            let complaint = complaint(class, &window(changes.clone()));
            assert!(complaint.contains(expected), "{changes}: {complaint}");
        }
    }
}

#[test]
fn scaled_rotary_frequencies_are_whole_or_refused() {
    let llama3 = |changes: Value| {
        let mut all = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        all
    };
    for key in ["rope_scaling", "rope_parameters"] {
        for scaling in [
            llama3(json!({})),
            llama3(json!({ "original_max_position_embeddings": null, "rope_theta": 5e5 })),
            json!({ "type": "linear", "factor": 2.0 }),
            json!({ "rope_type": "default" }),
            json!(null),
        ] {
            assert_read("LlamaForCausalLM", &json!({ key: scaling, "max_position_embeddings": 64 }));
        }
        for (scaling, expected) in [
            (llama3(json!({ "factor": null })), ".factor: it is missing"),
            (llama3(json!({ "factor": 0.0 })), ".factor: 0: it is to be a number above 0"),
            (llama3(json!({ "high_freq_factor": 1.0 })), ".high_freq_factor: 1: it is to be above low_freq_factor (1)"),
            (llama3(json!({ "original_max_position_embeddings": 0 })), ".original_max_position_embeddings"),
            (json!({ "rope_type": "yarn", "factor": 4.0 }), "rope_type: yarn"),
            (json!({ "type": "dynamic", "factor": 4.0 }), "rope_type: dynamic"),
            (json!({ "full_attention": { "rope_type": "default" } }), "layers with rotary embeddings of their own"),
        ] {
            let complaint = complaint("LlamaForCausalLM", &json!({ key: scaling }));
            assert!(complaint.contains(expected), "{key}: {scaling}: {complaint}");
        }
    }
}

#[test]
fn heads_have_any_size_of_their_own() {
    for class in ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        for changes in
            [json!({ "head_dim": 6 }), json!({ "head_dim": null }), json!({ "hidden_size": 15, "head_dim": 4 })]
        {
            assert_read(class, &changes);
        }
        for (changes, expected) in [
            (json!({ "head_dim": 0 }), "head_dim: 0: it is to be a number of elements, one or more"),
            (json!({ "head_dim": u64::MAX }), "head_dim: 18446744073709551615"),
            (json!({ "head_dim": 5 }), "an even number of the 5 dimensions of a head"),
            (json!({ "hidden_size": 0 }), "hidden_size: 0"),
            (json!({ "hidden_size": u64::MAX }), "hidden_size: 18446744073709551615"),
        ] {
            let complaint = complaint(class, &changes);
            assert!(complaint.contains(expected), "{class} {changes}: {complaint}");
        }
    }
}
