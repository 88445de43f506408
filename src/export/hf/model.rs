//! Which of transformers' models computes what a model computes, and why none does where none does.

use crate::checkpoint::HuggingFaceClass;
use crate::config::{
    Activation, Architecture, EpsilonPlacement, Head, MlpInput, MlpMatrices, Multipliers, Norm, Positions,
    QueryKeyNorm, Residual, RotaryScaling,
};
use crate::export::ExportError;

/// The largest epsilon that may be outside the root of an RMS norm where the model has it inside: relative to a mean
/// square of order one, it is below the rounding of float32.
const NEGLIGIBLE_EPSILON: f64 = 1e-7;

/// A model as transformers knows it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct HfModel {
    pub class: HuggingFaceClass,
    /// Name of the MLP's non-linearity (`transformers/activations.py`).
    pub hidden_act: &'static str,
    /// None in GPT-2.
    pub rotary: Option<Rotary>,
    pub epsilon: f64,
    /// The last tokens that attention sees, each token itself among them, where it does not see all.
    pub window: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rotary {
    /// Rotated elements of each head.
    pub dims: usize,
    /// Of their frequencies.
    pub base: f64,
    pub scaling: Option<RotaryScaling>,
}

/// Why a class cannot express the model, and the alternative.
type Refusal = (String, &'static str);

const NEOX_INSTEAD: &str = "--format neox writes it as gpt-neox runs it";
const LOSSY_INSTEAD: &str = "--format neox writes it as it is; --allow-inexact takes the nearest that there is";

impl HfModel {
    /// The model of transformers that is this one. Where one differs in details that `allow_inexact` may pass over, only
    /// then.
    ///
    /// # Errors
    /// [`ExportError::Inexpressible`], with the reason.
    pub(super) fn of(architecture: &Architecture, allow_inexact: bool) -> Result<Self, ExportError> {
        let window = window(architecture);
        let class = class(architecture, window.is_some());
        let refuse = |(reason, instead): Refusal| ExportError::Inexpressible {
            format: class.name(),
            reason,
            instead: instead.to_owned(),
        };
        let rotary = positions(class, architecture).map_err(refuse)?;
        common(architecture).map_err(refuse)?;
        match class {
            HuggingFaceClass::GptNeox => gpt_neox(architecture).map_err(refuse)?,
            HuggingFaceClass::Gpt2 => gpt_neox(architecture).and_then(|()| gpt2(architecture)).map_err(refuse)?,
            _ => like_llama(class, architecture, window.is_some()).map_err(refuse)?,
        }
        if !allow_inexact {
            nearly(architecture).map_err(refuse)?;
        }
        let hidden_act = hidden_act(architecture).map_err(refuse)?;
        Ok(Self { class, hidden_act, rotary, epsilon: epsilon(architecture), window })
    }
}

/// The class that has most of the model; it may lack something all the same.
fn class(architecture: &Architecture, windowed: bool) -> HuggingFaceClass {
    if !architecture.norm.is_rms() {
        let learned = matches!(architecture.positions, Positions::Learned { .. });
        return if learned { HuggingFaceClass::Gpt2 } else { HuggingFaceClass::GptNeox };
    }
    match (architecture.query_key_norm, architecture.qkv_bias) {
        (Some(QueryKeyNorm::PerHead), _) => HuggingFaceClass::Qwen3,
        (_, true) if !architecture.attention_output_bias && !architecture.mlp_bias => HuggingFaceClass::Qwen2,
        _ if windowed => HuggingFaceClass::Mistral,
        _ => HuggingFaceClass::Llama,
    }
}

fn refused(reason: &str) -> Result<(), Refusal> {
    Err((reason.to_owned(), NEOX_INSTEAD))
}

fn positions(class: HuggingFaceClass, architecture: &Architecture) -> Result<Option<Rotary>, Refusal> {
    let positions = match architecture.positions {
        Positions::Rotary { dims, base, scaling } if dims > 0 => return Ok(Some(Rotary { dims, base, scaling })),
        Positions::Learned { offset: 0 } if class == HuggingFaceClass::Gpt2 => return Ok(None),
        Positions::Learned { .. } if class == HuggingFaceClass::Gpt2 => {
            let reason = "its learned positions begin with the first row (opt_pos_emb_offset)";
            return Err((reason.to_owned(), NEOX_INSTEAD));
        }
        Positions::Rotary { .. } | Positions::Absent => "no positions",
        Positions::Learned { .. } => "learned positions (pos_emb: learned)",
        Positions::Sinusoidal => "sinusoidal positions (pos_emb: sinusoidal)",
        Positions::Alibi => "a slope for each head (pos_emb: alibi)",
        Positions::RelativeBuckets { .. } => "relative position biases (pos_emb: rpe)",
    };
    Err((format!("its positions are rotary embeddings, and this model has {positions}"), NEOX_INSTEAD))
}

/// Refuses settings that no class has.
fn common(architecture: &Architecture) -> Result<(), Refusal> {
    if architecture.head == Head::Reward {
        return refused("it ends in the probabilities of tokens, and this model in a score (train_impl: rm)");
    }
    if architecture.soft_prompt_length > 0 {
        return refused("it has no trained prompt before every input (soft_prompt_tuning)");
    }
    match architecture.query_key_norm {
        None => {}
        Some(QueryKeyNorm::OverHeads) => {
            return refused(
                "it normalises no queries and keys (use_qk_layernorm), least of all over the heads of one rank",
            );
        }
        Some(QueryKeyNorm::PerHead) if architecture.norm.is_rms() => {}
        Some(QueryKeyNorm::PerHead) => {
            return refused(
                "it normalises no queries and keys, and Qwen3ForCausalLM, which does, has RMS norms (qk_layernorm)",
            );
        }
    }
    if architecture.attention_output_bias && !architecture.qkv_bias {
        return refused("where the output of its attention has a bias, queries, keys and values have biases too");
    }
    if architecture.norm == Norm::ScaleNorm {
        return refused("it has no norm with a single gain (norm: scalenorm)");
    }
    if architecture.mlp_input == MlpInput::NormOfAttentionNorm {
        return refused("its MLP does not read a norm of the attention's norm (gpt-neox of 2021-09-29 to 2021-10-20)");
    }
    if architecture.multipliers != Multipliers::NONE {
        return refused("it has no multipliers of maximal update parametrisation (use_mup)");
    }
    Ok(())
}

/// In transformers the token itself belongs to the window, in gpt-neox the tokens before it. Layers without flash attention
/// have none. A window over all tokens before the last is none.
fn window(architecture: &Architecture) -> Option<usize> {
    let windowed = (0..architecture.layer_count).any(|layer| architecture.is_flash(layer));
    let window = architecture.sliding_window.filter(|_| windowed)?.checked_add(1)?;
    (window < architecture.max_position_embeddings).then_some(window)
}

fn gpt_neox(architecture: &Architecture) -> Result<(), Refusal> {
    if window(architecture).is_some() {
        return refused("its attention has no window (sliding_window_width)");
    }
    if architecture.gated {
        let reason = format!(
            "its MLP is not gated (activation: {}), and LlamaForCausalLM, whose is, has no LayerNorm",
            architecture.activation
        );
        return Err((reason, NEOX_INSTEAD));
    }
    if architecture.kv_head_count != architecture.head_count {
        return refused("it has as many key heads as query heads (num_kv_heads)");
    }
    if architecture.query_size() != architecture.hidden_size {
        return refused("its heads have hidden_size / num_attention_heads elements each");
    }
    Ok(())
}

/// Refuses what GPT-NeoX has and GPT-2 has not.
fn gpt2(architecture: &Architecture) -> Result<(), Refusal> {
    if architecture.residual != Residual::Sequential {
        return refused("it adds attention and MLP one after the other (gpt_j_residual)");
    }
    Ok(())
}

fn like_llama(class: HuggingFaceClass, architecture: &Architecture, windowed: bool) -> Result<(), Refusal> {
    if architecture.residual != Residual::Sequential {
        return refused(
            "it adds attention and MLP one after the other (gpt_j_residual), and GPTNeoXForCausalLM has no RMS norm",
        );
    }
    if !architecture.gated {
        let reason = format!("its MLP is gated, and this model's is not (activation: {})", architecture.activation);
        return Err((reason, NEOX_INSTEAD));
    }
    if !matches!(architecture.positions, Positions::Rotary { dims, .. } if dims == architecture.head_size) {
        return refused("it turns all of each head (rotary_pct)");
    }
    if class != HuggingFaceClass::Llama && architecture.mlp_bias {
        return refused("its linear layers have no biases (use_bias_in_attn_linear, use_bias_in_mlp)");
    }
    if class == HuggingFaceClass::Mistral && architecture.qkv_bias {
        return refused("its linear layers have no biases (use_bias_in_attn_linear, use_bias_in_mlp)");
    }
    if windowed && !(0..architecture.layer_count).all(|layer| architecture.is_flash(layer)) {
        return refused("all its layers have the window, here those of flash attention alone (attention_config)");
    }
    Ok(())
}

/// Refuses settings that change the last digits only.
fn nearly(architecture: &Architecture) -> Result<(), Refusal> {
    let refused = |reason: &str| Err((reason.to_owned(), LOSSY_INSTEAD));
    if architecture.onnx_gelu {
        return refused("its GELU does not round √2 to 1.41421 (onnx_safe)");
    }
    if architecture.norm.is_rms()
        && architecture.rms_epsilon == EpsilonPlacement::Outside
        && architecture.norm_epsilon > NEGLIGIBLE_EPSILON
    {
        return refused("its RMS norm adds epsilon below the root (quirk rms-epsilon)");
    }
    if architecture.norm_form() != architecture.mlp_norm_form() {
        return refused("all its norms have one epsilon (te_layernorm_mlp)");
    }
    Ok(())
}

/// With epsilon outside the root, √(x² + ε²) is nearest to |x| + ε.
fn epsilon(architecture: &Architecture) -> f64 {
    match architecture.rms_epsilon {
        EpsilonPlacement::Outside if architecture.norm.is_rms() => architecture.norm_epsilon.powi(2),
        _ => architecture.norm_epsilon,
    }
}

fn hidden_act(architecture: &Architecture) -> Result<&'static str, Refusal> {
    Ok(match architecture.activation {
        // The name that GPT-2's own configurations have.
        Activation::Gelu if architecture.tanh_gelu && matches!(architecture.positions, Positions::Learned { .. }) => {
            "gelu_new"
        }
        // The tanh form as gpt-neox writes it; GPT-NeoX-20B's published configuration names it so too.
        Activation::Gelu | Activation::GeGlu if architecture.tanh_gelu => "gelu_fast",
        Activation::Gelu | Activation::GeGlu => "gelu",
        Activation::Relu | Activation::ReGlu => "relu",
        Activation::SquaredRelu => "relu2",
        Activation::Swish | Activation::Silu | Activation::SwiGlu => "silu",
        Activation::Mish => "mish",
        Activation::Glu => "sigmoid",
        Activation::Bilinear => "linear",
        Activation::Softsign => {
            return Err(("transformers knows no activation `softsign`".to_owned(), NEOX_INSTEAD));
        }
    })
}

/// Whether the MLP's first matrix holds the gate before the other half.
pub(super) fn gate_comes_first(architecture: &Architecture) -> bool {
    architecture.mlp_matrices == MlpMatrices::TransformerEngine
}
