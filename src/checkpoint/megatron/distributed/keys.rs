//! What the names in a distributed checkpoint are.

use super::super::names::{self, Meaning, Place};
use crate::partition::Role;

/// What a tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A parameter of one place.
    One(Place, Role, Half),
    /// A parameter of all layers, which are its first dimension.
    Stacked(Role, Half),
    /// No parameter: a table that is computed anew.
    Ignored,
    Unknown,
}

/// Which rows of a parameter a tensor has: those of SwiGLU's two matrices may be stored apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    Whole,
    /// `weight_w`, which the activation is of.
    First,
    /// `weight_v`
    Second,
}

/// What comes before the names of the model in checkpoints of NeMo, and of wrappers that a writer left in place.
const PREFIXES: [&str; 2] = ["module.", "model."];

/// Beginnings of the whole names of what is no model. A moment of the optimizer is `optimizer.state.exp_avg.<name>`, so that
/// its end is a model's name.
const OTHER_STATE: [&str; 6] =
    ["optimizer", "chained_", "opt_param_scheduler", "lr_scheduler", "rng_state", "rerun_state_machine_state"];

/// Whether a name may be of the model: everything but the state of an optimizer, of generators, and of the training loop.
pub(super) fn is_of_model(name: &str) -> bool {
    !OTHER_STATE.iter().any(|other| name.starts_with(other)) && !name.contains("._extra_state")
}

/// A name without what other programs put before it.
pub(super) fn plain(mut name: &str) -> &str {
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

pub(super) fn meaning(name: &str) -> Key {
    let name = plain(name);
    if let Some(key) = whole(name, Half::Whole) {
        return key;
    }
    let halves = [("_w", Half::First), ("_v", Half::Second)];
    let found = halves.iter().find_map(|&(ending, half)| whole(name.strip_suffix(ending)?, half));
    let has_halves = |role: Role| matches!(role, Role::MlpInputWeight | Role::MlpInputBias);
    match found {
        Some(Key::One(_, role, _) | Key::Stacked(role, _)) if !has_halves(role) => Key::Unknown,
        found => found.unwrap_or(Key::Unknown),
    }
}

fn whole(name: &str, half: Half) -> Option<Key> {
    if let Some(role) = names::stacked_role(name) {
        return Some(Key::Stacked(role, half));
    }
    match names::meaning(name) {
        // The code before Megatron core has no such checkpoints.
        Meaning::Parameter(..) if names::is_legacy(name) => None,
        Meaning::Parameter(place, role) => Some(Key::One(place, role, half)),
        Meaning::Ignored => Some(Key::Ignored),
        Meaning::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_decide() {
        let norm = Key::Stacked(Role::InputNormGain, Half::Whole);
        for (name, expected) in [
            ("decoder.layers.self_attention.linear_qkv.layer_norm_weight", norm),
            ("module.decoder.layers.self_attention.linear_qkv.layer_norm_weight", norm),
            ("decoder.layers.mlp.linear_fc1.weight_v", Key::Stacked(Role::MlpInputWeight, Half::Second)),
            ("decoder.layers.2.mlp.linear_fc1.weight_w", Key::One(Place::Layer(2), Role::MlpInputWeight, Half::First)),
            ("decoder.layers.2.mlp.linear_fc2.weight_w", Key::Unknown),
            ("embedding.word_embeddings.weight", Key::One(Place::Embedding, Role::WordEmbedding, Half::Whole)),
            ("decoder.final_layernorm.weight", Key::One(Place::Output, Role::FinalNormGain, Half::Whole)),
            ("decoder.final_layernorm.weight_w", Key::Unknown),
            ("rotary_pos_emb.inv_freq", Key::Ignored),
            ("language_model.embedding.word_embeddings.weight", Key::Unknown),
            ("decoder.layers.new.weight", Key::Unknown),
        ] {
            assert_eq!(meaning(name), expected, "{name}");
        }
        for other in [
            "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight",
            "chained_0.optimizer.state.fp32_param.embedding.word_embeddings.weight",
            "decoder.layers.mlp.linear_fc1._extra_state/shard_0_3",
            "rng_state/shard_0.0_1.2",
            "rerun_state_machine_state/shard_0_1",
        ] {
            assert!(!is_of_model(other), "{other}");
        }
        assert!(is_of_model("decoder.layers.mlp.linear_fc1.weight"));
    }
}
