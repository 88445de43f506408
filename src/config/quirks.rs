//! Quirks: differences between versions of gpt-neox in what the same files and settings mean. Each has a value and the
//! reason for it: `--quirk`, else the files (what `merge` wrote into them, then their names), else `--era`, else today's meaning.

use std::fmt;
use std::ops::RangeBounds;

use super::choices::{Choice, Norm, PositionEmbedding, Precision};
use super::era::{Date, Era, change};
use super::neox::NeoxConfig;
use super::observed::Observed;
use super::quirk_setting::{GQA_LAYOUT, MUP_WIDTH, QuirkSetting};
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

/// Why a quirk has the value that a client state of `merge` states.
const STATED: &str = "kintsugi merge wrote them so";

/// The user's choice of era and quirks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuirkOptions {
    pub era: Option<Era>,
    /// Single quirks; they win over everything, the last one over earlier ones.
    pub settings: Vec<QuirkSetting>,
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
    /// Width of the model in units of its base shape, which `use_mup` divides the logits by; no setting and no name shows it.
    pub mup_width: Option<Decision<f64>>,
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
    /// Whether nothing speaks for it but that it is today's meaning.
    pub assumed: bool,
}

impl QuirkLine {
    /// What asks for it.
    pub fn setting(&self) -> QuirkSetting {
        QuirkSetting::new(self.name, self.value.clone())
    }
}

/// What users and files say of gpt-neox's version.
struct Evidence<'a> {
    options: &'a QuirkOptions,
    stated: &'a [QuirkSetting],
}

impl Evidence<'_> {
    /// A quirk's value: `old` on the days of `days`, else `new`, unless the user or the files say otherwise.
    fn decide<T: Choice>(
        &self,
        name: &str,
        files: Option<(T, &'static str)>,
        (old, days): (T, impl RangeBounds<Date>),
        new: T,
    ) -> Decision<T> {
        let value = |settings| {
            let word = QuirkSetting::last(settings, name)?;
            T::VALUES.iter().find(|value| value.word() == word)
        };
        let asked = value(&self.options.settings);
        let files = value(self.stated).map(|stated| (*stated, STATED)).or(files);
        let (value, why) = match (asked, files, &self.options.era) {
            (Some(asked), ..) => (*asked, Why::Asked),
            (None, Some((shown, what)), _) => (shown, Why::Files(what)),
            (None, None, Some(era)) => (if days.contains(&era.date) { old } else { new }, Why::Era(era.name.clone())),
            (None, None, None) => (new, Why::Default),
        };
        Decision { value, why }
    }

    fn width(&self) -> Option<Decision<f64>> {
        let width = |settings| QuirkSetting::last(settings, MUP_WIDTH)?.parse().ok();
        let asked = width(&self.options.settings).map(|value| Decision { value, why: Why::Asked });
        asked.or_else(|| width(self.stated).map(|value| Decision { value, why: Why::Files(STATED) }))
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
        let evidence = Evidence { options, stated: &observed.stated };
        let mut quirks = Self {
            reduction: evidence.decide(
                "reduction",
                None,
                (Reduction::PerBranch, ..change::SHARED_REDUCTION),
                Reduction::Shared,
            ),
            mlp_norm_input: evidence.decide(
                "mlp-norm-input",
                None,
                (MlpNormInput::AttentionNorm, change::SHARED_REDUCTION..change::NORMS_SIDE_BY_SIDE),
                MlpNormInput::Residual,
            ),
            norm_tying: evidence.decide(
                "norm-tying",
                None,
                (NormTying::Inverted, change::TYING_INVERTED..change::TYING_RESTORED),
                NormTying::AsConfigured,
            ),
            attention_branch: evidence.decide(
                "attention-branch",
                attention_branch,
                (AttentionBranch::Kept, ..change::ATTENTION_DROPPED),
                AttentionBranch::Dropped,
            ),
            rotary_tables: evidence.decide(
                "rotary-tables",
                from_engine,
                (RotaryTables::Storage, ..change::FLOAT32_ROTARY),
                RotaryTables::Float32,
            ),
            mask_value: evidence.decide(
                "mask-value",
                None,
                (MaskValue::MinusTenThousand, ..change::SMALLEST_MASK),
                MaskValue::Smallest,
            ),
            rms_epsilon: evidence.decide(
                "rms-epsilon",
                old_names.then_some((EpsilonPlacement::Outside, OLD_NAMES)),
                (EpsilonPlacement::Outside, ..change::RMS_EPSILON_INSIDE),
                EpsilonPlacement::Inside,
            ),
            gqa_layout: evidence.decide(
                GQA_LAYOUT,
                old_names.then_some((GqaLayout::Interleaved, OLD_NAMES)),
                (GqaLayout::Interleaved, ..change::GQA_BLOCKS),
                GqaLayout::Blocks,
            ),
            mup_width: evidence.width(),
            applies: Applies::to(config, observed),
        };
        let engine_norm = config.norm == Norm::TransformerEngineRmsNorm;
        // The kernel of megatron/model/fused_layer_norm.py.
        let is_said = [Why::Asked, Why::Files(STATED)].contains(&quirks.rms_epsilon.why);
        if engine_norm || (config.rmsnorm_fusion && !is_said) {
            let why = Why::Configuration(if engine_norm { "te_rmsnorm" } else { "rmsnorm_fusion" });
            quirks.rms_epsilon = Decision { value: EpsilonPlacement::Inside, why };
        }
        quirks
    }

    /// Every quirk, its value and why, in the order of gpt-neox's history.
    pub fn list(&self) -> Vec<QuirkLine> {
        fn line<T: Choice>(name: &'static str, decision: &Decision<T>, matters: bool) -> QuirkLine {
            let (value, why) = (decision.value.word().to_owned(), decision.why.to_string());
            QuirkLine { name, value, why, matters, assumed: decision.why == Why::Default }
        }
        let applies = self.applies;
        let mut lines = vec![
            line("reduction", &self.reduction, applies.parallel),
            line("mlp-norm-input", &self.mlp_norm_input, applies.parallel),
            line("norm-tying", &self.norm_tying, applies.parallel),
            line("rotary-tables", &self.rotary_tables, applies.rotary),
            line("mask-value", &self.mask_value, false),
            line("attention-branch", &self.attention_branch, applies.parallel && applies.bias_free_mlp),
            line(GQA_LAYOUT, &self.gqa_layout, applies.grouped),
            line("rms-epsilon", &self.rms_epsilon, applies.rms),
        ];
        if let Some(Decision { value, why }) = &self.mup_width {
            let (value, why) = (value.to_string(), why.to_string());
            lines.push(QuirkLine { name: MUP_WIDTH, value, why, matters: applies.mup, assumed: false });
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
