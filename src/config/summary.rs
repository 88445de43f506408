//! The architecture by name and value, for reports.

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::forms::{
    Head, MlpInput, MlpMatrices, Multipliers, Positions, QkvLayout, QueryKeyNorm, Residual, RotaryScaling,
};
use super::quirk_values::{EpsilonPlacement, RotaryTables};

impl Architecture {
    /// The settings by name, for reports. What most models do not have is named only where it is.
    pub fn summary(&self) -> Map<String, Value> {
        let activation = if self.tanh_gelu && self.activation.is_gelu() {
            format!("{} (tanh)", self.activation)
        } else {
            self.activation.to_string()
        };
        let head = match self.head {
            Head::Column => "column-parallel",
            Head::Row => "row-parallel",
            Head::Tied => "tied to the word embedding",
            Head::Reward => "one score, row-parallel",
        };
        let mlp_norm = match self.mlp_input {
            MlpInput::OwnNorm => "own",
            MlpInput::AttentionNorm => "shared with attention",
            MlpInput::NormOfAttentionNorm => "own, of the attention norm's output",
        };
        let entries: [(&str, Value); 15] = [
            ("layers", self.layer_count.into()),
            ("hidden_size", self.hidden_size.into()),
            ("attention_heads", self.head_count.into()),
            ("key_value_heads", self.kv_head_count.into()),
            ("mlp_inner_size", self.mlp_inner_size.into()),
            ("padded_vocab_size", self.padded_vocab_size.into()),
            ("max_position_embeddings", self.max_position_embeddings.into()),
            ("norm", self.norm_words().into()),
            ("positions", self.position_words().into()),
            ("activation", activation.into()),
            ("residual", self.residual_words().into()),
            ("mlp_norm", mlp_norm.into()),
            ("head", head.into()),
            ("attention_bias", self.attention_bias_value()),
            ("mlp_bias", self.mlp_bias.into()),
        ];
        let named = entries.into_iter().chain(self.unusual());
        named.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The settings that make the other model compute something else from the same parameters: name, this model's value,
    /// the other's. How the files lay parameters out, and how many rows the vocabulary was padded to, is left out.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        Self::summary_differences(&self.summary(), &other.summary())
    }

    /// The same between two of [`Architecture::summary`].
    pub fn summary_differences(
        ours: &Map<String, Value>,
        theirs: &Map<String, Value>,
    ) -> Vec<(String, String, String)> {
        const LAYOUT: [&str; 5] = ["qkv", "mlp", "head", "padded_vocab_size", "max_position_embeddings"];
        let names = ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name)));
        let words = |settings: &Map<String, Value>, name: &str| match settings.get(name) {
            None => "none".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        names
            .filter(|name| !LAYOUT.contains(&name.as_str()))
            .map(|name| (name.clone(), words(ours, name), words(theirs, name)))
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect()
    }

    fn attention_bias_value(&self) -> Value {
        match (self.qkv_bias, self.attention_output_bias) {
            (true, false) => "of queries, keys and values only".into(),
            (false, true) => "of the output only".into(),
            (both, _) => both.into(),
        }
    }

    fn norm_words(&self) -> String {
        let outside = self.norm.is_rms() && self.rms_epsilon == EpsilonPlacement::Outside;
        format!("{}, epsilon {}{}", self.norm, self.norm_epsilon, if outside { " outside the root" } else { "" })
    }

    fn position_words(&self) -> String {
        match self.positions {
            Positions::Rotary { dims, base, scaling } => {
                let tables = match self.rotary_tables {
                    RotaryTables::Float32 => "",
                    RotaryTables::Storage => ", tables in the files' type",
                    RotaryTables::RoundedAngles => ", angles in the files' type",
                };
                let scaled = match scaling {
                    None => String::new(),
                    Some(RotaryScaling::Linear { factor }) => format!(", frequencies / {factor}"),
                    Some(RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions }) => {
                        format!(
                            ", frequencies / {factor} by wavelength (llama3, {original_positions} positions, factors \
                             {low_freq_factor} to {high_freq_factor})"
                        )
                    }
                };
                format!("rotary, {dims} of {} elements, base {base}{tables}{scaled}", self.head_size)
            }
            Positions::Learned { offset: 0 } => "learned".to_owned(),
            Positions::Learned { offset } => format!("learned, offset {offset}"),
            Positions::Sinusoidal => "sinusoidal".to_owned(),
            Positions::Alibi => "alibi".to_owned(),
            Positions::RelativeBuckets { buckets, max_distance } => {
                format!("rpe, {buckets} buckets up to distance {max_distance}")
            }
            Positions::Absent => "none".to_owned(),
        }
    }

    fn residual_words(&self) -> &'static str {
        match self.residual {
            Residual::Parallel if self.attention_dropped => "parallel, its attention branch lost",
            Residual::Parallel => "parallel: row-parallel biases added before the all-reduce",
            Residual::ParallelReducedApart => {
                "parallel, reduced apart: row-parallel biases added after the all-reduces"
            }
            Residual::Sequential => "sequential: row-parallel biases added after the all-reduce",
        }
    }

    fn unusual(&self) -> Vec<(&'static str, Value)> {
        let mut found: Vec<(&'static str, Value)> = Vec::new();
        if self.head_size * self.head_count != self.hidden_size {
            found.push(("head_size", self.head_size.into()));
        }
        if let Some(norm) = self.query_key_norm {
            let over = match norm {
                QueryKeyNorm::PerHead => "over each head, queries and keys apart",
                QueryKeyNorm::OverHeads if self.norm.is_rms() => "over each head",
                QueryKeyNorm::OverHeads => "over the heads of each rank",
            };
            found.push(("qk_layernorm", over.into()));
        }
        if self.query_key_layer_scaling {
            found.push(("query_key_layer_scaling", true.into()));
        }
        match self.qkv {
            QkvLayout::Interleaved => {}
            QkvLayout::Blocks => found.push(("qkv", "blocks of Q, K and V".into())),
            QkvLayout::InterleavedGroups => found.push(("qkv", "interleaved by query head".into())),
        }
        match self.mlp_matrices {
            MlpMatrices::UpGate => {}
            MlpMatrices::TransformerEngine => found.push(("mlp", "Transformer Engine, [gate | up]".into())),
            MlpMatrices::Separate => found.push(("mlp", "w1, w2, w3".into())),
        }
        if self.soft_prompt_length > 0 {
            found.push(("soft_prompt_rows", self.soft_prompt_length.into()));
        }
        if let Some(width) = self.sliding_window.filter(|_| (0..self.layer_count).any(|layer| self.is_flash(layer))) {
            found.push(("sliding_window", width.into()));
        }
        if self.multipliers != Multipliers::NONE {
            let Multipliers { embedding, positions, logit_divisor, scores_by_head_size } = self.multipliers;
            let scores = if scores_by_head_size { ", scores divided by the head size" } else { "" };
            let words = format!("embedding × {embedding}, positions × {positions}, logits / {logit_divisor}{scores}");
            found.push(("mup", words.into()));
        }
        found
    }
}
