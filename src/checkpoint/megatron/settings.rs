//! What Megatron's arguments say about the model, by version and by which of the two codes wrote it: the one of
//! `megatron/model` (later `megatron/legacy/model`), or Megatron core.

use serde_json::Value;

use super::args::Args;
use super::error::MegatronError;
use super::refusals;
use crate::config::{Activation, Norm, Positions, RotaryScaling, Unsupported};

/// The arguments that are read here. Those of one checkpoint's ranks must agree on them.
pub(super) const READ: &[&str] = &[
    "add_bias_linear",
    "add_position_embedding",
    "add_qkv_bias",
    "apply_layernorm_1p",
    "bias_gelu_fusion",
    "ffn_hidden_size",
    "group_query_attention",
    "hidden_size",
    "kv_channels",
    "layernorm_epsilon",
    "layernorm_zero_centered_gamma",
    "make_vocab_size_divisible_by",
    "max_position_embeddings",
    "merge_file",
    "model_parallel_size",
    "norm_epsilon",
    "normalization",
    "num_attention_heads",
    "num_layers",
    "num_query_groups",
    "onnx_safe",
    "openai_gelu",
    "padded_vocab_size",
    "pipeline_model_parallel_size",
    "position_embedding_type",
    "qk_layernorm",
    "rope_scaling_factor",
    "rotary_base",
    "rotary_interleaved",
    "rotary_percent",
    "rotary_seq_len_interpolation_factor",
    "seq_length",
    "sequence_parallel",
    "squared_relu",
    "swiglu",
    "tensor_model_parallel_size",
    "tokenizer_model",
    "tokenizer_type",
    "untie_embeddings_and_output_weights",
    "use_rope_scaling",
    "use_rotary_position_embeddings",
    "use_te_activation_func",
    "vocab_file",
    "window_attn_skip_freq",
    "window_size",
];

/// `rope_scaling_factor` of `megatron/core/models/gpt/gpt_model.py`, which `gpt_builders.py` never changes.
const ROPE_SCALING_FACTOR: f64 = 8.0;

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
pub(super) struct Settings {
    pub layers: usize,
    pub hidden_size: usize,
    pub heads: usize,
    pub query_groups: usize,
    pub head_size: usize,
    /// Width of the MLP; `None` where only the files tell it.
    pub mlp_size: Option<usize>,
    pub max_positions: usize,
    pub norm: Norm,
    pub epsilon: f64,
    pub zero_centred: bool,
    pub positions: Positions,
    pub paired_rotation: bool,
    pub activation: Activation,
    pub tanh_gelu: bool,
    pub onnx_gelu: bool,
    pub linear_bias: bool,
    pub qkv_bias: bool,
    pub query_key_norm: bool,
    pub tied: bool,
    pub sequence_parallel: bool,
    /// Tokens that a token looks back, and the layers, counted from 0, in which it does not look further.
    pub window: Option<(usize, Vec<bool>)>,
    pub vocabulary_multiple: usize,
    pub padded_vocab_size: Option<usize>,
}

impl Settings {
    /// The number of tensor-parallel and of pipeline ranks, where they are told.
    pub(super) fn ranks(args: &Args) -> Result<(Option<usize>, Option<usize>), MegatronError> {
        // The second name until 2020-12.
        let tensor = ["tensor_model_parallel_size", "model_parallel_size"];
        let tensor = tensor.iter().find(|field| args.get(field).is_some()).map_or(Ok(None), |field| args.count(field));
        Ok((tensor?, args.count("pipeline_model_parallel_size")?))
    }

    /// Reads the arguments of a model of `megatron/model` (`legacy`) or of Megatron core.
    pub(super) fn read(args: &Args, legacy: bool) -> Result<Self, MegatronError> {
        let (hidden_size, heads) = (args.required_count("hidden_size")?, args.required_count("num_attention_heads")?);
        let flag = |field: &str| Ok::<_, MegatronError>(args.flag(field)?.unwrap_or(false));
        let head_size = match args.count("kv_channels")? {
            Some(size) => size,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => return Err(args.unexpected("hidden_size", &format!("a multiple of {heads} heads"))),
        };
        // Without the flag the number of groups is its default, 1.
        let query_groups = match args.count("num_query_groups")? {
            Some(groups) if flag("group_query_attention")? => groups,
            _ => heads,
        };
        if !heads.is_multiple_of(query_groups) {
            return Err(args.unexpected("num_query_groups", &format!("a divisor of {heads} heads")));
        }
        let linear_bias = args.flag("add_bias_linear")?.unwrap_or(true);
        let (activation, tanh_gelu, onnx_gelu) = activation(args, legacy)?;
        let norm = match args.word("normalization")? {
            None | Some("LayerNorm") => Norm::LayerNorm,
            Some("RMSNorm") => Norm::RmsNorm,
            Some(_) => return Err(args.unexpected("normalization", "LayerNorm or RMSNorm")),
        };
        let layers = args.required_count("num_layers")?;
        let max_positions = match args.count("max_position_embeddings")? {
            Some(positions) => positions,
            None => args.required_count("seq_length")?,
        };
        let positions = positions(args, legacy, head_size)?;
        Ok(Self {
            layers,
            hidden_size,
            heads,
            query_groups,
            head_size,
            mlp_size: args.count("ffn_hidden_size")?,
            max_positions,
            norm,
            epsilon: either(args, "layernorm_epsilon", "norm_epsilon", Args::positive)?.unwrap_or(1e-5),
            zero_centred: either(args, "layernorm_zero_centered_gamma", "apply_layernorm_1p", Args::flag)?
                .unwrap_or(false),
            paired_rotation: matches!(positions, Positions::Rotary { .. }) && flag("rotary_interleaved")?,
            positions,
            activation,
            tanh_gelu,
            onnx_gelu,
            linear_bias,
            qkv_bias: linear_bias || flag("add_qkv_bias")?,
            query_key_norm: flag("qk_layernorm")?,
            tied: !flag("untie_embeddings_and_output_weights")?,
            sequence_parallel: flag("sequence_parallel")?,
            window: if legacy { None } else { window(args, layers)? },
            vocabulary_multiple: args.count("make_vocab_size_divisible_by")?.unwrap_or(128),
            // Some forks write −1.
            padded_vocab_size: args.count("padded_vocab_size").unwrap_or(None),
        })
    }

    /// What is easily misread: fields that say what the model is not, or that are not known.
    pub(super) fn notes(args: &Args, legacy: bool) -> Vec<String> {
        let mut notes = Vec::new();
        let rotary = args.word("position_embedding_type").is_ok_and(|kind| kind == Some("rope"));
        let differs = |field: &str, default: f64| args.get(field).is_some_and(|value| value.as_f64() != Some(default));
        if rotary && legacy && differs("rotary_base", 10_000.0) {
            notes.push("rotary_base: the code of megatron/legacy never reads it; its base is 10000".to_owned());
        }
        if !legacy && args.is_set("use_rope_scaling") && differs("rope_scaling_factor", ROPE_SCALING_FACTOR) {
            notes
                .push("rope_scaling_factor: Megatron's gpt_builders.py never passes it on; the factor is 8".to_owned());
        }
        if rotary && !legacy && args.is_set("rotary_seq_len_interpolation_factor") {
            notes.push("rotary_seq_len_interpolation_factor: Megatron core's GPT is built without it".to_owned());
        }
        if legacy && args.is_set("window_size") {
            notes.push("window_size: the code of megatron/legacy never reads it".to_owned());
        }
        let known: Vec<&str> = READ.iter().copied().chain(refusals::fields()).collect();
        let unknown = args.unknown(&known);
        if !unknown.is_empty() {
            let first = unknown.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            let more = unknown.len().saturating_sub(8);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            notes.push(format!("args: not known, and taken to decide nothing about the model: {first}{more}"));
        }
        notes
    }
}

/// A field under its name in one version or another; both at once must agree.
fn either<T: PartialEq>(
    args: &Args,
    name: &str,
    other: &str,
    read: impl Fn(&Args, &str) -> Result<Option<T>, MegatronError>,
) -> Result<Option<T>, MegatronError> {
    match (read(args, name)?, read(args, other)?) {
        (Some(value), Some(same)) if value != same => Err(args.unexpected(name, &format!("the value of `{other}`"))),
        (value, same) => Ok(value.or(same)),
    }
}

/// The activation; whether GELU is its tanh form; whether it has √2 rounded.
fn activation(args: &Args, legacy: bool) -> Result<(Activation, bool, bool), MegatronError> {
    let flag = |field: &str| Ok::<_, MegatronError>(args.flag(field)?.unwrap_or(false));
    let (swiglu, squared) = (flag("swiglu")?, flag("squared_relu")?);
    // Only the old code reads these two.
    let (openai, onnx) = (legacy && flag("openai_gelu")?, legacy && flag("onnx_safe")?);
    if swiglu && (squared || openai || onnx) {
        return Err(args.unexpected("swiglu", "no other activation beside it"));
    }
    // v1.0 has no fused GELU; it needs a bias. Since 2023 onnx_safe and openai_gelu come before it, until then behind it.
    let fused = flag("bias_gelu_fusion")? && args.flag("add_bias_linear")?.unwrap_or(true);
    Ok(match (swiglu, squared) {
        (true, _) => (Activation::SwiGlu, false, false),
        (_, true) if !(openai || onnx) => (Activation::SquaredRelu, false, false),
        _ if onnx && !openai && (args.has("squared_relu") || !fused) => (Activation::Gelu, false, true),
        _ => (Activation::Gelu, fused || openai || (!legacy && flag("use_te_activation_func")?), false),
    })
}

fn positions(args: &Args, legacy: bool, head_size: usize) -> Result<Positions, MegatronError> {
    // True alone in 2023; False beside `rope` since.
    let old_flag = args.flag("use_rotary_position_embeddings")?.unwrap_or(false);
    let kind = match args.word("position_embedding_type")? {
        _ if old_flag => "rope",
        None if args.flag("add_position_embedding")? == Some(false) => "none",
        kind => kind.unwrap_or("learned_absolute"),
    };
    match kind {
        "learned_absolute" => Ok(Positions::Learned { offset: 0 }),
        "none" => Ok(Positions::Absent),
        "rope" => {
            if legacy && args.flag("rotary_interleaved")? == Some(true) {
                return Err(args.unexpected("rotary_interleaved", "False in a model of megatron/legacy"));
            }
            let share = args.positive("rotary_percent")?.unwrap_or(1.0);
            #[expect(clippy::cast_precision_loss, reason = "the size of a head")]
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounds down, as Python's int")]
            let dims = if share < 1.0 { (head_size as f64 * share) as usize } else { head_size };
            if share > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
                return Err(args.unexpected("rotary_percent", &format!("an even share of {head_size} elements")));
            }
            // The old code builds its tables without the base, core without the interpolation.
            let base = if legacy { None } else { args.positive("rotary_base")? };
            let scaling = if legacy {
                let factor = args.positive("rotary_seq_len_interpolation_factor")?;
                factor.map(|factor| RotaryScaling::Linear { factor })
            } else {
                args.flag("use_rope_scaling")?.unwrap_or(false).then_some(RotaryScaling::Llama3 {
                    factor: ROPE_SCALING_FACTOR,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_positions: 8192,
                })
            };
            Ok(Positions::Rotary { dims, base: base.unwrap_or(10_000.0), scaling })
        }
        other => Err(refusals::error(
            args,
            Unsupported::new(
                format!("position_embedding_type: {other}"),
                "these positions are not implemented for Megatron's models",
                refusals::NEEDED,
            ),
        )),
    }
}

/// A window of `(tokens before, tokens after)`, and which layers have it (Megatron-LM `megatron/core/transformer/utils.py`,
/// `is_layer_window_attention`).
fn window(args: &Args, layers: usize) -> Result<Option<(usize, Vec<bool>)>, MegatronError> {
    const EXPECTED: &str = "None or two numbers, the second 0";
    let unexpected = || args.unexpected("window_size", EXPECTED);
    let Some(value) = args.get("window_size") else { return Ok(None) };
    let numbers = value.as_array().ok_or_else(unexpected)?.iter().map(Value::as_i64);
    let [before, after] =
        numbers.collect::<Option<Vec<_>>>().and_then(|pair| pair.try_into().ok()).ok_or_else(unexpected)?;
    if before < 0 {
        return Ok(None);
    }
    if after > 0 {
        return Err(unexpected());
    }
    let skip = "window_attn_skip_freq";
    let in_layer = match args.get(skip) {
        None => vec![true; layers],
        Some(Value::Number(number)) => {
            let every = number.as_u64().filter(|&every| every > 0);
            let every = every.ok_or_else(|| args.unexpected(skip, "a whole number from 1"))?;
            (1..=layers as u64).map(|layer| layer % every != 0).collect()
        }
        Some(Value::Array(pattern)) if pattern.len() == layers => {
            pattern.iter().map(|item| item.as_i64() != Some(0)).collect()
        }
        Some(_) => return Err(args.unexpected(skip, &format!("a number, or one for each of {layers} layers"))),
    };
    let before = usize::try_from(before).map_err(|_| unexpected())?;
    Ok(in_layer.contains(&true).then_some((before, in_layer)))
}
