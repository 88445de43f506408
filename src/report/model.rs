//! The models of a comparison.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::candidate::CandidateInfo;
use crate::merge::{FoldSummary, Miscount};

/// The place of a model in the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelRole {
    /// The model that the others are compared with.
    Baseline,
    /// A merge by a strategy, or a candidate.
    Variant,
    /// The baseline again, in chunks of a different size.
    NoiseFloor,
}

/// A strategy and the digest of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StrategyDigest {
    /// Its name.
    pub name: String,
    /// BLAKE3 of its text (256 bits), hexadecimal.
    pub blake3: String,
}

/// A model that is evaluated, as it is known before its first passage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// The name of its row: `baseline`, or the strategy or candidate.
    pub name: String,
    /// Other strategies that make this model of the checkpoint.
    #[serde(default)]
    pub also: Vec<String>,
    /// The strategies that make it, its own first; empty for a model that no strategy makes.
    #[serde(default)]
    pub strategies: Vec<StrategyDigest>,
    /// Its place in the comparison.
    pub role: ModelRole,
    /// A sentence about it.
    pub description: String,
    /// Where it comes from: a strategy file, a directory, or the paper or script it follows.
    pub source: String,
    /// Whether it is the baseline by construction; `None` where unknown.
    pub exact: Option<Exact>,
    /// Parameters whose multiplicity it gets wrong.
    pub miscounts: Vec<Miscount>,
    /// The effect of folding on its weights.
    pub folding: Option<FoldSummary>,
    /// Of a candidate: its format, and how it was made.
    pub candidate: Option<CandidateInfo>,
    /// Findings about it, a sentence each.
    pub findings: Vec<String>,
}

impl ModelRecord {
    /// A model of which nothing else is known.
    pub fn new(name: &str, role: ModelRole) -> Self {
        Self {
            name: name.to_owned(),
            also: Vec::new(),
            strategies: Vec::new(),
            role,
            description: String::new(),
            source: String::new(),
            exact: None,
            miscounts: Vec::new(),
            folding: None,
            candidate: None,
            findings: Vec::new(),
        }
    }
}

/// Whether a merge is the unmerged model in exact arithmetic, judged from rules and parameters, not from scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Exact {
    /// Whether it is.
    pub exact: bool,
    /// If not, why: a line for each parameter that it changes.
    pub because: Vec<String>,
}
