//! Strategies are data: YAML files in `configs/strategies/`, the built-in ones compiled in from there.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::Spanned;
use wildmatch::WildMatch;

use super::{Factor, MergeError, Rule};
use crate::config::Architecture;
use crate::files;
use crate::partition::{Kind, StageId};
use crate::tensor::Arithmetic;

/// The largest strategy file that is read; ours have a kilobyte.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One way of merging.
#[derive(Debug, Clone, PartialEq)]
pub struct Strategy {
    /// Its name in reports and file names.
    pub name: String,
    pub description: String,
    /// The script or paper whose rule it is.
    pub source: String,
    /// Where sums and means are computed.
    pub arithmetic: Arithmetic,
    /// Whether column-parallel biases are corrected by calibration passages where ranks' residual streams differ.
    pub calibrate: bool,
    /// Whether to merge even where no one-rank model can be the unmerged one (`qk_layernorm`).
    pub allow_inexact: bool,
    /// One rule per kind of replicated parameter.
    pub rules: BTreeMap<Kind, Rule>,
    /// Rules for parameters by name; the last that matches wins over [`Strategy::rules`].
    pub overrides: Vec<Override>,
    /// The file, or `built-in strategy`.
    pub origin: String,
    /// The lines of the file with the rules.
    pub lines: BTreeMap<Kind, u64>,
    /// BLAKE3 of its text, hexadecimal; `None` where it is not what a text says.
    pub blake3: Option<String>,
    /// The group of parameters that the rules are limited to, if they are, and the strategy for all others.
    pub only_for: Option<(Factor, Box<Self>)>,
}

/// A rule for the parameters that a pattern matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Names such as `layer.3.attention.dense.bias` or `output.norm.weight`; `*` stands for anything, `?` for one
    /// character.
    pub pattern: String,
    pub rule: Rule,
    pub line: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StrategyFile {
    name: Spanned<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    arithmetic: Arithmetic,
    #[serde(default)]
    calibrate: bool,
    #[serde(default, rename = "allow-inexact")]
    allow_inexact: bool,
    rules: BTreeMap<Kind, Spanned<Rule>>,
    #[serde(default)]
    overrides: Vec<OverrideFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverrideFile {
    parameters: Spanned<String>,
    rule: Spanned<Rule>,
}

const BUILT_IN: &[&str] = &[
    include_str!("../../configs/strategies/zeroth.yml"),
    include_str!("../../configs/strategies/mean.yml"),
    include_str!("../../configs/strategies/merge20b.yml"),
    include_str!("../../configs/strategies/reduce-aware.yml"),
    include_str!("../../configs/strategies/fold.yml"),
    include_str!("../../configs/strategies/fold-calibrated.yml"),
];

/// The name of a parameter in patterns, reports and recipes.
pub fn full_name(stage: StageId, name: &str) -> String {
    match stage {
        StageId::Embedding => format!("embedding.{name}"),
        StageId::Layer(number) => format!("layer.{number}.{name}"),
        StageId::Output => format!("output.{name}"),
    }
}

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
        Self::parse(&files::read_to_string(path, MAX_FILE_BYTES)?, name_or_path)
    }

    /// The text that [`Strategy::resolve`] reads for this name or file.
    ///
    /// # Errors
    /// As [`Strategy::resolve`].
    pub fn text(name_or_path: &str) -> Result<String, MergeError> {
        for text in BUILT_IN {
            if Self::parse(text, "built-in strategy")?.name == name_or_path {
                return Ok((*text).to_owned());
            }
        }
        Ok(files::read_to_string(Path::new(name_or_path), MAX_FILE_BYTES)?)
    }

    /// The strategies of these names or files; all built-in ones where there are none.
    ///
    /// # Errors
    /// As [`Strategy::resolve`].
    pub fn resolve_all(names_or_paths: &[String]) -> Result<Vec<Self>, MergeError> {
        if names_or_paths.is_empty() {
            return Self::built_in();
        }
        names_or_paths.iter().map(|name| Self::resolve(name)).collect()
    }

    /// Reads a strategy from YAML; `origin` is named in errors.
    ///
    /// # Errors
    /// The text is not a strategy; the message has the line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, MergeError> {
        let syntax = |message: String| MergeError::Syntax { origin: origin.to_owned(), message };
        // The YAML reader calls its input `<input>` and begins with `error: `.
        let tidy = |message: String| {
            message.strip_prefix("error: ").unwrap_or(&message).replace("--> <input>:", &format!("--> {origin}:"))
        };
        let file: StrategyFile = serde_saphyr::from_str(text).map_err(|error| syntax(tidy(error.to_string())))?;
        let name = file.name.value;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let named = !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain);
        if !named || name == "baseline" {
            return Err(syntax(format!(
                "line {}: `name: {name}` must be made of letters, digits, `-`, `_` and `.`, and not be `baseline`",
                file.name.referenced.line()
            )));
        }
        for (kind, rule) in &file.rules {
            if let Some(reason) = rule.value.cannot_apply_to(*kind) {
                return Err(syntax(format!("line {}: `{kind}: {}`: {reason}", rule.referenced.line(), rule.value)));
            }
        }
        let overrides = file.overrides.into_iter().map(|entry| Override {
            pattern: entry.parameters.value,
            rule: entry.rule.value,
            line: entry.parameters.referenced.line(),
        });
        Ok(Self {
            name,
            description: file.description,
            source: file.source,
            arithmetic: file.arithmetic,
            calibrate: file.calibrate,
            allow_inexact: file.allow_inexact,
            lines: file.rules.iter().map(|(&kind, rule)| (kind, rule.referenced.line())).collect(),
            rules: file.rules.into_iter().map(|(kind, rule)| (kind, rule.value)).collect(),
            overrides: overrides.collect(),
            origin: origin.to_owned(),
            blake3: Some(blake3::hash(text.as_bytes()).to_hex().to_string()),
            only_for: None,
        })
    }

    /// The rule for a parameter.
    ///
    /// # Errors
    /// The strategy has none for its kind.
    pub fn rule(&self, stage: StageId, name: &str, kind: Kind) -> Result<Rule, MergeError> {
        if let Some((factor, other)) = &self.only_for
            && !factor.contains(stage, name, kind)
        {
            return other.rule(stage, name, kind);
        }
        if !self.overrides.is_empty() {
            let full = full_name(stage, name);
            let found = self.overrides.iter().rev().find(|entry| WildMatch::new(&entry.pattern).matches(&full));
            if let Some(entry) = found {
                return Ok(entry.rule);
            }
        }
        self.rules.get(&kind).copied().ok_or_else(|| MergeError::NoRule { strategy: self.name.clone(), kind })
    }

    /// Fails where no exact merge exists, unless `allow_inexact` is set.
    ///
    /// # Errors
    /// [`MergeError::NoExactMerge`].
    pub fn check_exists(&self, architecture: &Architecture, tp_size: usize) -> Result<(), MergeError> {
        match architecture.never_exact() {
            Some(reason) if tp_size > 1 && !self.allow_inexact => {
                Err(MergeError::NoExactMerge { strategy: self.name.clone(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Checks the strategy against the replicated parameters of a checkpoint, before anything is read.
    ///
    /// # Errors
    /// A kind without a rule, a rank that does not exist, a pattern that matches nothing, a rule that does not suit what
    /// its pattern matches.
    pub fn check<'a>(
        &self,
        parameters: impl Iterator<Item = (StageId, &'a str, Kind)> + Clone,
        tp_size: usize,
    ) -> Result<(), MergeError> {
        let at_line = |line: u64, message: String| MergeError::Syntax {
            origin: self.origin.clone(),
            message: format!("line {line}: {message}"),
        };
        for entry in &self.overrides {
            let pattern = WildMatch::new(&entry.pattern);
            let mut matched = parameters.clone().filter(|(stage, name, _)| pattern.matches(&full_name(*stage, name)));
            let Some((_, _, kind)) = matched.next() else {
                let message = format!("`{}` matches no replicated parameter of this checkpoint", entry.pattern);
                return Err(at_line(entry.line, message));
            };
            let kinds = std::iter::once(kind).chain(matched.map(|(_, _, kind)| kind));
            for kind in kinds {
                if let Some(reason) = entry.rule.cannot_apply_to(kind) {
                    return Err(at_line(entry.line, format!("`{}`: {reason}", entry.rule)));
                }
            }
        }
        // Gain and bias of a norm follow each other.
        let mut last_norm: Option<(StageId, &str, bool)> = None;
        for (stage, name, kind) in parameters {
            let rule = self.rule(stage, name, kind)?;
            if let Rule::Rank(tp_rank) = rule
                && tp_rank >= tp_size
            {
                let last = tp_size.saturating_sub(1);
                let error = MergeError::NoSuchRank { strategy: self.name.clone(), tp_rank, last };
                return Err(self.placed(self.line(stage, name, kind), error));
            }
            if !matches!(kind, Kind::NormGain | Kind::NormBias) {
                continue;
            }
            let norm = name.rsplit_once('.').map_or(name, |(norm, _)| norm);
            let folds = rule == Rule::Fold;
            if last_norm.is_some_and(|(at, other, folded)| at == stage && other == norm && folded != folds) {
                let error = MergeError::HalfFolded { strategy: self.name.clone(), stage };
                return Err(self.placed(self.line(stage, name, kind), error));
            }
            last_norm = Some((stage, norm, folds));
        }
        Ok(())
    }

    /// The error with the line of the file that caused it, where there is one.
    fn placed(&self, line: u64, error: MergeError) -> MergeError {
        match line {
            0 => error,
            line => MergeError::AtLine { origin: self.origin.clone(), line, source: Box::new(error) },
        }
    }

    /// The line of the file that gives a parameter its rule; 0 for strategies that come from no file.
    fn line(&self, stage: StageId, name: &str, kind: Kind) -> u64 {
        let full = full_name(stage, name);
        let found = self.overrides.iter().rev().find(|entry| WildMatch::new(&entry.pattern).matches(&full));
        found.map(|entry| entry.line).or_else(|| self.lines.get(&kind).copied()).unwrap_or(0)
    }
}
