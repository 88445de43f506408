//! The tokenizer, used the way lm-evaluation-harness and transformers use it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::data_error::DataError;
use super::data_set::{Passage, sha256_of, trim_end_as_python};
use super::special_tokens::Surroundings;
use crate::files;
use crate::options::SpecialTokens;
use crate::samples::Sample;

/// Token ids of a context and of its target.
pub type TokenPair = (Vec<u32>, Vec<u32>);

/// The largest file that is read; those of the largest vocabularies have 30 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A `tokenizer.json`, with its provenance.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    sha256: String,
    largest_id: u32,
    /// What its post-processor would add.
    own: Surroundings,
    /// Tokens that are put before every text.
    before: Vec<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding that the file asks for are switched off, as transformers does.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a tokenizer with at least one token.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        Self::from_bytes(&files::read(path, MAX_FILE_BYTES)?, path)
    }

    /// Reads the `vocab.json` and `merges.txt` of a byte-level BPE, as gpt-neox's `GPT2BPETokenizer` does.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_vocabulary(path: &Path, merges: &Path) -> Result<Self, DataError> {
        let vocabulary = files::read(path, MAX_FILE_BYTES)?;
        let text = files::read_to_string(merges, MAX_FILE_BYTES)?;
        let invalid = |message: String| DataError::InvalidTokenizer { path: path.to_owned(), message };
        let vocab: serde_json::Value =
            serde_json::from_slice(&vocabulary).map_err(|error| invalid(error.to_string()))?;
        let pairs: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
        let byte_level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true });
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": { "type": "BPE", "vocab": vocab, "merges": pairs },
        });
        let tokenizer = Self::from_bytes(json.to_string().as_bytes(), path)?;
        Ok(Self { sha256: sha256_of(&[vocabulary.as_slice(), text.as_bytes()].concat()), ..tokenizer })
    }

    /// Says if its tokens cannot be those of gpt-neox's class `kind`: SentencePiece writes a space as `▁`, byte-level BPE
    /// as `Ġ`.
    pub fn of_another_family(&self, kind: &str) -> Option<String> {
        let (own, other, name) = match kind {
            "SPMTokenizer" => ("▁", "Ġ", "a byte-level BPE"),
            "GPT2BPETokenizer" | "HFGPT2Tokenizer" | "HFGPT2TokenizerFast" => ("Ġ", "▁", "SentencePiece's"),
            "CharLevelTokenizer" if self.largest_id >= 512 => ("", "", "not one of bytes"),
            _ => return None,
        };
        let differs = own == other || (self.id_of(own).is_none() && self.id_of(other).is_some());
        differs.then(|| format!("{}: the model was trained with {kind}; this tokenizer is {name}", self.path.display()))
    }

    /// As [`Tokenizer::from_file`], of bytes in memory; `path` is named in errors.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        let invalid = |message: String| DataError::InvalidTokenizer { path: path.to_owned(), message };
        // The library panics at broken JSON in some places; broken JSON, strings included, is found before.
        serde_json::from_slice::<serde_json::Value>(bytes).map_err(|error| invalid(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| invalid(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| invalid(error.to_string()))?.with_padding(None);
        let largest_id = inner.get_vocab(true).values().copied().max();
        let largest_id = largest_id.ok_or_else(|| invalid("it has no tokens".to_owned()))?;
        let own = Surroundings::of(&inner).map_err(invalid)?;
        let before = own.before.clone();
        Ok(Self { inner, path: path.to_owned(), sha256: sha256_of(bytes), largest_id, own, before })
    }

    /// The same tokenizer with other tokens before every text; the default is [`SpecialTokens::Auto`].
    ///
    /// # Errors
    /// [`DataError::NoPrefixToken`] where BOS is asked for and the tokenizer has none.
    pub fn with_special_tokens(mut self, choice: SpecialTokens) -> Result<Self, DataError> {
        self.before = match choice {
            SpecialTokens::No => Vec::new(),
            SpecialTokens::Yes if self.own.before.is_empty() => vec![self.first_id(&self.text_ends())?],
            SpecialTokens::Auto | SpecialTokens::Yes => self.own.before.clone(),
        };
        Ok(self)
    }

    /// The tokens around every text, for a report: `none` or `bos`, and what was left away.
    pub fn special_tokens(&self) -> String {
        let before = if self.before.is_empty() { "none" } else { "bos" };
        let behind = if self.own.behind.is_empty() { "" } else { ", eos at the end ignored" };
        format!("{before}{behind}")
    }

    /// The ids before every text.
    pub fn before(&self) -> &[u32] {
        &self.before
    }

    /// The text of the tokens that its post-processor puts behind a text, and that are left away here.
    pub fn ignored_end(&self) -> Option<String> {
        (!self.own.behind.is_empty()).then(|| self.decode(&self.own.behind))
    }

    pub(super) fn first_id(&self, names: &[String]) -> Result<u32, DataError> {
        let id = names.iter().find_map(|name| self.id_of(name));
        id.ok_or_else(|| DataError::NoPrefixToken { path: self.path.clone(), names: names.to_vec() })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file, hexadecimal, as `sha256sum` prints it.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Checks that every id has a row in an embedding of `padded_vocab_size` rows over all ranks.
    ///
    /// # Errors
    /// [`DataError::WrongVocabulary`] where the largest id has none.
    pub fn check_vocabulary(&self, padded_vocab_size: usize) -> Result<(), DataError> {
        if (self.largest_id as usize) < padded_vocab_size {
            return Ok(());
        }
        let (path, largest_id) = (self.path.clone(), self.largest_id);
        Err(DataError::WrongVocabulary { path, largest_id, padded_vocab_size })
    }

    /// Whether the tokenizer is large enough for a vocabulary that was padded to a multiple of `multiple`: padding adds
    /// less than one multiple, so a larger gap means another tokenizer.
    ///
    /// # Errors
    /// [`DataError::SmallVocabulary`].
    pub fn check_padding(&self, padded_vocab_size: usize, multiple: usize) -> Result<(), DataError> {
        let rows = self.largest_id as usize + 1;
        if padded_vocab_size.saturating_sub(rows) < multiple {
            return Ok(());
        }
        Err(DataError::SmallVocabulary { path: self.path.clone(), rows, padded_vocab_size, multiple })
    }

    /// Token ids of a context and of its target, by lm-evaluation-harness' `_encode_pair` for causal models: trailing
    /// white space moves from the context to the target, the whole text is encoded at once, and the target's ids are
    /// those after as many ids as the context has by itself.
    ///
    /// # Errors
    /// [`DataError::NoTokens`] where context or target have no tokens (the harness stops at an assertion), and
    /// [`DataError::Tokenizing`].
    pub fn encode_pair(&self, context: &str, target: &str) -> Result<TokenPair, DataError> {
        let trimmed = trim_end_as_python(context);
        let whole = self.encode(&format!("{context}{target}"))?;
        divide(whole, self.encode(trimmed)?, context, target)
    }

    /// [`Self::encode_pair`] of every passage, in the order given, on as many threads as the rayon pool has.
    ///
    /// # Errors
    /// Those of [`Self::encode_pair`], with the passage's number.
    pub fn encode_passages(&self, passages: &[Passage]) -> Result<Vec<TokenPair>, DataError> {
        let wholes = passages.iter().map(|passage| format!("{}{}", passage.context, passage.target)).collect();
        let contexts = passages.iter().map(|passage| trim_end_as_python(&passage.context).to_owned()).collect();
        // The library caches words by thread, as long as the thread lives, even if the tokenizer is dropped: with threads of
        // our own the cache is freed.
        let threads = rayon::ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build();
        let (wholes, contexts) = threads
            .map_err(|error| self.refused(&error))?
            .install(|| Ok::<_, DataError>((self.encode_batch(wholes)?, self.encode_batch(contexts)?)))?;
        passages
            .iter()
            .zip(wholes.into_iter().zip(contexts))
            .map(|(passage, (whole, context_ids))| {
                divide(whole, context_ids, &passage.context, &passage.target)
                    .map_err(|source| DataError::Passage { id: passage.id, source: Box::new(source) })
            })
            .collect()
    }

    pub fn fill_top_token_texts(&self, samples: &mut [Sample]) {
        let mut known: HashMap<u32, String> = HashMap::new();
        let tokens = samples.iter_mut().flat_map(|sample| &mut sample.tokens);
        for top in tokens.flat_map(|token| &mut token.top) {
            top.text.clone_from(known.entry(top.id).or_insert_with(|| self.decode(&[top.id])));
        }
    }

    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of some tokens, special ones included; empty where the library has none.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// Tokens that begin or end a text, by the `tokenizer_config.json` beside the file, and gpt-neox's own.
    pub fn text_ends(&self) -> Vec<String> {
        let config = self.path.with_file_name("tokenizer_config.json");
        let config: Option<serde_json::Value> =
            files::read_to_string(&config, MAX_FILE_BYTES).ok().and_then(|text| serde_json::from_str(&text).ok());
        let token = |key: &str| {
            let token = config.as_ref()?.get(key)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
        };
        ["bos_token", "eos_token"].into_iter().filter_map(token).chain(["<|endoftext|>".to_owned()]).collect()
    }

    /// Token ids of a text by itself.
    ///
    /// # Errors
    /// [`DataError::Tokenizing`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        Ok(self.begun(&self.encode_alone(text)?))
    }

    /// The ids of a text with those before it. A text that begins with BOS itself gets no second one, as in the harness
    /// (`has_bos_prefix` of `lm_eval/models/utils.py`).
    fn begun(&self, ids: &[u32]) -> Vec<u32> {
        let before = if ids.first() == self.before.first() { &[] } else { self.before.as_slice() };
        [before, ids].concat()
    }

    /// As [`Self::encode`], without any token before the text.
    ///
    /// # Errors
    /// [`DataError::Tokenizing`].
    pub fn encode_alone(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| self.refused(&*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_batch(&self, texts: Vec<String>) -> Result<Vec<Vec<u32>>, DataError> {
        let encodings = self.inner.encode_batch_fast(texts, false).map_err(|error| self.refused(&*error))?;
        Ok(encodings.iter().map(|encoding| self.begun(encoding.get_ids())).collect())
    }

    fn refused(&self, error: &dyn std::error::Error) -> DataError {
        DataError::Tokenizing { path: self.path.clone(), message: error.to_string() }
    }
}

/// Cuts the ids of the whole text after as many as the context has; the texts are for the message.
fn divide(mut whole: Vec<u32>, context_ids: Vec<u32>, context: &str, target: &str) -> Result<TokenPair, DataError> {
    if context_ids.is_empty() {
        return Err(DataError::NoTokens { part: "context", text: context.to_owned() });
    }
    if whole.len() <= context_ids.len() {
        return Err(DataError::NoTokens { part: "target", text: target.to_owned() });
    }
    let target_ids = whole.split_off(context_ids.len());
    Ok((context_ids, target_ids))
}
