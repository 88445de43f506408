//! The tokenizer, used the way lm-evaluation-harness and transformers use it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::data_error::DataError;
use super::data_set::{Passage, sha256_of, trim_end_as_python};
use crate::files;
use crate::samples::Sample;

/// Token ids of a context and of its target.
pub type TokenPair = (Vec<u32>, Vec<u32>);

/// Whether the tokenizer file's own post-processor may add special tokens: transformers' default. GPT-NeoX's
/// tokenizers add none, and no token is ever added here.
const ADD_SPECIAL_TOKENS: bool = true;

/// The largest file that is read; those of the largest vocabularies have 30 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A `tokenizer.json`, with its provenance.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    sha256: String,
    largest_id: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Truncation and padding that the file asks for are switched off, as transformers does.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not a tokenizer with at least one token.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        Self::from_bytes(&files::read(path, MAX_FILE_BYTES)?, path)
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
        Ok(Self { inner, path: path.to_owned(), sha256: sha256_of(bytes), largest_id })
    }

    /// The file it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of the file, hexadecimal, as `sha256sum` prints it.
    #[must_use]
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

    /// Fills in the texts of the samples' top tokens.
    pub fn fill_top_token_texts(&self, samples: &mut [Sample]) {
        let mut known: HashMap<u32, String> = HashMap::new();
        let tokens = samples.iter_mut().flat_map(|sample| &mut sample.tokens);
        for top in tokens.flat_map(|token| &mut token.top) {
            top.text.clone_from(known.entry(top.id).or_insert_with(|| self.decode(&[top.id])));
        }
    }

    /// The id of a token.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of some tokens, special ones included; empty where the library has none.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// Tokens that begin or end a text, by the `tokenizer_config.json` beside the file, and gpt-neox's own.
    #[must_use]
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
        let encoding = self.inner.encode_fast(text, ADD_SPECIAL_TOKENS).map_err(|error| self.refused(&*error))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_batch(&self, texts: Vec<String>) -> Result<Vec<Vec<u32>>, DataError> {
        let encodings =
            self.inner.encode_batch_fast(texts, ADD_SPECIAL_TOKENS).map_err(|error| self.refused(&*error))?;
        Ok(encodings.iter().map(|encoding| encoding.get_ids().to_vec()).collect())
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
