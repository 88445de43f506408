//! The outcome of a passage under a model, and the passage's text.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of the most probable tokens at a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TopToken {
    /// The token.
    pub id: u32,
    /// Its text; empty where the tokenizer has none, as for the padding of the vocabulary.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
}

/// The outcome of one target token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenScore {
    /// The target token.
    pub id: u32,
    /// The token of largest logit, over the model's padded vocabulary.
    pub greedy_id: u32,
    /// Natural logarithm of the probability given to the target token.
    pub logprob: f64,
    /// KL(baseline ‖ this model) in nats over the padded vocabulary at this position; absent in the baseline's samples.
    /// Where a candidate has another number of rows, both distributions are first renormalised over the tokens that both
    /// have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The most probable tokens, best first; empty where they were not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TopToken>,
}

/// The outcome of one passage under one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// 0-based position of the passage in the data set.
    pub doc_id: usize,
    /// The text that is scored, with its leading space.
    pub target: String,
    /// Sum of the target tokens' log-probabilities, natural logarithm.
    pub loglikelihood: f64,
    /// Whether greedy decoding would have produced every target token.
    pub is_greedy: bool,
    /// Token by token.
    pub tokens: Vec<TokenScore>,
    /// SHA-256 of the context text, hexadecimal.
    pub prompt_hash: String,
    /// SHA-256 of the target text, hexadecimal.
    pub target_hash: String,
}

/// Whole texts that were predicted in windows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollingText {
    /// Number of texts.
    pub texts: usize,
    /// Their words, as Python's `re.split(r"\s+", text)` counts them.
    pub words: usize,
    /// Their bytes in UTF-8.
    pub bytes: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl Sample {
    /// Whether each answer is right: the whole target is one, or of whole texts every token.
    pub(crate) fn answers(&self, rolling: Option<RollingText>) -> Vec<bool> {
        match rolling {
            None => vec![self.is_greedy],
            Some(_) => self.tokens.iter().map(|token| token.id == token.greedy_id).collect(),
        }
    }

    /// The log-likelihood as statistics take it, with `count` samples in all: of whole texts scaled so that the mean over
    /// samples is that over words.
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    pub(crate) fn scored_loglikelihood(&self, rolling: Option<RollingText>, count: usize) -> f64 {
        rolling.map_or(self.loglikelihood, |text| self.loglikelihood * (count as f64 / text.words.max(1) as f64))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
impl RollingText {
    /// `exp(−loglikelihood / words)`.
    pub(crate) fn word_perplexity(self, loglikelihood: f64) -> f64 {
        (-loglikelihood / self.words.max(1) as f64).exp()
    }

    /// `exp(−loglikelihood / bytes)`.
    pub(crate) fn byte_perplexity(self, loglikelihood: f64) -> f64 {
        (-loglikelihood / self.bytes.max(1) as f64).exp()
    }

    /// `−log₂ likelihood / bytes`.
    pub(crate) fn bits_per_byte(self, loglikelihood: f64) -> f64 {
        -loglikelihood / self.bytes.max(1) as f64 / std::f64::consts::LN_2
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PassageText {
    /// 0-based position of the passage in the data set.
    pub doc_id: usize,
    /// The text before the target.
    pub context: String,
    /// The text that is scored, with its leading space.
    pub target: String,
}
