//! Settings with a fixed set of values, spelled as gpt-neox spells them.

use std::fmt;

use serde_json::Value;

pub(super) trait Choice: Sized + Copy + 'static {
    const VALUES: &'static [Self];

    /// Other spellings of values, in older versions.
    const ALIASES: &'static [(&'static str, Self)];

    fn word(self) -> &'static str;
}

macro_rules! choices {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$meaning:meta])* $variant:ident = $word:literal $(| $alias:literal)*,)+
        // Values that gpt-neox lacks, named for reports only.
        $(; $($(#[$foreign_meaning:meta])* $foreign:ident = $foreign_word:literal,)+)?
    })+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
            $($($(#[$foreign_meaning])* $foreign,)+)?
        }

        impl $name {
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    $($(Self::$foreign => $foreign_word,)+)?
                }
            }
        }

        impl $crate::config::choices::Choice for $name {
            const VALUES: &'static [Self] = &[$(Self::$variant),+];
            const ALIASES: &'static [(&'static str, Self)] = &[$($(($alias, Self::$variant),)*)+];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }
    )+};
}

pub(super) use choices;

choices! {
    /// Key `norm`: before attention, before the MLP and before the head (`megatron/model/norms.py`).
    Norm {
        /// Mean and variance, gain and bias. From 2021-06-22 to 2021-10-20 also in a kernel of apex.
        LayerNorm = "layernorm" | "apexlayernorm",
        /// Root mean square, gain only. The other words are of neox-LLAMA2, with epsilon inside the root.
        RmsNorm = "rmsnorm" | "apexrmsnorm" | "llamarmsnorm",
        /// Mean and variance, nothing learned. The other word is of TokenFormer.
        NonParametricLayerNorm = "non_parametric_layernorm" | "layernorm_nonparam",
        /// Length of the vector, one scalar gain.
        ScaleNorm = "scalenorm",
        /// Transformer Engine's RMS norm, stored below `.norm`.
        TransformerEngineRmsNorm = "te_rmsnorm",
        /// Transformer Engine's layer norm, stored below `.norm`.
        TransformerEngineLayerNorm = "te_layernorm",
    }

    /// Key `pos_emb`: how a token learns its position (`megatron/model/positional_embeddings.py`).
    PositionEmbedding {
        /// A learned vector for each position, added to the embedding.
        Learned = "learned",
        /// Rotation of query and key.
        Rotary = "rotary",
        /// Fixed sines and cosines, added to the embedding.
        Sinusoidal = "sinusoidal",
        /// T5's learned bias for each distance bucket, added to the scores.
        RelativeBuckets = "rpe",
        /// A fixed slope for each head, added to the scores.
        Alibi = "alibi",
        Absent = "none",
    }

    /// Key `activation`: the non-linearity of the MLP (`megatron/model/activations.py`).
    Activation {
        /// GELU; its tanh form with `bias_gelu_fusion`.
        Gelu = "gelu",
        /// GELU of the gate times the other half.
        GeGlu = "geglu",
        Relu = "relu",
        /// `x / (1 + |x|)`.
        Softsign = "softsign",
        Swish = "swish",
        /// `x · tanh(softplus(x))`.
        Mish = "mish",
        Silu = "silu",
        /// `max(gate, 0)` times the other half.
        ReGlu = "reglu",
        /// `gate · sigmoid(gate)` times the other half.
        SwiGlu = "swiglu",
        /// The gate itself times the other half.
        Bilinear = "bilinear",
        /// `sigmoid(gate)` times the other half.
        Glu = "glu",
        ;
        /// `max(x, 0)²`, of Megatron.
        SquaredRelu = "squared relu",
    }

    /// Key `output_layer_parallelism`: the dimension along which ranks share the output layer.
    OutputLayerParallelism {
        /// Each rank holds some of the vocabulary. gpt-neox's default since 2023-05.
        Column = "column",
        /// Each rank holds some of the hidden size. gpt-neox's default from 2021-09 to 2023-05.
        Row = "row",
    }

    /// Number format of the weights that were trained, from `precision`, `fp16` and `bf16`.
    Precision {
        Fp16 = "fp16",
        Bf16 = "bfloat16",
        Fp32 = "fp32",
    }

    /// Key `mlp_type`, used from 2023-05 to 2024-09, and by StableLM's fork.
    MlpType {
        Regular = "regular",
        /// Three matrices `w1`, `w2`, `w3` without biases.
        Llama = "llama",
        Gated = "gated",
    }
}

impl Norm {
    /// Whether it subtracts the mean, so that its output sums to zero before gain and bias.
    pub const fn centres(self) -> bool {
        matches!(self, Self::LayerNorm | Self::NonParametricLayerNorm | Self::TransformerEngineLayerNorm)
    }

    pub const fn is_rms(self) -> bool {
        matches!(self, Self::RmsNorm | Self::TransformerEngineRmsNorm)
    }

    pub const fn has_gain(self) -> bool {
        !matches!(self, Self::NonParametricLayerNorm)
    }

    pub const fn has_bias(self) -> bool {
        matches!(self, Self::LayerNorm | Self::TransformerEngineLayerNorm)
    }
}

impl Activation {
    pub(crate) const fn is_gelu(self) -> bool {
        matches!(self, Self::Gelu | Self::GeGlu)
    }

    /// Whether the first linear layer makes two halves, `[up | gate]`, that are multiplied.
    pub const fn is_gated(self) -> bool {
        matches!(self, Self::GeGlu | Self::ReGlu | Self::SwiGlu | Self::Bilinear | Self::Glu)
    }
}

/// How one layer mixes tokens, from `attention_config`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    Global,
    /// Dense causal attention through the `FlashAttention` kernels: the same function, other rounding; it ignores
    /// `apply_query_key_layer_scaling` and `rpe`.
    Flash,
    Local,
    SparseFixed,
    SparseVariable,
    BigBird,
    BsLongformer,
    Gmlp,
    Amlp,
    Mamba,
    Rwkv,
    /// A word that is not known here.
    Other(String),
}

static ATTENTION_WORDS: [(&str, AttentionKind); 12] = [
    ("global", AttentionKind::Global),
    ("flash", AttentionKind::Flash),
    ("local", AttentionKind::Local),
    ("sparse_fixed", AttentionKind::SparseFixed),
    ("sparse_variable", AttentionKind::SparseVariable),
    ("bigbird", AttentionKind::BigBird),
    ("bslongformer", AttentionKind::BsLongformer),
    ("gmlp", AttentionKind::Gmlp),
    ("amlp", AttentionKind::Amlp),
    ("mamba", AttentionKind::Mamba),
    ("rwkv", AttentionKind::Rwkv),
    // Neox-LLM's word for another kernel.
    ("flash_triton", AttentionKind::Flash),
];

impl AttentionKind {
    /// The kind of a configuration's value; an unknown one is kept as [`AttentionKind::Other`].
    pub(crate) fn from_word(word: &str) -> Self {
        let known = ATTENTION_WORDS.iter().find(|(name, _)| *name == word);
        known.map_or_else(|| Self::Other(word.to_owned()), |(_, kind)| kind.clone())
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(word) => word,
            known => ATTENTION_WORDS.iter().find(|(_, kind)| kind == known).map_or("", |(name, _)| name),
        }
    }
}

impl fmt::Display for AttentionKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// True or false, also as 0 and 1 and in the spellings of Python and YAML.
pub(super) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}
