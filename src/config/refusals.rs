//! What cannot be evaluated, and why. Whatever is not refused here and passes the partition table is evaluated in full.

use super::observed::Observed;
use super::{
    Activation, AttentionKind, GqaLayout, MlpType, NeoxConfig, Norm, PositionEmbedding, Quirks, TransformerEngine,
};

/// A setting that this version cannot evaluate.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct Unsupported {
    /// The configuration key and its value.
    pub setting: String,
    /// Why it is refused.
    pub reason: String,
}

type Verdict = Result<(), Unsupported>;

fn refuse(setting: impl Into<String>, reason: &str) -> Verdict {
    Err(Unsupported { setting: setting.into(), reason: reason.to_owned() })
}

/// The first thing that cannot be evaluated.
pub(super) fn check(config: &NeoxConfig, observed: &Observed, quirks: &Quirks) -> Verdict {
    objective(config)?;
    attention_kinds(config)?;
    residual(config)?;
    mlp(config)?;
    query_key_norm(config)?;
    grouped_queries(config, quirks)?;
    transformer_engine(config, observed)?;
    mup(config, quirks)
}

fn objective(config: &NeoxConfig) -> Verdict {
    if config.is_reward_model() {
        return refuse("train_impl: rm", "a reward-model head puts out one score, not the probabilities of tokens");
    }
    if config.soft_prompt_tuning {
        return refuse(
            "soft_prompt_tuning",
            "a trained prompt stands before every input; evaluating without it would be another model",
        );
    }
    if config.moe_num_experts > 1 {
        return refuse(
            format!("moe_num_experts: {}", config.moe_num_experts),
            "routing tokens to experts is not implemented",
        );
    }
    Ok(())
}

fn attention_kinds(config: &NeoxConfig) -> Verdict {
    let reason = |kind: &AttentionKind| match kind {
        AttentionKind::Global | AttentionKind::Flash => None,
        AttentionKind::Gmlp | AttentionKind::Amlp => Some(
            "the norm in its gate takes its statistics over one rank's channels, so no one-rank model equals it, and its \
             forward pass is not implemented",
        ),
        AttentionKind::Mamba => Some("state-space blocks are not implemented"),
        AttentionKind::Rwkv => Some("gpt-neox runs RWKV on one rank only: there is nothing to merge"),
        AttentionKind::Local
        | AttentionKind::SparseFixed
        | AttentionKind::SparseVariable
        | AttentionKind::BigBird
        | AttentionKind::BsLongformer => Some("block-sparse attention is not implemented"),
        AttentionKind::Other(_) => Some("gpt-neox knows no such kind"),
    };
    match config.attention.iter().find_map(|kind| Some((kind, reason(kind)?))) {
        Some((kind, reason)) => refuse(format!("attention_config: {kind}"), reason),
        None => Ok(()),
    }
}

fn residual(config: &NeoxConfig) -> Verdict {
    if config.apply_residual_connection_post_layernorm {
        return refuse(
            "apply_residual_connection_post_layernorm: true",
            "a residual taken after the norm (until 2021-08) is not implemented",
        );
    }
    Ok(())
}

fn mlp(config: &NeoxConfig) -> Verdict {
    if config.mlp_type != MlpType::Llama {
        return Ok(());
    }
    if config.activation.is_gated() || config.uses_tanh_gelu() {
        let activation =
            if config.uses_tanh_gelu() { "gelu with bias_gelu_fusion" } else { config.activation.as_str() };
        return refuse(
            format!("mlp_type: llama with activation: {activation}"),
            "w1, w2 and w3 take an activation of one input without bias",
        );
    }
    Ok(())
}

fn query_key_norm(config: &NeoxConfig) -> Verdict {
    if !config.use_qk_layernorm {
        return Ok(());
    }
    if config.norm != Norm::LayerNorm {
        return refuse(
            format!("use_qk_layernorm: true with norm: {}", config.norm),
            "over heads and their elements together only layernorm is defined",
        );
    }
    let grouped = config.kv_heads() != config.num_attention_heads;
    if grouped && config.attention.contains(&AttentionKind::Flash) {
        return refuse(
            "use_qk_layernorm: true with num_kv_heads and flash attention",
            "gpt-neox itself fails: the norm is made for as many heads as queries have",
        );
    }
    Ok(())
}

fn grouped_queries(config: &NeoxConfig, quirks: &Quirks) -> Verdict {
    let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
    let interleaved = heads != kv_heads && quirks.gqa_layout.value == GqaLayout::Interleaved;
    if interleaved && !(config.head_dim() * kv_heads).is_multiple_of(heads) {
        return refuse(
            format!("num_kv_heads: {kv_heads} with gqa-layout interleaved"),
            "the heads of keys do not divide among the heads of queries, so gpt-neox could not have run it",
        );
    }
    Ok(())
}

fn transformer_engine(config: &NeoxConfig, observed: &Observed) -> Verdict {
    let TransformerEngine { row_parallel, fp8_attention, .. } = config.transformer_engine;
    let (attention, mlp) = (observed.engine_attention(config), observed.engine_mlp(config));
    if fp8_attention {
        return refuse("te_fp8_mha: true", "attention in 8-bit floats is not implemented");
    }
    if config.gpt_j_residual && observed.tp_size > 1 {
        let reducing = [(attention, "te_mha"), (mlp, "te_layernorm_mlp"), (row_parallel, "te_rowparallel")];
        if let Some((_, module)) = reducing.into_iter().find(|(used, _)| *used) {
            return refuse(
                format!("{module} with gpt_j_residual on {} ranks", observed.tp_size),
                "Transformer Engine reduces inside the module and gpt-neox once more after it, so that branch counts \
                 once per rank; whether a checkpoint was trained so cannot be told",
            );
        }
    }
    if attention {
        let unsettled = [
            (config.position_embedding != PositionEmbedding::Rotary, "without rotary positions"),
            (config.kv_heads() != config.num_attention_heads, "with num_kv_heads"),
            (config.sliding_window_width.is_some(), "with sliding_window_width"),
            (config.use_qk_layernorm, "with use_qk_layernorm"),
        ];
        if let Some((_, what)) = unsettled.into_iter().find(|(found, _)| *found) {
            return refuse(format!("te_mha {what}"), "what Transformer Engine makes of it is not established");
        }
    }
    if mlp {
        let known = matches!(
            config.activation,
            Activation::Gelu | Activation::GeGlu | Activation::Relu | Activation::ReGlu | Activation::SwiGlu
        );
        if !known {
            return refuse(
                format!("te_layernorm_mlp with activation: {}", config.activation),
                "Transformer Engine has no such activation",
            );
        }
        if !(config.norm.is_rms() || config.norm.has_bias()) {
            return refuse(
                format!("te_layernorm_mlp with norm: {}", config.norm),
                "Transformer Engine has layernorm and rmsnorm only",
            );
        }
    }
    Ok(())
}

fn mup(config: &NeoxConfig, quirks: &Quirks) -> Verdict {
    let Some(mup) = config.mup else { return Ok(()) };
    let one = |factor: f64| (factor - 1.0).abs() < f64::EPSILON;
    if !one(mup.attention_temperature) || !one(mup.output_temperature) {
        return refuse(
            "use_mup: true with mup_attn_temp or mup_output_temp",
            "whether the temperatures act depends on gpt-neox's version, and no file tells it",
        );
    }
    if quirks.mup_width.is_none() {
        return refuse(
            "use_mup: true",
            "the logits are divided by the model's width in units of the base shape, which is in the base-shapes file of \
             the training run only: give it with --quirk mup-width=NUMBER",
        );
    }
    Ok(())
}
