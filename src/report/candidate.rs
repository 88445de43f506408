//! A candidate: its format, and how its parameters were made from the checkpoint's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::info::FileDigest;
use crate::merge::{CandidateException, Conclusion, Miscount};

/// A merge made by another tool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// The strategy that explains most of its parameters: a built-in one, `rank N` (that rank's copies throughout) or
    /// `unmerged` (a model of several ranks, each with its own).
    #[serde(default)]
    pub strategy: String,
    /// Strategies that make the same of this checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub same_as: Vec<String>,
    /// Parameters that are as the strategy makes them, those of each layer counted.
    #[serde(default)]
    pub explained: usize,
    /// All parameters that were compared.
    #[serde(default)]
    pub parameters: usize,
    /// The type that the parameters were rounded to as a whole; absent where that is the checkpoint's, or finer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<String>,
    /// Parameters that it has another multiple of than the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub miscounts: Vec<Miscount>,
    /// Parameters that are not as the strategy makes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<ExceptionInfo>,
    /// Settings by which it computes something else than the checkpoint.
    pub settings: Vec<SettingDifference>,
    /// Digest of every file read; absent where they were not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Vec<FileDigest>>,
}

/// Parameters of a candidate that are not as its strategy makes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExceptionInfo {
    /// Their names inside the checkpoint's layers; none where whole layers are meant.
    pub parameters: Vec<String>,
    /// Numbers of their layers; none for parameters outside of layers.
    pub layers: Vec<usize>,
    /// What each is instead, such as `is the transpose`.
    pub what: String,
    /// Whether something must be wrong. Otherwise they follow another rule that keeps what the model has, but for drift.
    pub suspect: bool,
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
    /// Adds what its parameters show.
    pub fn with_parameters(self, conclusion: &Conclusion) -> Self {
        let Conclusion { strategy, same_as, explained, parameters, rounding, miscounts, exceptions, .. } = conclusion;
        let exception = |exception: &CandidateException| {
            let CandidateException { parameters, layers, what, suspect } = exception.clone();
            ExceptionInfo { parameters, layers, what, suspect }
        };
        Self {
            strategy: strategy.clone(),
            same_as: same_as.clone(),
            explained: *explained,
            parameters: *parameters,
            rounding: rounding.map(|dtype| dtype.to_string()),
            miscounts: miscounts.iter().map(|(_, miscount)| miscount.clone()).collect(),
            exceptions: exceptions.iter().map(exception).collect(),
            ..self
        }
    }
}
