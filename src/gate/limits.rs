//! The limits of a gate, from the command line or from a file like `evals/gates.yml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;

use super::GateError;
use crate::files;

/// The limits where none are given.
const BUILT_IN: &str = include_str!("../../evals/gates.yml");

const MAX_FILE_BYTES: u64 = 1 << 20;

macro_rules! share {
    ($(#[$doc:meta])* $name:ident, $unit:literal, shown as $shown:literal, example $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(f64);

        impl $name {
            pub(super) fn fraction(self) -> f64 {
                self.0 / 100.0
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                amount(text, $unit, $example).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{} {}", self.0, $shown)
            }
        }
    };
}

share!(
    /// Percentage points, written `0.5pp`.
    Points, "pp", shown as "points", example "0.5pp (percentage points)"
);
share!(
    /// Per cent, written `1%`.
    Percent, "%", shown as "%", example "1%"
);

/// A number that is at least 0 before this unit.
fn amount(text: &str, unit: &str, example: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix(unit).and_then(|number| number.trim_end().parse::<f64>().ok());
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("`{text}`: expected a number of at least 0 and its unit, such as {example}"))
}

/// The limits for one model; those absent are not checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limits {
    pub max_acc_loss: Option<Points>,
    pub max_ppl_increase: Option<Percent>,
    /// Whether a single passage with a different outcome fails.
    pub expect_exact: bool,
    pub skip: bool,
}

impl Limits {
    /// These limits, with the other's where one is absent.
    fn or(self, other: Self) -> Self {
        Self {
            max_acc_loss: self.max_acc_loss.or(other.max_acc_loss),
            max_ppl_increase: self.max_ppl_increase.or(other.max_ppl_increase),
            expect_exact: self.expect_exact || other.expect_exact,
            skip: self.skip || other.skip,
        }
    }
}

/// Limits for every model of a report.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gates {
    /// Chance of calling noise a loss, over all models together.
    pub significance: f64,
    /// Limits for models that are not named.
    pub default: Limits,
    /// Limits for single models; those absent are as in `default`.
    pub models: BTreeMap<String, Limits>,
}

impl Default for Gates {
    fn default() -> Self {
        Self { significance: 0.05, default: Limits::default(), models: BTreeMap::new() }
    }
}

impl Gates {
    pub fn read(path: &Path) -> Result<Self, GateError> {
        Self::parse(&files::read_to_string(path, MAX_FILE_BYTES)?, &path.display().to_string())
    }

    pub fn built_in() -> Result<Self, GateError> {
        Self::parse(BUILT_IN, "built-in gates")
    }

    /// Reads limits from YAML; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, GateError> {
        let syntax = |message: String| GateError::Syntax { origin: origin.to_owned(), message };
        let gates: Self = serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?;
        let significance = gates.significance;
        gates.with_significance(significance, origin)
    }

    /// The same at another significance.
    pub fn with_significance(mut self, significance: f64, origin: &str) -> Result<Self, GateError> {
        if significance > 0.0 && significance < 1.0 {
            self.significance = significance;
            return Ok(self);
        }
        let message = format!("significance: expected a number between 0 and 1, found {significance}");
        Err(GateError::Syntax { origin: origin.to_owned(), message })
    }

    /// Gives these limits precedence for every model.
    pub fn override_with(&mut self, limits: Limits) {
        self.default = limits.or(self.default);
        for of_model in self.models.values_mut() {
            *of_model = limits.or(*of_model);
        }
    }

    pub fn of(&self, name: &str) -> Limits {
        self.models.get(name).copied().unwrap_or_default().or(self.default)
    }
}
