//! Whole configurations. `reading` tests files and syntax, `validation` single values and their messages,
//! `quirks` eras, `refusals` what cannot be evaluated.

mod keys;
mod published;
mod quirks;
mod reading;
mod refusals;
mod validation;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::*;

impl TransformerEngine {
    fn any(self) -> bool {
        self != Self::default()
    }
}

/// The smallest configuration that is complete.
fn small() -> Map<String, Value> {
    object(json!({ "num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128 }))
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("not an object: {value}") };
    map
}

/// The smallest configuration with some keys replaced.
fn with(changes: Value) -> Result<NeoxConfig, ConfigError> {
    let mut map = small();
    map.extend(object(changes));
    NeoxConfig::from_raw(map, vec![PathBuf::from("a.yml")])
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs_err::write(&path, text).unwrap();
    path
}

/// In the manner of the configuration published with GPT-NeoX-20B.
const LIKE_20B: &str = r#"# This file describes the model as it was trained.

{
  # Tokenizer and checkpoint settings
  "vocab-file": "./tokenizers/20B_tokenizer.json",
  "save": "./checkpoints",

  # parallelism
  "pipe-parallel-size": 4,
  "model-parallel-size": 2,

  # model
  "num-layers": 44,
  "hidden-size": 6144,
  "num-attention-heads": 64,
  "seq-length": 2048,
  "max-position-embeddings": 2048,
  "norm": "layernorm",
  "pos-emb": "rotary",
  "rotary_pct": 0.25,   # a quarter of each head
  "no-weight-tying": true,
  "gpt_j_residual": true,
  "output_layer_parallelism": "column",
  "scaled-upper-triang-masked-softmax-fusion": true,
  "bias-gelu-fusion": true,

  "optimizer": {
    "type": "Adam",
    "params": {
      "lr": 0.97e-4,
      "betas": [0.9, 0.95],
      "eps": 1.0e-8,
      }
      },

  "zero_optimization": {
  "stage": 1,
  "overlap_comm": True,
  },

  "fp16": {
    "fp16": true,
    "enabled": true,
    "loss_scale": 0,
    },

  "tokenizer_type": "HFTokenizer",
}
"#;

#[test]
fn a_published_configuration_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let path = write(directory.path(), "20B.yml", LIKE_20B);
    let config = NeoxConfig::from_files(std::slice::from_ref(&path)).unwrap();

    assert_eq!((config.num_layers, config.hidden_size, config.num_attention_heads), (44, 6144, 64));
    assert_eq!((config.head_dim(), config.kv_heads(), config.rotary_ndims()), (96, 64, 24));
    assert_eq!((config.model_parallel_size, config.pipe_parallel_size), (Some(2), Some(4)));
    assert_eq!((config.seq_length, config.max_position_embeddings), (2048, 2048));
    assert_eq!(config.position_embedding, PositionEmbedding::Rotary);
    assert_eq!((config.precision, config.zero_stage), (Precision::Fp16, 1));
    assert_eq!(config.attention, vec![AttentionKind::Global; 44]);
    assert!(config.gpt_j_residual && !config.gpt_j_tied && !config.tied_embeddings() && config.uses_tanh_gelu());
    assert_eq!(config.tokenizer_type.as_deref(), Some("HFTokenizer"));
    assert_eq!(config.vocab_file.as_deref(), Some("./tokenizers/20B_tokenizer.json"));
    // Keys without a field are kept under their normalised name.
    assert_eq!(config.raw["scaled_upper_triang_masked_softmax_fusion"], json!(true));
    assert_eq!(config.raw["optimizer"]["params"]["lr"], json!(0.97e-4));
    assert_eq!(config.raw.len(), 21);
    assert_eq!(config.sources.files(), std::slice::from_ref(&path));
    assert_eq!(config.sources.file_of("vocab_file"), Some(path.as_path()));
}

#[test]
fn absent_keys_have_the_defaults_of_gpt_neox() {
    let config = with(json!({})).unwrap();
    assert_eq!(config.seq_length, 128);
    assert_eq!((config.model_parallel_size, config.pipe_parallel_size, config.num_kv_heads), (None, None, None));
    assert_eq!(config.norm, Norm::LayerNorm);
    let epsilons = (config.layernorm_epsilon, config.rms_norm_epsilon, config.scalenorm_epsilon);
    assert_eq!((epsilons, config.rotary_emb_base), ((1e-5, 1e-8, 1e-8), 10_000.0));
    assert_eq!(config.position_embedding, PositionEmbedding::Learned);
    assert_eq!((config.opt_pos_emb_offset, config.rpe_num_buckets, config.rpe_max_distance), (0, 32, 128));
    assert_eq!(config.activation, Activation::Gelu);
    assert!(config.use_bias_in_attn_linear && config.use_bias_in_mlp && config.tied_embeddings());
    assert!(!config.gpt_j_residual && !config.uses_tanh_gelu() && !config.soft_prompt_tuning && !config.fp32_allreduce);
    assert_eq!(config.output_layer_parallelism, OutputLayerParallelism::Column);
    assert_eq!((config.make_vocab_size_divisible_by, config.padded_vocab_size), (128, None));
    assert_eq!((config.precision, config.zero_stage, config.moe_num_experts), (Precision::Fp32, 0, 1));
    assert_eq!((config.mup, config.transformer_engine.any()), (None, false));
    assert!(!config.is_reward_model());
    // A null is an absent key.
    let nulls = json!({
        "norm": null, "fp16": null, "seq_length": null, "attention_config": null, "rotary_pct": null,
        "gpt_j_residual": null,
    });
    let with_nulls = with(nulls).unwrap();
    assert_eq!(NeoxConfig { raw: Map::new(), ..with_nulls }, NeoxConfig { raw: Map::new(), ..config });
}

#[test]
fn a_llama_like_configuration_is_understood() {
    let config = with(json!({
        "norm": "rmsnorm", "rms_norm_epsilon": 1e-6, "pos_emb": "rotary", "rotary_emb_base": 500_000,
        "num_kv_heads": 2, "activation": "swiglu", "use_bias_in_attn_linear": false, "use_bias_in_mlp": false,
        "intermediate_size": 528, "mlp_multiple_of": 32, "expansion_factor": 3.5, "no_weight_tying": true,
        "attention_config": [[["flash"], "all"]], "sliding_window_width": 64, "precision": "bfloat16",
        "model_parallel_size": 2, "padded_vocab_size": 768, "use_mup": true, "mup_output_temp": 2,
        "te_mha": true, "mlp_type": "llama", "train_impl": "rm", "iteration": 143_000, "merge_file": "merges.txt",
        "soft_prompt_tuning": { "num_tokens": 10 }, "use_qk_layernorm": true, "sequence_parallel": true,
    }))
    .unwrap();
    assert_eq!((config.kv_heads(), config.head_dim(), config.rotary_ndims()), (2, 16, 16));
    assert_eq!((config.norm, config.precision, config.mlp_type), (Norm::RmsNorm, Precision::Bf16, MlpType::Llama));
    assert!(config.activation.is_gated() && !config.use_bias_in_attn_linear && !config.use_bias_in_mlp);
    assert_eq!((config.intermediate_size, config.mlp_multiple_of), (Some(528), Some(32)));
    assert_eq!((config.expansion_factor, config.sliding_window_width), (Some(3.5), Some(64)));
    assert_eq!(config.attention, vec![AttentionKind::Flash; 4]);
    let mup = config.mup.unwrap();
    assert_eq!((mup.attention_temperature, mup.output_temperature), (1.0, 2.0));
    assert_eq!((mup.embedding_multiplier, config.mup_rp_embedding_mult), (1.0, 1.0));
    assert!(config.transformer_engine.any() && config.transformer_engine.attention);
    assert!(config.soft_prompt_tuning && config.is_reward_model() && config.use_qk_layernorm);
    assert_eq!((config.iteration, config.merge_file.as_deref()), (Some(143_000), Some("merges.txt")));
}

#[test]
fn the_checkpoint_must_agree_with_the_configuration() {
    let config = with(json!({ "tokenizer_type": "HFTokenizer", "model_parallel_size": 2 })).unwrap();
    let args = ClientArgs {
        num_layers: Some(4),
        hidden_size: Some(64),
        num_attention_heads: Some(4),
        max_position_embeddings: Some(128),
        make_vocab_size_divisible_by: Some(128),
        padded_vocab_size: Some(768),
        tokenizer_type: Some("HFTokenizer".to_owned()),
        model_parallel_size: Some(2),
        quirks: Vec::new(),
    };
    config.check_against(&args).unwrap();
    config.check_against(&ClientArgs::default()).unwrap();
    assert_eq!(config.padded_vocab_size(Some(&args)), Some(768));
    assert_eq!((config.padded_vocab_size(None), config.padded_vocab_size(Some(&ClientArgs::default()))), (None, None));
    assert_eq!(with(json!({ "padded_vocab_size": 512 })).unwrap().padded_vocab_size(Some(&args)), Some(512));

    let other = |change: Value| -> ClientArgs {
        let stored = json!({ "num_layers": 4, "hidden_size": 64, "tokenizer_type": "HFTokenizer" });
        let mut stored = object(stored);
        stored.extend(object(change));
        serde_json::from_value(Value::Object(stored)).unwrap()
    };
    for (change, message) in [
        (json!({ "num_layers": 5 }), "`num_layers` is 4, but the checkpoint was written with 5"),
        (json!({ "hidden_size": 128 }), "`hidden_size` is 64, but the checkpoint was written with 128"),
        (json!({ "num_attention_heads": 8 }), "`num_attention_heads` is 4, but the checkpoint was written with 8"),
        (
            json!({ "max_position_embeddings": 256 }),
            "`max_position_embeddings` is 128, but the checkpoint was written with 256",
        ),
        (
            json!({ "make_vocab_size_divisible_by": 64 }),
            "`make_vocab_size_divisible_by` is 128, but the checkpoint was written with 64",
        ),
        (json!({ "model_parallel_size": 4 }), "`model_parallel_size` is 2, but the checkpoint was written with 4"),
        (
            json!({ "tokenizer_type": "SPMTokenizer" }),
            "`tokenizer_type` is HFTokenizer, but the checkpoint was written with SPMTokenizer",
        ),
    ] {
        let error = config.check_against(&other(change)).unwrap_err();
        assert_eq!(error.to_string(), format!("a.yml: {message}"));
        assert!(error.hint().unwrap().contains("another checkpoint"));
    }
    let error = with(json!({ "padded_vocab_size": 512 })).unwrap().check_against(&args).unwrap_err();
    assert_eq!(error.to_string(), "a.yml: `padded_vocab_size` is 512, but the checkpoint was written with 768");
}

/// Reads the configuration of every checkpoint below a folder.
fn check_configurations(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let checkpoints = fs_err::read_dir(&folder).unwrap();
    let entries = |directory: &Path| -> Vec<PathBuf> {
        fs_err::read_dir(directory)
            .map_or_else(|_| Vec::new(), |files| files.flatten().map(|file| file.path()).collect())
    };
    let mut count = 0;
    for step in checkpoints.flatten().flat_map(|checkpoint| entries(&checkpoint.path())) {
        let paths = entries(&step.join("configs"));
        if paths.is_empty() {
            continue;
        }
        let config = NeoxConfig::from_files(&paths).unwrap_or_else(|error| panic!("{}: {error}", step.display()));
        assert_eq!(config.model_parallel_size, Some(2), "{}", step.display());
        assert_eq!(config.unknown_keys(), Vec::<String>::new(), "{}", step.display());
        assert_eq!(config.attention.len(), config.num_layers);
        assert_eq!(config.tokenizer_type.as_deref(), Some("HFTokenizer"));
        count += 1;
    }
    assert!(count > 5, "{count} configurations below {}", folder.display());
}

#[test]
fn configurations_written_by_gpt_neox_are_read() {
    check_configurations("tests/fixtures/checkpoints");
}

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn configurations_of_shared_checkpoints_are_read() {
    check_configurations("../shared/checkpoints");
}
