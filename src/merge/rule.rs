//! The rules a strategy can give a kind of parameter.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::config::Residual;
use crate::partition::{Kind, Role};

/// How the replicas of a parameter become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The replica of one rank (`rank0`, or `rank: k`).
    Rank(usize),
    /// Arithmetic mean.
    Mean,
    /// Median; the mean of the middle two for an even number of ranks.
    Median,
    /// Geometric mean of the magnitudes.
    GeometricMean,
    Sum,
    /// This many times the mean: `scale: m` is the sum over m ranks, `scale: 1` the mean.
    Scale(f64),
    /// As the forward pass uses the replicas: the sum of row-parallel biases that are added before the all-reduce, the mean
    /// of everything else.
    Auto,
    /// Folded into the layers that read the norm, so that nothing is lost; norms only.
    Fold,
}

impl Rule {
    /// The rule for a parameter of this role: norms of queries and keys cannot be folded, and are averaged instead.
    pub fn for_role(self, role: Role) -> Self {
        if self == Self::Fold && role.is_per_head_norm() { Self::Mean } else { self }
    }

    /// `auto` resolved; other rules are themselves.
    pub fn resolve(self, kind: Kind, residual: Residual) -> Self {
        match (self, kind, residual) {
            (Self::Auto, Kind::RowParallelBias, Residual::Parallel) => Self::Sum,
            (Self::Auto, ..) => Self::Mean,
            (rule, ..) => rule,
        }
    }

    /// Whether replicas that are bit for bit equal stay what they are.
    pub fn keeps_equal_replicas(self) -> bool {
        matches!(self, Self::Rank(_) | Self::Mean | Self::Median | Self::GeometricMean | Self::Fold)
    }

    /// Why the rule makes no sense for a kind of parameter; `None` if it does.
    pub fn cannot_apply_to(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (_, kind) if !kind.is_replicated() => Some("these parameters have no replicas: they are joined"),
            (Self::Fold, kind) if !matches!(kind, Kind::NormGain | Kind::NormBias) => Some("only norms can be folded"),
            (Self::GeometricMean, kind) if kind != Kind::NormGain => {
                Some("a geometric mean needs values of one sign, as only gains have")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(tp_rank) => write!(formatter, "rank {tp_rank}"),
            Self::Mean => formatter.write_str("mean"),
            Self::Median => formatter.write_str("median"),
            Self::GeometricMean => formatter.write_str("geometric-mean"),
            Self::Sum => formatter.write_str("sum"),
            Self::Scale(factor) => write!(formatter, "{factor} × mean"),
            Self::Auto => formatter.write_str("auto"),
            Self::Fold => formatter.write_str("fold"),
        }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RuleVisitor)
    }
}

struct RuleVisitor;

const EXPECTED: &str = "rank0, rank: k, mean, median, geometric-mean, sum, scale: s, fold or auto";

impl<'de> Visitor<'de> for RuleVisitor {
    type Value = Rule;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Rule, E> {
        match name {
            "mean" => Ok(Rule::Mean),
            "median" => Ok(Rule::Median),
            "geometric-mean" => Ok(Rule::GeometricMean),
            "sum" => Ok(Rule::Sum),
            "auto" => Ok(Rule::Auto),
            "fold" => Ok(Rule::Fold),
            _ => name
                .strip_prefix("rank")
                .and_then(|rank| rank.parse().ok())
                .map(Rule::Rank)
                .ok_or_else(|| E::custom(format!("unknown rule `{name}`, expected {EXPECTED}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rule, A::Error> {
        let rule = match map.next_key::<String>()?.as_deref() {
            Some("rank") => Rule::Rank(map.next_value()?),
            Some("scale") => {
                let factor: f64 = map.next_value()?;
                if !factor.is_finite() {
                    return Err(de::Error::custom("`scale` must be finite"));
                }
                Rule::Scale(factor)
            }
            key => {
                let key = key.unwrap_or("nothing");
                return Err(de::Error::custom(format!("unknown rule `{key}`, expected {EXPECTED}")));
            }
        };
        match map.next_key::<String>()? {
            None => Ok(rule),
            Some(key) => Err(de::Error::custom(format!("a rule has one key, found also `{key}`"))),
        }
    }
}
