//! The settings with which gpt-neox builds a model that was made elsewhere: the way back from an [`Architecture`].

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::choices::{Activation, AttentionKind, Norm};
use super::forms::{Head, MlpInput, Positions, QueryKeyNorm, Residual};
use super::unsupported::Unsupported;

impl Architecture {
    /// The keys of a gpt-neox configuration from which today's gpt-neox builds this model, those of partition and number
    /// format aside.
    ///
    /// # Errors
    /// What gpt-neox cannot express, by name.
    pub fn neox_settings(&self) -> Result<Map<String, Value>, Unsupported> {
        self.check_neox_expresses()?;
        let mut settings = Map::new();
        let mut set = |key: &str, value: Value| drop(settings.insert(key.to_owned(), value));
        set("num_layers", json!(self.layer_count));
        set("hidden_size", json!(self.hidden_size));
        set("num_attention_heads", json!(self.head_count));
        if self.kv_head_count != self.head_count {
            set("num_kv_heads", json!(self.kv_head_count));
        }
        // gpt-neox takes two thirds of it for both halves of a gated MLP together.
        let inner = if self.gated { self.mlp_inner_size.saturating_mul(3) } else { self.mlp_inner_size };
        set("intermediate_size", json!(inner));
        set("seq_length", json!(self.max_position_embeddings));
        set("max_position_embeddings", json!(self.max_position_embeddings));
        set("norm", json!(self.norm.as_str()));
        let epsilon = match self.norm {
            Norm::RmsNorm | Norm::TransformerEngineRmsNorm => "rms_norm_epsilon",
            Norm::ScaleNorm => "scalenorm_epsilon",
            Norm::LayerNorm | Norm::NonParametricLayerNorm | Norm::TransformerEngineLayerNorm => "layernorm_epsilon",
        };
        set(epsilon, json!(self.norm_epsilon));
        set("gpt_j_residual", json!(self.residual != Residual::Sequential));
        set("gpt_j_tied", json!(self.mlp_input == MlpInput::AttentionNorm));
        set("activation", json!(self.activation.as_str()));
        set("bias_gelu_fusion", json!(self.tanh_gelu));
        set("use_bias_in_attn_linear", json!(self.qkv_bias));
        set("use_bias_in_mlp", json!(self.mlp_bias));
        set("no_weight_tying", json!(self.head != Head::Tied));
        set("output_layer_parallelism", json!(if self.head == Head::Row { "row" } else { "column" }));
        let flash = self.attention.contains(&AttentionKind::Flash);
        set("attention_config", json!([[[if flash { "flash" } else { "global" }], "all"]]));
        if let Some(window) = self.sliding_window {
            set("sliding_window_width", json!(window));
        }
        settings.extend(self.position_settings());
        Ok(settings)
    }

    fn position_settings(&self) -> Map<String, Value> {
        let settings = match self.positions {
            Positions::Rotary { dims, base, .. } => json!({
                "pos_emb": "rotary",
                "rotary_pct": share_of(dims, self.head_size),
                "rotary_emb_base": whole_number(base),
            }),
            Positions::Learned { offset: 0 } => json!({ "pos_emb": "learned" }),
            Positions::Learned { offset } => json!({ "pos_emb": "learned", "opt_pos_emb_offset": offset }),
            Positions::Sinusoidal => json!({ "pos_emb": "sinusoidal" }),
            Positions::Alibi => json!({ "pos_emb": "alibi" }),
            Positions::RelativeBuckets { buckets, max_distance } => {
                json!({ "pos_emb": "rpe", "rpe_num_buckets": buckets, "rpe_max_distance": max_distance })
            }
            Positions::Absent => json!({ "pos_emb": "none" }),
        };
        if let Value::Object(settings) = settings { settings } else { Map::new() }
    }

    /// Refuses what gpt-neox has no setting for.
    fn check_neox_expresses(&self) -> Result<(), Unsupported> {
        const INSTEAD: &str = "--format hf writes it, where transformers has the model";
        let attention = &self.attention;
        let reason = if attention.iter().any(|kind| Some(kind) != attention.first()) {
            "its layers mix tokens in one way"
        } else if self.query_size() != self.hidden_size {
            "its heads have hidden_size / num_attention_heads elements each"
        } else if self.qkv_bias != self.attention_output_bias {
            "all linear layers of its attention have biases, or none"
        } else if self.query_key_norm == Some(QueryKeyNorm::PerHead) {
            "it has no norms for queries and for keys, each over the elements of a head"
        } else if matches!(self.positions, Positions::Rotary { scaling: Some(_), .. }) {
            "it does not scale the frequencies of rotary embedding"
        } else if self.activation == Activation::SquaredRelu {
            "it has no squared ReLU"
        } else if self.gated && self.tanh_gelu {
            "the gate of its MLP has no tanh form of GELU"
        } else {
            return Ok(());
        };
        Err(Unsupported::new("gpt-neox", reason, INSTEAD))
    }
}

/// As an integer where it is one: gpt-neox's setting is typed so.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53 and whole")]
fn whole_number(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT { json!(number as i64) } else { json!(number) }
}

/// The share of a head that makes `int(head_size * share)`, as gpt-neox and transformers compute it, come out as `dims`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "elements of a head"
)]
pub(crate) fn share_of(dims: usize, head_size: usize) -> f64 {
    let exact = dims as f64 / head_size as f64;
    let comes_out = |share: f64| (head_size as f64 * share) as usize == dims;
    if comes_out(exact) { exact } else { exact.next_up() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as gpt-neox and transformers do"
    )]
    fn every_share_comes_out() {
        for head_size in 1..=256_usize {
            for dims in (0..=head_size).step_by(2) {
                assert_eq!((head_size as f64 * share_of(dims, head_size)) as usize, dims, "{dims} of {head_size}");
            }
        }
    }
}
