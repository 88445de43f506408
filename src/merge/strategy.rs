//! Strategies are data: YAML files in `configs/strategies/`, the built-in ones compiled in from there.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde::Deserialize;

use super::{MergeError, Rule};
use crate::partition::Kind;
use crate::tensor::Arithmetic;

/// Where a strategy's sums and means are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyArithmetic {
    /// In float64, rounded to the checkpoint's type once.
    #[default]
    Float64,
    /// In the checkpoint's type, rounded at every step, as the script does that the strategy reproduces.
    Checkpoint,
}

impl From<StrategyArithmetic> for Arithmetic {
    fn from(arithmetic: StrategyArithmetic) -> Self {
        match arithmetic {
            StrategyArithmetic::Float64 => Self::Float64,
            StrategyArithmetic::Checkpoint => Self::Storage,
        }
    }
}

/// One way of merging.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strategy {
    /// Its name in reports and file names.
    pub name: String,
    /// One sentence.
    #[serde(default)]
    pub description: String,
    /// The script or paper whose rule it is.
    #[serde(default)]
    pub source: String,
    /// Where sums and means are computed.
    #[serde(default)]
    pub arithmetic: StrategyArithmetic,
    /// One rule per kind of replicated parameter.
    pub rules: BTreeMap<Kind, Rule>,
}

const BUILT_IN: &[&str] = &[
    include_str!("../../configs/strategies/zeroth.yml"),
    include_str!("../../configs/strategies/mean.yml"),
    include_str!("../../configs/strategies/merge20b.yml"),
    include_str!("../../configs/strategies/reduce-aware.yml"),
];

impl Strategy {
    /// The built-in strategies, in the order in which reports list them.
    ///
    /// # Errors
    /// None, unless a built-in file is broken (a test keeps them whole).
    pub fn built_in() -> Result<Vec<Self>, MergeError> {
        BUILT_IN.iter().map(|text| Self::parse(text, "built-in strategy")).collect()
    }

    /// A built-in strategy by name, or the strategy in a file.
    ///
    /// # Errors
    /// No such name and no such file, or a file that is not a strategy.
    pub fn resolve(name_or_path: &str) -> Result<Self, MergeError> {
        let built_in = Self::built_in()?;
        if let Some(strategy) = built_in.iter().find(|strategy| strategy.name == name_or_path) {
            return Ok(strategy.clone());
        }
        let path = Path::new(name_or_path);
        if !path.is_file() {
            let known: Vec<_> = built_in.iter().map(|strategy| strategy.name.as_str()).collect();
            return Err(MergeError::UnknownStrategy { name: name_or_path.to_owned(), known: known.join(", ") });
        }
        Self::parse(&fs::read_to_string(path)?, name_or_path)
    }

    /// Reads a strategy from YAML; `origin` is named in errors.
    ///
    /// # Errors
    /// The text is not a strategy: the message says where.
    pub fn parse(text: &str, origin: &str) -> Result<Self, MergeError> {
        let syntax = |message: String| MergeError::Syntax { origin: origin.to_owned(), message };
        let strategy: Self = serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?;
        if let Some(kind) = strategy.rules.keys().find(|kind| !kind.is_replicated()) {
            return Err(syntax(format!("{kind} parameters have no replicas: they are joined, no rule applies")));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let named = !strategy.name.is_empty() && !strategy.name.starts_with('.') && strategy.name.bytes().all(plain);
        if !named || strategy.name == "baseline" {
            return Err(syntax(format!(
                "`name: {}` must be made of letters, digits, `-`, `_` and `.`, and not be `baseline`",
                strategy.name
            )));
        }
        Ok(strategy)
    }

    /// The rule for a kind.
    ///
    /// # Errors
    /// The strategy has none.
    pub fn rule(&self, kind: Kind) -> Result<Rule, MergeError> {
        self.rules
            .get(&kind)
            .copied()
            .ok_or_else(|| MergeError::NoRule { strategy: self.name.clone(), kind })
    }
}
