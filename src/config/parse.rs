//! From the raw map to [`NeoxConfig`]: defaults, derived settings and validation.

use serde_json::{Map, Value};

use super::choices::{Activation, AttentionKind, MlpType, Norm, OutputLayerParallelism, PositionEmbedding, Precision};
use super::error::ConfigError;
use super::neox::{Mup, NeoxConfig, TransformerEngine};
use super::refusals;
use super::values::{Values, describe};
use super::yaml::Sources;

/// Keeps a damaged file from asking for a list of billions of layers.
const MAX_LAYERS: u64 = 100_000;

impl NeoxConfig {
    /// Builds a configuration from keys that are already normalised (`_` for `-`). Messages name the files in `sources`.
    pub fn from_raw(raw: Map<String, Value>, sources: impl Into<Sources>) -> Result<Self, ConfigError> {
        let sources = sources.into();
        let read = Values::new(&raw, &sources);
        let num_layers = read.required("num_layers", read.size_within("num_layers", 1..=MAX_LAYERS)?)?;
        let max_position_embeddings =
            read.required("max_position_embeddings", read.size("max_position_embeddings")?)?;
        let apply_query_key_layer_scaling = read.flag("apply_query_key_layer_scaling", false)?;
        let config = Self {
            num_layers,
            hidden_size: read.required("hidden_size", read.size("hidden_size")?)?,
            num_attention_heads: read.required("num_attention_heads", read.size("num_attention_heads")?)?,
            num_kv_heads: read.size("num_kv_heads")?,
            seq_length: read.size("seq_length")?.unwrap_or(max_position_embeddings),
            max_position_embeddings,
            // gpt-neox takes 0 for 1.
            model_parallel_size: read.count("model_parallel_size")?.map(|ranks| ranks.max(1)),
            pipe_parallel_size: read.count("pipe_parallel_size")?,
            sequence_parallel: read.flag("sequence_parallel", false)?,
            fp32_allreduce: read.flag("fp32_allreduce", false)?,
            zero_stage: zero_stage(read)?,
            norm: read.choice("norm")?.unwrap_or(Norm::LayerNorm),
            layernorm_epsilon: read.number("layernorm_epsilon", 1e-5)?,
            rms_norm_epsilon: read.number("rms_norm_epsilon", 1e-8)?,
            rmsnorm_fusion: read.flag("rmsnorm_fusion", false)? || is_fused_rmsnorm(read),
            scalenorm_epsilon: read.number("scalenorm_epsilon", 1e-8)?,
            use_qk_layernorm: read.flag("use_qk_layernorm", false)?,
            position_embedding: read.choice("pos_emb")?.unwrap_or(PositionEmbedding::Learned),
            rotary_pct: read
                .number_that("rotary_pct", "a number from 0 to 1", |share| (0.0..=1.0).contains(&share))?
                .unwrap_or(1.0),
            rotary_emb_base: read.positive("rotary_emb_base")?.unwrap_or(10_000.0),
            opt_pos_emb_offset: read.count("opt_pos_emb_offset")?.unwrap_or(0),
            rpe_num_buckets: read.size("rpe_num_buckets")?.unwrap_or(32),
            rpe_max_distance: read.size("rpe_max_distance")?.unwrap_or(128),
            attention: attention(read, num_layers)?,
            sliding_window_width: read.size("sliding_window_width")?,
            apply_query_key_layer_scaling,
            attention_softmax_in_fp32: read.flag("attention_softmax_in_fp32", false)? || apply_query_key_layer_scaling,
            use_bias_in_attn_linear: read.flag("use_bias_in_attn_linear", true)?,
            activation: activation(read)?,
            bias_gelu_fusion: read.flag("bias_gelu_fusion", false)? || read.flag("openai_gelu", false)?,
            onnx_safe: read.flag("onnx_safe", false)?,
            use_bias_in_mlp: read.flag("use_bias_in_mlp", true)?,
            intermediate_size: read.size("intermediate_size")?,
            expansion_factor: read.positive("expansion_factor")?,
            mlp_multiple_of: read.size("mlp_multiple_of")?,
            mlp_type: read.choice("mlp_type")?.unwrap_or(MlpType::Regular),
            moe_num_experts: read.size("moe_num_experts")?.or(read.size("num_experts")?).unwrap_or(1),
            gpt_j_residual: read.flag("gpt_j_residual", false)?,
            gpt_j_tied: read.flag("gpt_j_tied", false)?,
            apply_residual_connection_post_layernorm: read.flag("apply_residual_connection_post_layernorm", false)?,
            no_weight_tying: read.flag("no_weight_tying", false)?,
            output_layer_parallelism: read
                .choice("output_layer_parallelism")?
                .unwrap_or(OutputLayerParallelism::Column),
            make_vocab_size_divisible_by: read.size("make_vocab_size_divisible_by")?.unwrap_or(128),
            padded_vocab_size: read.size("padded_vocab_size")?,
            precision: precision(read)?,
            mup: mup(read)?,
            mup_rp_embedding_mult: read.positive("mup_rp_embedding_mult")?.unwrap_or(1.0),
            transformer_engine: TransformerEngine {
                column_parallel: read.flag("te_columnparallel", false)?,
                row_parallel: read.flag("te_rowparallel", false)?,
                layernorm_mlp: read.flag("te_layernorm_mlp", false)?,
                attention: read.flag("te_mha", false)?,
                fp8_attention: read.flag("te_fp8_mha", false)?,
            },
            soft_prompt_tuning: read
                .section("soft_prompt_tuning")?
                .map_or(Ok(false), |section| section.flag("enabled", true))?,
            train_impl: read.text("train_impl")?.unwrap_or_else(|| "normal".to_owned()),
            checkpoint_validation_with_forward_pass: read.flag("checkpoint_validation_with_forward_pass", false)?,
            tokenizer_type: read.text("tokenizer_type")?,
            vocab_file: read.text("vocab_file")?,
            merge_file: read.text("merge_file")?,
            iteration: read.whole("iteration", 0..=u64::MAX)?,
            raw: Map::new(),
            sources: Sources::default(),
        };
        // gpt-neox itself allows sizes that do not divide for models without attention.
        if refusals::check_kind(&config, &raw).is_ok() {
            config.check_consistency(read)?;
        }
        Ok(Self { raw, sources, ..config })
    }

    /// gpt-neox's checks across keys before it builds a model.
    fn check_consistency(&self, read: Values<'_>) -> Result<(), ConfigError> {
        let heads = self.num_attention_heads;
        let ranks = self.model_parallel_size.unwrap_or(1);
        let multiples = [
            ("hidden_size", Some(self.hidden_size), "num_attention_heads", heads),
            ("num_attention_heads", Some(heads), "num_kv_heads", self.kv_heads()),
            ("num_attention_heads", Some(heads), "model_parallel_size", ranks),
            ("num_kv_heads", self.num_kv_heads, "model_parallel_size", ranks),
            ("padded_vocab_size", self.padded_vocab_size, "model_parallel_size", ranks),
        ];
        for (key, value, divisor_key, divisor) in multiples {
            if let Some(value) = value
                && !value.is_multiple_of(divisor)
            {
                return Err(read.invalid(key, format!("a multiple of {divisor_key} ({divisor})"), value));
            }
        }
        if self.max_position_embeddings < self.seq_length {
            let expected = format!("at least seq_length ({})", self.seq_length);
            return Err(read.invalid("max_position_embeddings", expected, self.max_position_embeddings));
        }
        let turned = self.rotary_ndims();
        if self.position_embedding == PositionEmbedding::Rotary && (turned == 0 || !turned.is_multiple_of(2)) {
            let expected =
                format!("such that an even number of the {} dimensions of a head is turned", self.head_dim());
            return Err(read.invalid("rotary_pct", expected, format!("{}, which turns {turned}", self.rotary_pct)));
        }
        if self.onnx_safe && self.uses_tanh_gelu() {
            return Err(read.conflict(("onnx_safe", &true), ("bias_gelu_fusion", &true)));
        }
        Ok(())
    }
}

/// Whether `norm` is a word of neox-LLAMA2 for what gpt-neox's fused kernel computes: epsilon is added inside the root.
fn is_fused_rmsnorm(read: Values<'_>) -> bool {
    read.get("norm").is_some_and(|word| word == "apexrmsnorm" || word == "llamarmsnorm")
}

/// `activation` (since 2021-05-07), else `geglu` of before.
fn activation(read: Values<'_>) -> Result<Activation, ConfigError> {
    let stated = read.choice("activation")?;
    match (read.flag("geglu", false)?, stated) {
        (true, None) => Ok(Activation::GeGlu),
        (true, Some(other)) if other != Activation::GeGlu => {
            Err(read.conflict(("geglu", &true), ("activation", &other)))
        }
        (_, stated) => Ok(stated.unwrap_or(Activation::Gelu)),
    }
}

fn zero_stage(read: Values<'_>) -> Result<usize, ConfigError> {
    // DeepSpeed's autotuning takes several stages, or all.
    let stage = |values: Values<'_>, key: &str| match values.get(key) {
        Some(Value::Array(_)) => Ok(None),
        Some(Value::String(all)) if all == "all" => Ok(None),
        _ => values.size_within(key, 0..=3),
    };
    let section = read.section("zero_optimization")?;
    match section.map_or(Ok(None), |section| stage(section, "stage"))? {
        Some(stage) => Ok(stage),
        None => Ok(stage(read, "zero_stage")?.unwrap_or(0)),
    }
}

fn mup(read: Values<'_>) -> Result<Option<Mup>, ConfigError> {
    if !read.flag("use_mup", false)? {
        return Ok(None);
    }
    Ok(Some(Mup {
        attention_temperature: read.positive("mup_attn_temp")?.unwrap_or(1.0),
        output_temperature: read.positive("mup_output_temp")?.unwrap_or(1.0),
        embedding_multiplier: read.positive("mup_embedding_mult")?.unwrap_or(1.0),
    }))
}

/// `precision`, else what the `DeepSpeed` sections say, else single precision (`NeoXArgs.calculate_derived`). Older
/// versions took `fp16.type: bfloat16` for bfloat16, and `precision: bfloat16` beside an enabled `fp16` section.
fn precision(read: Values<'_>) -> Result<Precision, ConfigError> {
    let fp16 = match read.section("fp16")? {
        None => None,
        Some(section) if section.text("type")?.as_deref() == Some("bfloat16") => {
            Some(("fp16.type", "bfloat16", Precision::Bf16))
        }
        Some(section) if section.get("enabled").is_some() => {
            section.flag("enabled", false)?.then_some(("fp16.enabled", "true", Precision::Fp16))
        }
        Some(section) => section.flag("fp16", false)?.then_some(("fp16.fp16", "true", Precision::Fp16)),
    };
    let section = read.section("bf16")?;
    let bf16 = section.map_or(Ok(false), |section| section.flag("enabled", false))?;
    let bf16 = bf16.then_some(("bf16.enabled", "true", Precision::Bf16));
    if let (Some((key, word, Precision::Fp16)), Some((other_key, other_word, _))) = (fp16, bf16) {
        return Err(read.conflict((key, &word), (other_key, &other_word)));
    }
    let implied = fp16.or(bf16);
    match (read.choice("precision")?, implied) {
        (Some(stated), Some((key, word, implied))) if stated != implied && stated != Precision::Bf16 => {
            Err(read.conflict(("precision", &stated), (key, &word)))
        }
        (stated, _) => Ok(stated.or(implied.map(|(.., implied)| implied)).unwrap_or(Precision::Fp32)),
    }
}

/// One kind for each layer (`megatron/utils.py`, `expand_attention_types`).
fn attention(read: Values<'_>, num_layers: usize) -> Result<Vec<AttentionKind>, ConfigError> {
    const KEY: &str = "attention_config";
    let Some(value) = read.get(KEY) else { return Ok(vec![AttentionKind::Global; num_layers]) };
    match expand_attention(value, num_layers) {
        Some(kinds) if kinds.len() == num_layers => Ok(kinds),
        Some(_) => Err(read.invalid(KEY, format!("one kind for each of num_layers ({num_layers})"), describe(value))),
        None => {
            let expected = "a list of kinds or of [[kinds], count or \"all\"]";
            Err(read.invalid(KEY, expected, describe(value)))
        }
    }
}

/// Expands `[[["local", "global"], 6]]`, `[[["global"], "all"]]` or a plain list of words. The result has at most one
/// kind more than there are layers; none if the value is nothing of that sort.
fn expand_attention(value: &Value, num_layers: usize) -> Option<Vec<AttentionKind>> {
    let items = value.as_array()?;
    if let Some(kinds) = words(items) {
        return Some(kinds);
    }
    let mut kinds = Vec::new();
    for item in items {
        let [pattern, repeat] = item.as_array()?.as_slice() else { return None };
        let pattern = words(pattern.as_array()?)?;
        let forever = pattern.iter().cycle().cloned();
        if repeat.as_str() == Some("all") {
            // As gpt-neox: earlier items are dropped, later ones not read.
            let repeats = num_layers.checked_div(pattern.len())?;
            return Some(forever.take(repeats * pattern.len()).collect());
        }
        let repeats = usize::try_from(repeat.as_u64()?).ok()?;
        let left = (num_layers + 1).saturating_sub(kinds.len());
        kinds.extend(forever.take(repeats.saturating_mul(pattern.len()).min(left)));
    }
    Some(kinds)
}

/// The kinds in a list of strings; none if it holds anything else.
fn words(items: &[Value]) -> Option<Vec<AttentionKind>> {
    items.iter().map(|item| item.as_str().map(AttentionKind::from_word)).collect()
}
