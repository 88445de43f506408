//! Quirks: differences between versions of gpt-neox in what the same files and settings mean. Each has a value and the
//! reason for it: `--quirk`, else the files, else `--era`, else today's meaning.

use std::fmt;
use std::ops::RangeBounds;
use std::str::FromStr;

use super::choices::{Choice, Norm, PositionEmbedding, Precision};
use super::era::{Date, Era, change};
use super::neox::NeoxConfig;
use super::observed::Observed;
use super::quirk_values::{
    AttentionBranch, EpsilonPlacement, GqaLayout, MaskValue, MlpNormInput, NormTying, Reduction, RotaryTables,
};

/// Why a quirk has its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// `--quirk`.
    Asked,
    /// The files show it.
    Files(&'static str),
    /// `--era`, by name or date.
    Era(String),
    /// A setting implies it.
    Configuration(&'static str),
    /// Today's meaning, for lack of other evidence.
    Default,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => formatter.write_str("--quirk"),
            Self::Files(what) => write!(formatter, "from the files: {what}"),
            Self::Era(era) => write!(formatter, "--era {era}"),
            Self::Configuration(what) => write!(formatter, "from the configuration: {what}"),
            Self::Default => formatter.write_str("default"),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decision<T> {
    pub value: T,
    pub why: Why,
}

/// `--quirk NAME=VALUE`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuirkSetting {
    name: &'static str,
    value: String,
}

/// The user's choice of era and quirks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuirkOptions {
    pub era: Option<Era>,
    /// Single quirks; they win over everything, the last one over earlier ones.
    pub settings: Vec<QuirkSetting>,
}

const MUP_WIDTH: &str = "mup-width";

fn known() -> [(&'static str, Vec<&'static str>); 8] {
    fn words<T: Choice>() -> Vec<&'static str> {
        T::VALUES.iter().map(|value| value.word()).collect()
    }
    [
        ("reduction", words::<Reduction>()),
        ("mlp-norm-input", words::<MlpNormInput>()),
        ("norm-tying", words::<NormTying>()),
        ("attention-branch", words::<AttentionBranch>()),
        ("rotary-tables", words::<RotaryTables>()),
        ("mask-value", words::<MaskValue>()),
        ("rms-epsilon", words::<EpsilonPlacement>()),
        ("gqa-layout", words::<GqaLayout>()),
    ]
}

impl fmt::Display for QuirkSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl FromStr for QuirkSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        if name == MUP_WIDTH {
            let width = value.parse::<f64>().ok().filter(|width| width.is_finite() && *width > 0.0);
            width.ok_or_else(|| format!("`{value}`: {MUP_WIDTH} is a number above 0"))?;
            return Ok(Self { name: MUP_WIDTH, value: value.to_owned() });
        }
        let quirks = known();
        let Some((name, words)) = quirks.iter().find(|(known, _)| *known == name) else {
            let names: Vec<_> = quirks.iter().map(|(name, _)| *name).chain([MUP_WIDTH]).collect();
            return Err(format!("no quirk `{name}`; there are {}", names.join(", ")));
        };
        if !words.contains(&value) {
            return Err(format!("`{value}`: {name} is one of {}", words.join(", ")));
        }
        Ok(Self { name, value: value.to_owned() })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Quirks {
    pub reduction: Decision<Reduction>,
    pub mlp_norm_input: Decision<MlpNormInput>,
    pub norm_tying: Decision<NormTying>,
    pub attention_branch: Decision<AttentionBranch>,
    pub rotary_tables: Decision<RotaryTables>,
    pub mask_value: Decision<MaskValue>,
    pub rms_epsilon: Decision<EpsilonPlacement>,
    pub gqa_layout: Decision<GqaLayout>,
    /// Width of the model in units of its base shape, which `use_mup` divides the logits by; set by `--quirk` only.
    pub mup_width: Option<f64>,
    applies: Applies,
}

/// Which quirks matter to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of a model that one quirk or more depend on")]
struct Applies {
    parallel: bool,
    bias_free_mlp: bool,
    rotary: bool,
    rms: bool,
    grouped: bool,
    mup: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuirkLine {
    pub name: &'static str,
    pub value: String,
    pub why: String,
    /// Whether it makes a difference to this model.
    pub matters: bool,
}

impl QuirkOptions {
    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value.as_str())
    }

    /// A quirk's value: `old` on the days of `days`, else `new`, unless the user or the files say otherwise.
    fn decide<T: Choice>(
        &self,
        name: &str,
        files: Option<(T, &'static str)>,
        (old, days): (T, impl RangeBounds<Date>),
        new: T,
    ) -> Decision<T> {
        let asked = self.setting(name).and_then(|word| T::VALUES.iter().find(|value| value.word() == word));
        let (value, why) = match (asked, files, &self.era) {
            (Some(asked), ..) => (*asked, Why::Asked),
            (None, Some((shown, what)), _) => (shown, Why::Files(what)),
            (None, None, Some(era)) => (if days.contains(&era.date) { old } else { new }, Why::Era(era.name.clone())),
            (None, None, None) => (new, Why::Default),
        };
        Decision { value, why }
    }
}

impl Quirks {
    pub fn decide(config: &NeoxConfig, observed: &Observed, options: &QuirkOptions) -> Self {
        const OLD_NAMES: &str = "the MLP has the names it had until 2024-09";
        let old_names =
            observed.has_layer_tensor("mlp.dense_h_to_4h.weight") || observed.has_layer_tensor("mlp.w1.weight");
        let new_names = observed.has_layer_tensor("mlp.linear1.weight");
        let attention_branch = if old_names {
            Some((AttentionBranch::Kept, OLD_NAMES))
        } else {
            new_names.then_some((AttentionBranch::Dropped, "the MLP has the names it has since 2024-09"))
        };
        let from_engine = observed
            .has_layer_tensor("attention.qkv.weight")
            .then_some((RotaryTables::RoundedAngles, "the attention is Transformer Engine's"));
        let mut quirks = Self {
            reduction: options.decide(
                "reduction",
                None,
                (Reduction::PerBranch, ..change::SHARED_REDUCTION),
                Reduction::Shared,
            ),
            mlp_norm_input: options.decide(
                "mlp-norm-input",
                None,
                (MlpNormInput::AttentionNorm, change::SHARED_REDUCTION..change::NORMS_SIDE_BY_SIDE),
                MlpNormInput::Residual,
            ),
            norm_tying: options.decide(
                "norm-tying",
                None,
                (NormTying::Inverted, change::TYING_INVERTED..change::TYING_RESTORED),
                NormTying::AsConfigured,
            ),
            attention_branch: options.decide(
                "attention-branch",
                attention_branch,
                (AttentionBranch::Kept, ..change::ATTENTION_DROPPED),
                AttentionBranch::Dropped,
            ),
            rotary_tables: options.decide(
                "rotary-tables",
                from_engine,
                (RotaryTables::Storage, ..change::FLOAT32_ROTARY),
                RotaryTables::Float32,
            ),
            mask_value: options.decide(
                "mask-value",
                None,
                (MaskValue::MinusTenThousand, ..change::SMALLEST_MASK),
                MaskValue::Smallest,
            ),
            rms_epsilon: options.decide(
                "rms-epsilon",
                old_names.then_some((EpsilonPlacement::Outside, OLD_NAMES)),
                (EpsilonPlacement::Outside, ..change::RMS_EPSILON_INSIDE),
                EpsilonPlacement::Inside,
            ),
            gqa_layout: options.decide(
                "gqa-layout",
                old_names.then_some((GqaLayout::Interleaved, OLD_NAMES)),
                (GqaLayout::Interleaved, ..change::GQA_BLOCKS),
                GqaLayout::Blocks,
            ),
            mup_width: options.setting(MUP_WIDTH).and_then(|width| width.parse().ok()),
            applies: Applies::to(config, observed),
        };
        let engine_norm = config.norm == Norm::TransformerEngineRmsNorm;
        // The kernel of megatron/model/fused_layer_norm.py.
        if engine_norm || (config.rmsnorm_fusion && quirks.rms_epsilon.why != Why::Asked) {
            let why = Why::Configuration(if engine_norm { "te_rmsnorm" } else { "rmsnorm_fusion" });
            quirks.rms_epsilon = Decision { value: EpsilonPlacement::Inside, why };
        }
        quirks
    }

    /// Every quirk, its value and why, in the order of gpt-neox's history.
    pub fn list(&self) -> Vec<QuirkLine> {
        fn line<T: Choice>(name: &'static str, decision: &Decision<T>, matters: bool) -> QuirkLine {
            let (value, why) = (decision.value.word().to_owned(), decision.why.to_string());
            QuirkLine { name, value, why, matters }
        }
        let applies = self.applies;
        let mut lines = vec![
            line("reduction", &self.reduction, applies.parallel),
            line("mlp-norm-input", &self.mlp_norm_input, applies.parallel),
            line("norm-tying", &self.norm_tying, applies.parallel),
            line("rotary-tables", &self.rotary_tables, applies.rotary),
            line("mask-value", &self.mask_value, false),
            line("attention-branch", &self.attention_branch, applies.parallel && applies.bias_free_mlp),
            line("gqa-layout", &self.gqa_layout, applies.grouped),
            line("rms-epsilon", &self.rms_epsilon, applies.rms),
        ];
        if let Some(width) = self.mup_width {
            let (value, why) = (width.to_string(), Why::Asked.to_string());
            lines.push(QuirkLine { name: MUP_WIDTH, value, why, matters: applies.mup });
        }
        lines
    }
}

impl Applies {
    fn to(config: &NeoxConfig, observed: &Observed) -> Self {
        Self {
            parallel: config.gpt_j_residual,
            bias_free_mlp: !config.use_bias_in_mlp || observed.separate_mlp(config),
            // In float32 files every kind of table is the same.
            rotary: config.position_embedding == PositionEmbedding::Rotary
                && observed.precision.unwrap_or(config.precision) != Precision::Fp32,
            rms: config.norm.is_rms(),
            grouped: config.kv_heads() != config.num_attention_heads,
            mup: config.mup.is_some(),
        }
    }
}
