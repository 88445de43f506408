//! Models that are refused, with the reason and what to do. Some are refused altogether, because the meaning of their
//! parameters is not known here; others are read, inspected and merged, but not evaluated. A model that is not refused here
//! and passes the partition table is evaluated in full.

use serde_json::{Map, Value};

use super::choices::{Activation, AttentionKind, MlpType, Norm, PositionEmbedding};
use super::keys;
use super::neox::NeoxConfig;
use super::observed::Observed;
use super::quirk_values::GqaLayout;
use super::quirks::Quirks;
use super::unsupported::Unsupported;
use super::values::describe;

type Verdict = Result<(), Unsupported>;

/// Possible with every checkpoint of gpt-neox.
pub(crate) const RUN_GPT_NEOX: &str = "evaluate it with gpt-neox itself, one process per rank";

fn refuse(setting: impl Into<String>, reason: &str, needed: &str) -> Verdict {
    Err(Unsupported::new(setting, reason, needed))
}

fn refuse_if(found: bool, setting: impl Into<String>, reason: &str, needed: &str) -> Verdict {
    if found { refuse(setting, reason, needed) } else { Ok(()) }
}

/// The first thing that keeps the parameters from being understood, so that not even a merge would be right.
pub(super) fn check(config: &NeoxConfig, observed: &Observed, quirks: &Quirks) -> Verdict {
    check_kind(config, &config.raw)?;
    mlp(config, observed)?;
    query_key_norm(config)?;
    grouped_queries(config, quirks)?;
    transformer_engine(config, observed)
}

/// The first setting that makes a model of another kind, whatever its sizes are. To be checked before sizes.
pub(super) fn check_kind(config: &NeoxConfig, raw: &Map<String, Value>) -> Verdict {
    let experts = config.moe_num_experts;
    refuse_if(experts > 1, format!("moe_num_experts: {experts}"), EXPERTS.0, EXPERTS.1)?;
    attention_kinds(config)?;
    let is_triton = |kinds: &Value| kinds.to_string().contains("flash_triton");
    refuse_if(
        config.position_embedding == PositionEmbedding::Alibi && raw.get("attention_config").is_some_and(is_triton),
        "attention_config: flash_triton with pos_emb: alibi",
        "this kernel of Neox-LLM leaves the slopes out, which is not implemented",
        "evaluate it with the version of gpt-neox that trained it, one process per rank",
    )?;
    refuse_if(
        config.apply_residual_connection_post_layernorm,
        "apply_residual_connection_post_layernorm: true",
        "a residual taken after the norm (until 2021-08) is not implemented",
        "evaluate it with gpt-neox from before 2021-08-25 (157051ed), one process per rank",
    )?;
    refuse_if(
        config.mlp_type == MlpType::Gated,
        "mlp_type: gated",
        "the gated MLP of StableLM is not implemented",
        "evaluate it with the gpt-neox of Stability AI that trained it, or from its Hugging Face directory",
    )?;
    other_model(config, raw)
}

/// The first setting of gpt-neox or a fork that makes a model which is not implemented.
fn other_model(config: &NeoxConfig, raw: &Map<String, Value>) -> Verdict {
    let others = raw.iter().filter(|(name, value)| !says_what_is(config, name, value));
    let mut found = others.filter_map(|(name, value)| Some((name, value, keys::other_model(name, value)?)));
    let Some((name, value, (of, meaning))) = found.next() else { return Ok(()) };
    refuse(
        format!("{name}: {}", describe(value).trim_matches('"')),
        &format!("{meaning} (a setting of {of}), which is not implemented"),
        "evaluate it with the version of gpt-neox that trained it; if that version did not read the setting, remove it and \
         pass the file with --neox-config",
    )
}

/// Whether a fork's setting says no more than gpt-neox's settings do.
fn says_what_is(config: &NeoxConfig, name: &str, value: &Value) -> bool {
    let heads = config.num_attention_heads;
    match name {
        "head_dim" => value.as_u64().and_then(|size| size.checked_mul(heads as u64)) == Some(config.hidden_size as u64),
        "num_key_value_heads" => value.as_u64() == Some(heads as u64),
        "final_norm" => value.as_str() == Some(config.norm.as_str()),
        _ => false,
    }
}

/// The first thing that keeps a model from being evaluated whose parameters are understood.
pub(super) fn check_evaluation(config: &NeoxConfig, observed: &Observed, quirks: &Quirks) -> Verdict {
    refuse_if(
        config.is_reward_model(),
        "train_impl: rm",
        "a reward-model head returns one score, not the probabilities of tokens",
        "`kintsugi inspect` and merging read it; score passages with gpt-neox, one process per rank",
    )?;
    engine_attention(config, observed)?;
    mup(config, quirks)
}

/// Why experts are refused, and what would be needed.
pub(crate) const EXPERTS: (&str, &str) = (
    "routing tokens to experts is not implemented",
    "evaluate it with gpt-neox itself, one process per rank; dense models (moe_num_experts: 1) are read here",
);

pub(crate) const SPARSE: (&str, &str) = (
    "block-sparse attention is not implemented",
    "evaluate it with gpt-neox itself and DeepSpeed's sparse attention, one process per rank",
);

pub(crate) const STATE_SPACE: (&str, &str) = (
    "state-space blocks are not implemented",
    "gpt-neox's tools/ckpts/convert_neox_to_mamba_ssm.py joins the ranks of Mamba models into mamba_ssm's format",
);

fn attention_kinds(config: &NeoxConfig) -> Verdict {
    let why = |kind: &AttentionKind| match kind {
        AttentionKind::Global | AttentionKind::Flash => None,
        AttentionKind::Gmlp | AttentionKind::Amlp => Some((
            "the norm in its gate takes its statistics over one rank's channels, so no one-rank model equals it, and its \
             forward pass is not implemented",
            RUN_GPT_NEOX,
        )),
        AttentionKind::Mamba => Some(STATE_SPACE),
        AttentionKind::Rwkv => Some((
            "gpt-neox runs RWKV on one rank only: there is nothing to merge",
            "the one rank is the whole model already: evaluate it with gpt-neox",
        )),
        AttentionKind::Local
        | AttentionKind::SparseFixed
        | AttentionKind::SparseVariable
        | AttentionKind::BigBird
        | AttentionKind::BsLongformer => Some(SPARSE),
        AttentionKind::Other(_) => Some((
            "a kind of attention that is not known here",
            "evaluate it with the version of gpt-neox that trained it; if that is a kernel of ordinary causal attention, write \
             `flash` in its place and pass the file with --neox-config",
        )),
    };
    match config.attention.iter().find_map(|kind| Some((kind, why(kind)?))) {
        Some((kind, (reason, needed))) => refuse(format!("attention_config: {kind}"), reason, needed),
        None => Ok(()),
    }
}

fn mlp(config: &NeoxConfig, observed: &Observed) -> Verdict {
    if !observed.separate_mlp(config) {
        return mlp_shapes(config, observed);
    }
    let activation = if config.uses_tanh_gelu() { "gelu with bias_gelu_fusion" } else { config.activation.as_str() };
    refuse_if(
        config.activation.is_gated() || config.uses_tanh_gelu(),
        format!("mlp_type: llama with activation: {activation}"),
        "w1, w2 and w3 take an activation of one input without bias",
        "pass the configuration it was trained with as --neox-config FILE: llama models have activation silu",
    )
}

/// Whether the MLP is gated shows in its shapes, and must agree with the activation.
fn mlp_shapes(config: &NeoxConfig, observed: &Observed) -> Verdict {
    let (Some(first), Some(inner)) = (observed.mlp_first_size, observed.mlp_inner_size) else { return Ok(()) };
    let shapes =
        format!("activation: {} with a first layer of {first} rows and a second of {inner} columns", config.activation);
    refuse_if(
        !config.activation.is_gated() && first == 2 * inner,
        shapes.as_str(),
        "the shapes are those of a gated MLP, the activation is not gated",
        "pass the configuration it was trained with as --neox-config FILE: gated activations are geglu, reglu, swiglu, \
         bilinear and glu",
    )?;
    refuse_if(
        config.activation.is_gated() && first == inner,
        shapes,
        "the activation is gated, the shapes are not those of a gated MLP",
        "pass the configuration it was trained with as --neox-config FILE: activations without a gate are gelu, relu, \
         softsign, swish, mish and silu",
    )
}

fn query_key_norm(config: &NeoxConfig) -> Verdict {
    if !config.use_qk_layernorm {
        return Ok(());
    }
    refuse_if(
        !matches!(config.norm, Norm::LayerNorm | Norm::RmsNorm | Norm::NonParametricLayerNorm),
        format!("use_qk_layernorm: true with norm: {}", config.norm),
        "what this norm does over heads and their elements is not established",
        RUN_GPT_NEOX,
    )?;
    let grouped = config.kv_heads() != config.num_attention_heads;
    refuse_if(
        grouped && config.attention.contains(&AttentionKind::Flash),
        "use_qk_layernorm: true with num_kv_heads and flash attention",
        "gpt-neox itself fails: the norm is made for as many heads as queries have",
        "pass the configuration it was trained with as --neox-config FILE, perhaps with attention_config global",
    )
}

fn grouped_queries(config: &NeoxConfig, quirks: &Quirks) -> Verdict {
    let (heads, kv_heads) = (config.num_attention_heads, config.kv_heads());
    let interleaved = heads != kv_heads && quirks.gqa_layout.value == GqaLayout::Interleaved;
    refuse_if(
        interleaved && !(config.head_dim() * kv_heads).is_multiple_of(heads),
        format!("num_kv_heads: {kv_heads} with gqa-layout interleaved"),
        "the heads of keys do not divide among the heads of queries, so gpt-neox could not have run it",
        "--quirk gqa-layout=blocks if it was written since 2024-11-14",
    )
}

fn transformer_engine(config: &NeoxConfig, observed: &Observed) -> Verdict {
    let row_parallel = config.transformer_engine.row_parallel;
    let (attention, mlp) = (observed.engine_attention(config), observed.engine_mlp(config));
    if config.gpt_j_residual && observed.tp_size > 1 {
        let reducing = [(attention, "te_mha"), (mlp, "te_layernorm_mlp"), (row_parallel, "te_rowparallel")];
        if let Some((_, module)) = reducing.into_iter().find(|(used, _)| *used) {
            return refuse(
                format!("{module} with gpt_j_residual on {} ranks", observed.tp_size),
                "Transformer Engine reduces inside the module and gpt-neox once more after it, so that branch counts \
                 once per rank; whether a checkpoint was trained so is not recorded",
                "evaluate it with gpt-neox and the Transformer Engine that trained it, one process per rank",
            );
        }
    }
    if attention {
        let grouped = config.kv_heads() != config.num_attention_heads;
        refuse_if(grouped, "te_mha with num_kv_heads", UNSETTLED, RUN_GPT_NEOX)?;
        refuse_if(config.use_qk_layernorm, "te_mha with use_qk_layernorm", UNSETTLED, RUN_GPT_NEOX)?;
    }
    if mlp {
        let known = matches!(
            config.activation,
            Activation::Gelu | Activation::GeGlu | Activation::Relu | Activation::ReGlu | Activation::SwiGlu
        );
        refuse_if(
            !known,
            format!("te_layernorm_mlp with activation: {}", config.activation),
            "Transformer Engine has no such activation",
            "pass the configuration it was trained with as --neox-config FILE",
        )?;
        refuse_if(
            !(config.norm.is_rms() || config.norm.has_bias()),
            format!("te_layernorm_mlp with norm: {}", config.norm),
            "Transformer Engine has layernorm and rmsnorm only",
            "pass the configuration it was trained with as --neox-config FILE",
        )?;
    }
    Ok(())
}

const UNSETTLED: &str = "what Transformer Engine computes then is not established";

/// Attention of Transformer Engine whose parameters are the usual ones and whose forward pass is not known here.
fn engine_attention(config: &NeoxConfig, observed: &Observed) -> Verdict {
    let in_8_bits = config.transformer_engine.fp8_attention;
    refuse_if(in_8_bits, "te_fp8_mha: true", "attention in 8-bit floats is not implemented", RUN_GPT_NEOX)?;
    if !observed.engine_attention(config) {
        return Ok(());
    }
    let rotary = config.position_embedding == PositionEmbedding::Rotary;
    refuse_if(!rotary, "te_mha without rotary positions", UNSETTLED, RUN_GPT_NEOX)?;
    let window = config.sliding_window_width.is_some();
    refuse_if(window, "te_mha with sliding_window_width", UNSETTLED, RUN_GPT_NEOX)
}

fn mup(config: &NeoxConfig, quirks: &Quirks) -> Verdict {
    let Some(mup) = config.mup else { return Ok(()) };
    let one = |factor: f64| (factor - 1.0).abs() < f64::EPSILON;
    refuse_if(
        !one(mup.attention_temperature) || !one(mup.output_temperature),
        "use_mup: true with mup_attn_temp or mup_output_temp",
        "whether the temperatures act depends on gpt-neox's version, which is not recorded",
        "evaluate it with the gpt-neox that trained it, one process per rank",
    )?;
    refuse_if(
        quirks.mup_width.is_none(),
        "use_mup: true",
        "the logits are divided by the model's width in units of the base shape, which is in the base-shapes file of \
         the training run only",
        "give it with --quirk mup-width=NUMBER: hidden_size over the base model's hidden_size",
    )
}
