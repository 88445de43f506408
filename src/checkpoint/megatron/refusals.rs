//! Arguments of models that compute something else than is implemented.

use super::args::{Args, shown};
use super::error::MegatronError;
use crate::config::Unsupported;

pub(super) const NEEDED: &str = "evaluate it with Megatron-LM";

const EXPERTS: &str = "mixtures of experts are not read";
const HYBRID: &str = "layers of another kind than attention with an MLP are not implemented";
const HETEROGENEOUS: &str = "layers that differ from one another are not implemented";

/// Fields that must be None, False, 0 or empty.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("activation_func_clamp_value", "an activation whose values are cut is not implemented"),
    ("apply_residual_connection_post_layernorm", "a residual stream that starts behind the norm is not implemented"),
    ("attention_output_gate", "a gate on the attention's output is not implemented"),
    ("experimental_attention_variant", HYBRID),
    ("glu_linear_offset", "an offset of the gated half is not implemented"),
    ("heterogeneous_layers_config_encoded_json", HETEROGENEOUS),
    ("heterogeneous_layers_config_path", HETEROGENEOUS),
    ("hybrid_attention_ratio", HYBRID),
    ("hybrid_layer_pattern", HYBRID),
    ("hybrid_mlp_ratio", HYBRID),
    ("hybrid_override_pattern", HYBRID),
    ("is_hybrid_model", HYBRID),
    ("linear_attention_freq", HYBRID),
    ("mtp_num_layers", "heads that predict further tokens would be lost in every merge"),
    ("multi_latent_attention", "multi-latent attention is not implemented"),
    ("no_rope_freq", "layers without rotary positions among others are not implemented"),
    ("num_experts", EXPERTS),
    ("qk_l2_norm", "queries and keys normalised without a gain are not implemented"),
    ("quick_geglu", "a gate with the sigmoid form of GELU is not implemented"),
    ("retro_add_retriever", "models that retrieve (Retro) are not implemented"),
    ("use_mup", "maximal update parametrisation is not implemented for Megatron's models"),
    ("yaml_cfg", "the model's settings are in that file; give them with --megatron-args and `yaml_cfg: null`"),
];

const SOFTMAX: &str = "softmax_type";
const SPEC: &str = "spec";
const SHARED_LAYERS: &str = "num_unique_layers";
const EXPERT_RANKS: &str = "expert_model_parallel_size";

/// Module of the layers that are implemented.
const KNOWN_SPEC: &str = "megatron.core.models.gpt.gpt_layer_specs";

/// Every field that is looked at here.
pub(super) fn fields() -> impl Iterator<Item = &'static str> {
    let off = MUST_BE_OFF.iter().map(|&(field, _)| field);
    off.chain([SOFTMAX, SPEC, SHARED_LAYERS, EXPERT_RANKS])
}

pub(super) fn error(args: &Args, source: Unsupported) -> MegatronError {
    MegatronError::Unsupported { path: args.source_name().into(), source }
}

/// Refuses what the arguments show not to be implemented.
pub(super) fn check(args: &Args) -> Result<(), MegatronError> {
    let refuse = |field: &str, reason: &str| {
        let value = args.get(field).map(shown).unwrap_or_default();
        Err(error(args, Unsupported::new(format!("{field}: {value}"), reason, NEEDED)))
    };
    for &(field, reason) in MUST_BE_OFF {
        if args.is_set(field) {
            return refuse(field, reason);
        }
    }
    if args.get(SOFTMAX).is_some_and(|value| value.as_str() != Some("vanilla")) {
        return refuse(SOFTMAX, "scores with an offset (attention sinks) are not implemented");
    }
    if args.count(EXPERT_RANKS)?.unwrap_or(1) > 1 {
        return refuse(EXPERT_RANKS, EXPERTS);
    }
    let unique = args.count(SHARED_LAYERS)?;
    if unique.is_some() && unique != args.count("num_layers")? {
        return refuse(SHARED_LAYERS, "layers that share parameters are not implemented");
    }
    let spec = args.get(SPEC).map(|spec| spec.as_array().and_then(|spec| spec.first()).unwrap_or(spec));
    if spec.is_some_and(|spec| spec.as_str() != Some(KNOWN_SPEC)) {
        return refuse(SPEC, "layers of a module of one's own are not known");
    }
    Ok(())
}
