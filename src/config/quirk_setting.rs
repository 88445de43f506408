//! A quirk by its name and one of its values, as `--quirk` takes it and files state it.

use std::fmt;
use std::str::FromStr;

use super::choices::Choice;
use super::quirk_values::{
    AttentionBranch, EpsilonPlacement, GqaLayout, MaskValue, MlpNormInput, NormTying, Reduction, RotaryTables,
};

/// `--quirk NAME=VALUE`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuirkSetting {
    name: &'static str,
    value: String,
}

/// The quirk of the order of grouped queries, keys and values.
pub(crate) const GQA_LAYOUT: &str = "gqa-layout";

pub(super) const MUP_WIDTH: &str = "mup-width";

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
        (GQA_LAYOUT, words::<GqaLayout>()),
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

impl QuirkSetting {
    pub(super) fn new(name: &'static str, value: String) -> Self {
        Self { name, value }
    }

    /// Settings in one line, as files state them.
    pub(crate) fn line(settings: &[Self]) -> String {
        settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// The settings of such a line, and why others of it are none.
    pub(crate) fn of_line(line: &str) -> (Vec<Self>, Vec<String>) {
        let (mut settings, mut unknown) = (Vec::new(), Vec::new());
        for word in line.split_whitespace() {
            match word.parse() {
                Ok(setting) => settings.push(setting),
                Err(reason) => unknown.push(reason),
            }
        }
        (settings, unknown)
    }

    /// The value that the last of these has for a quirk.
    pub(super) fn last<'a>(settings: &'a [Self], name: &str) -> Option<&'a str> {
        settings.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value.as_str())
    }
}
