//! Sizes and settings of a synthetic checkpoint, and the configuration that gpt-neox would have had.

use serde_json::{Map, Value, json};

use crate::checkpoint::Layout;
use crate::config::{
    Activation, Architecture, ClientArgs, NeoxConfig, Norm, Observed, OutputLayerParallelism, PositionEmbedding,
    Precision,
};
use crate::export::ExportError;
use crate::tensor::DType;

/// The inner width of a gated MLP is rounded up to a multiple of this (twice it over both halves), so that it divides
/// among ranks.
const GATED_MULTIPLE_OF: usize = 64;

/// gpt-neox's name of the kind of tokenizer that GPT-NeoX-20B and Pythia use.
const TOKENIZER_TYPE: &str = "HFTokenizer";

/// Layers, hidden size and heads of the models of the Pythia suite (`models/*/*.yml` of EleutherAI/pythia) and of
/// GPT-NeoX-20B (`configs/20B.yml` of EleutherAI/gpt-neox).
const NAMED: [(&str, usize, usize, usize); 10] = [
    ("14m", 6, 128, 4),
    ("70m", 6, 512, 8),
    ("160m", 12, 768, 12),
    ("410m", 24, 1024, 16),
    ("1b", 16, 2048, 8),
    ("1.4b", 24, 2048, 16),
    ("2.8b", 32, 2560, 32),
    ("6.9b", 32, 4096, 32),
    ("12b", 36, 5120, 40),
    ("20b", 44, 6144, 64),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub layer_count: usize,
    pub hidden_size: usize,
    pub head_count: usize,
    /// Key and value heads; none: as many as query heads.
    pub kv_head_count: Option<usize>,
    /// Width of the MLP between its two layers, after gating. None: four times the hidden size, or for a gated MLP
    /// four thirds of it, rounded up to a multiple of 64.
    pub mlp_inner_size: Option<usize>,
    /// Tokens of the tokenizer.
    pub vocab_size: usize,
    /// The vocabulary is padded to a multiple of this times the number of ranks.
    pub make_vocab_size_divisible_by: usize,
    /// Longest input.
    pub max_position_embeddings: usize,
}

impl Shape {
    /// The sizes of a published model: `14m` … `12b` as in Pythia, `20b` as GPT-NeoX-20B.
    pub fn named(name: &str) -> Option<Self> {
        let &(_, layer_count, hidden_size, head_count) = NAMED.iter().find(|(known, ..)| *known == name)?;
        Some(Self {
            layer_count,
            hidden_size,
            head_count,
            kv_head_count: None,
            mlp_inner_size: None,
            // The tokens of GPT-NeoX-20B's tokenizer: 50304 rows on one rank, 50432 on two.
            vocab_size: 50_277,
            make_vocab_size_divisible_by: 128,
            max_position_embeddings: 2048,
        })
    }

    /// The names that [`Shape::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|&(name, ..)| name)
    }
}

/// Options of [`super::write_checkpoint`]. Partitioned parameters depend on the seed and the sizes alone, so that the
/// same model can be written for any number of ranks (but for the rows that pad the vocabulary).
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of gpt-neox or of the writer")]
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    pub shape: Shape,
    pub tp_size: usize,
    /// Element type: float16, bfloat16 or float32.
    pub dtype: DType,
    /// Drift of the replicas: standard deviation, relative to each value, of the noise that each rank adds to its
    /// replicas. With 0 they are bit-identical.
    pub drift: f64,
    /// Another seed, another model.
    pub seed: u64,
    /// One file per layer and rank, or one per rank.
    pub layout: Layout,
    /// Parameter names until 2024-09 (`mlp.dense_h_to_4h`), and the rotary table saved in each layer as until 2024-03.
    pub legacy_names: bool,
    /// Training step that the checkpoint claims.
    pub iteration: u64,
    /// Whether attention and MLP are added to the same residual. Key `gpt_j_residual`.
    pub gpt_j_residual: bool,
    /// Whether attention and MLP share one norm (with `gpt_j_residual`). Key `gpt_j_tied`.
    pub gpt_j_tied: bool,
    /// Whether the output layer uses the word embedding. The opposite of `no_weight_tying`.
    pub tied_embeddings: bool,
    /// How ranks share the output layer. Key `output_layer_parallelism`.
    pub head: OutputLayerParallelism,
    /// The norm. Key `norm`.
    pub norm: Norm,
    /// The MLP's non-linearity. Key `activation`.
    pub activation: Activation,
    /// Whether `gelu` is the tanh form. Key `bias_gelu_fusion`.
    pub bias_gelu_fusion: bool,
    /// Whether the attention's linear layers have biases. Key `use_bias_in_attn_linear`.
    pub attention_bias: bool,
    /// Whether the MLP's linear layers have biases. Key `use_bias_in_mlp`.
    pub mlp_bias: bool,
    /// How positions enter. Key `pos_emb`.
    pub positions: PositionEmbedding,
    /// Share of each head that rotary embedding turns. Key `rotary_pct`.
    pub rotary_pct: f64,
}

impl SynthOptions {
    /// The settings of Pythia and GPT-NeoX-20B: float16, one rank, layer files, parallel residual, an output layer of
    /// its own, layer norm, tanh GELU, biases, a quarter of each head turned. No drift.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            tp_size: 1,
            dtype: DType::F16,
            drift: 0.0,
            seed: 0,
            layout: Layout::LayerFiles,
            legacy_names: false,
            iteration: 1,
            gpt_j_residual: true,
            gpt_j_tied: false,
            tied_embeddings: false,
            head: OutputLayerParallelism::Column,
            norm: Norm::LayerNorm,
            activation: Activation::Gelu,
            bias_gelu_fusion: true,
            attention_bias: true,
            mlp_bias: true,
            positions: PositionEmbedding::Rotary,
            rotary_pct: 0.25,
        }
    }

    /// Rows of the word embedding with padding, as gpt-neox pads (`megatron/tokenizer/tokenizer.py`,
    /// `_vocab_size_with_padding`).
    pub fn padded_vocab_size(&self) -> usize {
        let multiple = self.shape.make_vocab_size_divisible_by.saturating_mul(self.tp_size).max(1);
        self.shape.vocab_size.div_ceil(multiple).saturating_mul(multiple)
    }

    /// Width of the MLP between its two layers, after gating.
    pub fn mlp_inner_size(&self) -> usize {
        let four = 4_usize.saturating_mul(self.shape.hidden_size);
        self.shape.mlp_inner_size.unwrap_or_else(|| {
            if self.activation.is_gated() { (four / 3).next_multiple_of(GATED_MULTIPLE_OF) } else { four }
        })
    }

    /// The model, if a reader of its files would accept it.
    pub(super) fn architecture(&self) -> Result<Architecture, ExportError> {
        if self.tp_size == 0 {
            return Err(setting("tp_size", "at least 1", &self.tp_size));
        }
        if !(self.drift.is_finite() && self.drift >= 0.0) {
            return Err(setting("drift", "0 or a positive number", &self.drift));
        }
        let raw = self.keys()?.into_iter().map(|(key, value)| (key.replace('-', "_"), value));
        let config = NeoxConfig::from_raw(raw.collect(), Vec::new())?;
        let observed = Observed {
            tp_size: self.tp_size,
            mlp_inner_size: Some(self.mlp_inner_size()),
            padded_vocab_size: Some(self.padded_vocab_size()),
            // The names date the file: layouts are those of their time.
            layer_tensors: vec![
                if self.legacy_names { "mlp.dense_h_to_4h.weight" } else { "mlp.linear1.weight" }.into(),
            ],
            ..Observed::default()
        };
        Ok(Architecture::resolve(&config, &observed)?)
    }

    /// The configuration file: a flow mapping, one key a line, as gpt-neox's own files are.
    pub(super) fn yaml(&self) -> Result<String, ExportError> {
        let entries: Vec<_> = self.keys()?.iter().map(|(key, value)| format!("  \"{key}\": {value}")).collect();
        Ok(format!("# Random weights in gpt-neox's format: nothing was trained.\n{{\n{}\n}}\n", entries.join(",\n")))
    }

    /// The arguments that gpt-neox compares when it loads a checkpoint.
    pub(super) fn client_args(&self) -> ClientArgs {
        ClientArgs {
            num_layers: Some(self.shape.layer_count),
            hidden_size: Some(self.shape.hidden_size),
            num_attention_heads: Some(self.shape.head_count),
            max_position_embeddings: Some(self.shape.max_position_embeddings),
            make_vocab_size_divisible_by: Some(self.shape.make_vocab_size_divisible_by),
            padded_vocab_size: Some(self.padded_vocab_size()),
            tokenizer_type: Some(TOKENIZER_TYPE.to_owned()),
            model_parallel_size: Some(self.tp_size),
            quirks: Vec::new(),
        }
    }

    fn keys(&self) -> Result<Map<String, Value>, ExportError> {
        let precision = match self.dtype {
            DType::F16 => Precision::Fp16,
            DType::BF16 => Precision::Bf16,
            DType::F32 => Precision::Fp32,
            other => return Err(setting("dtype", "f16, bf16 or f32", &other)),
        };
        let shape = &self.shape;
        let mut keys = Map::new();
        let mut set = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        set("pipe-parallel-size", json!(usize::from(self.layout == Layout::LayerFiles)));
        set("model-parallel-size", json!(self.tp_size));
        set("num-layers", json!(shape.layer_count));
        set("hidden-size", json!(shape.hidden_size));
        set("num-attention-heads", json!(shape.head_count));
        if let Some(kv_head_count) = shape.kv_head_count {
            set("num-kv-heads", json!(kv_head_count));
        }
        set("seq-length", json!(shape.max_position_embeddings));
        set("max-position-embeddings", json!(shape.max_position_embeddings));
        set("make-vocab-size-divisible-by", json!(shape.make_vocab_size_divisible_by));
        set("norm", json!(self.norm.as_str()));
        set("pos-emb", json!(self.positions.as_str()));
        if self.positions == PositionEmbedding::Rotary {
            set("rotary-pct", json!(self.rotary_pct));
        }
        set("no-weight-tying", json!(!self.tied_embeddings));
        set("gpt-j-residual", json!(self.gpt_j_residual));
        set("gpt-j-tied", json!(self.gpt_j_tied));
        set("output-layer-parallelism", json!(self.head.as_str()));
        set("attention-config", json!([[["global"], "all"]]));
        set("activation", json!(self.activation.as_str()));
        set("bias-gelu-fusion", json!(self.bias_gelu_fusion));
        match shape.mlp_inner_size {
            // gpt-neox takes two thirds of this for both halves together.
            Some(inner) if self.activation.is_gated() => drop(set("intermediate-size", json!(inner.saturating_mul(3)))),
            Some(inner) => drop(set("intermediate-size", json!(inner))),
            None if self.activation.is_gated() => drop(set("mlp-multiple-of", json!(GATED_MULTIPLE_OF))),
            None => {}
        }
        set("use-bias-in-attn-linear", json!(self.attention_bias));
        set("use-bias-in-mlp", json!(self.mlp_bias));
        set("precision", json!(precision.as_str()));
        set("tokenizer-type", json!(TOKENIZER_TYPE));
        Ok(keys)
    }
}

fn setting(setting: &'static str, expected: &'static str, found: &dyn std::fmt::Display) -> ExportError {
    ExportError::Setting { setting, expected, found: found.to_string() }
}
