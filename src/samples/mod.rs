//! What was measured, per passage. Knows nothing of libtorch or of checkpoints: a [`Sample`] is plain data that goes
//! to `samples/NAME.jsonl` and comes back from there; until a run is finished, its results are in a [`Journal`]. Statistics
//! over samples live in `report` (which calls `stats`).

mod error;
mod identity;
mod journal;

#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader, Read as _, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::files;

pub use error::SampleError;
pub use identity::{Differences, Identity};
pub use journal::{Contents, Journal, read_journal};

/// The longest line read: a target of a hundred thousand tokens.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// A token that a model might have put at a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
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
    /// Where a model made elsewhere has another number of rows, both distributions are first renormalised over the tokens
    /// that both have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// The most probable tokens, best first; empty where they were not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Candidate>,
}

/// The outcome of one passage under one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// 0-based position of the passage in the data set.
    pub doc_id: usize,
    /// The text whose probability was asked for, with its leading space.
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
    /// Texts.
    pub documents: usize,
    /// Their words, as Python's `re.split(r"\s+", text)` counts them.
    pub words: usize,
    /// Their bytes in UTF-8.
    pub bytes: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl Sample {
    /// What counts as an answer that is right or wrong: the whole target, or of whole texts every token.
    #[must_use]
    pub fn answers(&self, rolling: Option<RollingText>) -> Vec<bool> {
        match rolling {
            None => vec![self.is_greedy],
            Some(_) => self.tokens.iter().map(|token| token.id == token.greedy_id).collect(),
        }
    }

    /// The log-likelihood as statistics take it, with `count` samples in all: of whole texts scaled so that the mean over
    /// samples is that over words.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    pub fn scored_loglikelihood(&self, rolling: Option<RollingText>, count: usize) -> f64 {
        rolling.map_or(self.loglikelihood, |text| self.loglikelihood * (count as f64 / text.words.max(1) as f64))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts")]
impl RollingText {
    /// `exp(−loglikelihood / words)`.
    #[must_use]
    pub fn word_perplexity(self, loglikelihood: f64) -> f64 {
        (-loglikelihood / self.words.max(1) as f64).exp()
    }

    /// `exp(−loglikelihood / bytes)`.
    #[must_use]
    pub fn byte_perplexity(self, loglikelihood: f64) -> f64 {
        (-loglikelihood / self.bytes.max(1) as f64).exp()
    }

    /// `−log₂ likelihood / bytes`.
    #[must_use]
    pub fn bits_per_byte(self, loglikelihood: f64) -> f64 {
        -loglikelihood / self.bytes.max(1) as f64 / std::f64::consts::LN_2
    }
}

/// The text of one passage, as the task divided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DocumentText {
    /// 0-based position of the passage in the data set.
    pub doc_id: usize,
    /// The text before the target.
    pub context: String,
    /// The text whose probability was asked for, with its leading space.
    pub target: String,
}

/// Writes one JSON object a line ([`Sample`]s or [`DocumentText`]s), to a temporary name first: the file is there whole
/// or not at all.
///
/// # Errors
/// Whatever keeps the file from being written, synced or moved into place.
pub fn write_jsonl<T: Serialize>(path: &Path, samples: &[T]) -> Result<(), SampleError> {
    write_lines(path, samples).map_err(|source| SampleError::Write { path: path.to_owned(), source })
}

fn write_lines<T: Serialize>(path: &Path, samples: &[T]) -> std::io::Result<()> {
    let mut file = files::temporary_sibling(path)?;
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    for sample in samples {
        serde_json::to_writer(&mut out, sample).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    drop(out);
    files::publish(file, path)
}

/// Reads what [`write_jsonl`] wrote.
///
/// # Errors
/// A file that cannot be read, or a line that is not what was expected (named by its number).
pub fn read_jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, SampleError> {
    parse_jsonl(BufReader::new(files::open(path)?), path)
}

/// As [`read_jsonl`], of bytes from anywhere; `path` is named in errors.
///
/// # Errors
/// As [`read_jsonl`].
pub fn parse_jsonl<T: DeserializeOwned>(mut reader: impl BufRead, path: &Path) -> Result<Vec<T>, SampleError> {
    let mut samples = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(SampleError::LineTooLong { path: path.to_owned(), line, limit_bytes: MAX_LINE_BYTES });
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let not_a_sample = |source| SampleError::Line { path: path.to_owned(), line, source };
        samples.push(serde_json::from_slice(&bytes).map_err(not_a_sample)?);
    }
    Ok(samples)
}
