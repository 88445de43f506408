//! A candidate: its format, and how its parameters were made from the checkpoint's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::info::FileDigest;
use crate::merge::CandidateAnalysis;
use crate::partition::Kind;

/// A merge made by another tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateInfo {
    /// The directory as it was given.
    pub path: String,
    /// Its format, such as `Hugging Face GPTNeoXForCausalLM` or `gpt-neox, 1 rank`.
    pub format: String,
    /// Data type the parameters are stored in.
    pub dtype: String,
    /// Rows of its vocabulary. Where they are not the checkpoint's, probabilities are over its own rows, and divergences
    /// from the baseline are between both distributions renormalised over the tokens that both have.
    pub vocab_size: usize,
    /// How the checkpoint's replicated parameters were merged, kind by kind.
    pub replicated: Vec<ReplicatedKind>,
    /// Whether its matrices are the checkpoint's joined shards, kind by kind.
    pub joined: Vec<JoinedKind>,
    /// Settings of the model that are not the checkpoint's.
    pub settings: Vec<SettingDifference>,
    /// Digest of every file read; absent where they were not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Vec<FileDigest>>,
}

/// How the replicated parameters of one kind were merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicatedKind {
    /// The kind.
    pub kind: Kind,
    /// Names of the parameters inside the checkpoint's layers.
    pub parameters: Vec<String>,
    /// The rule whose result is closest, such as `mean`, `sum` or `rank 0`.
    pub rule: String,
    /// Whether the values are that result, bit for bit.
    pub same_bits: bool,
    /// Largest absolute difference from that result.
    pub max_abs_difference: f64,
}

/// How the partitioned parameters of one kind compare with the joined shards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JoinedKind {
    /// The kind.
    pub kind: Kind,
    /// Whether they are the joined shards, bit for bit.
    pub same_bits: bool,
    /// Largest absolute difference from the joined shards.
    pub max_abs_difference: f64,
}

/// A setting that is not the checkpoint's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingDifference {
    /// Its name.
    pub setting: String,
    /// The checkpoint's value.
    pub checkpoint: String,
    /// The candidate's.
    pub candidate: String,
}

impl CandidateInfo {
    /// Adds the analysis of its parameters.
    pub fn with_parameters(mut self, analysis: &CandidateAnalysis) -> Self {
        let replicated = analysis.replicated().into_iter().map(|found| ReplicatedKind {
            kind: found.kind,
            parameters: found.parameters,
            rule: found.rule.to_string(),
            same_bits: found.same_bits,
            max_abs_difference: found.difference.max_abs,
        });
        self.replicated = replicated.collect();
        let joined = analysis.joined().into_iter().map(|found| JoinedKind {
            kind: found.kind,
            same_bits: found.same_bits,
            max_abs_difference: found.difference.max_abs,
        });
        self.joined = joined.collect();
        self
    }
}
