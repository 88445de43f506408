//! The tokenizer that goes with the weights: its files are copied, and read only as far as the written configuration
//! needs: how many tokens there are, and which of them begin and end a text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ExportError;
use crate::files;

/// The names that the copies get.
const JSON: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Files beside `tokenizer.json` that belong to it.
const COMPANIONS: [&str; 5] =
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", VOCABULARY, MERGES];

/// The largest of these files that is read; those of the largest vocabularies have 30 MB.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;

/// A `tokenizer.json`, or the `vocab.json` and `merges.txt` of GPT-2's byte-level BPE.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    path: PathBuf,
    kind: Kind,
    /// The files to copy, with the names that they get.
    copies: Vec<(PathBuf, String)>,
    tokens: BTreeMap<String, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Pair,
}

#[derive(Deserialize)]
struct TokenizerJson {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    vocab: Value,
}

#[derive(Deserialize)]
struct AddedToken {
    id: usize,
    content: String,
}

impl TokenizerFiles {
    /// Reads a `tokenizer.json` and finds the files beside it, or a `vocab.json` whose `merges.txt` is given.
    ///
    /// # Errors
    /// The file cannot be read or is something else.
    pub fn read(path: &Path, merges: Option<&Path>) -> Result<Self, ExportError> {
        match merges {
            None => Self::read_json(path),
            Some(merges) => Self::read_pair(path, merges),
        }
    }

    fn read_pair(path: &Path, merges: &Path) -> Result<Self, ExportError> {
        let text = files::read(path, MAX_FILE_BYTES).map_err(|source| ExportError::Read { source })?;
        let tokens = serde_json::from_slice(&text).map_err(|error| ExportError::Tokenizer {
            path: path.to_owned(),
            reason: format!("no vocab.json, a dictionary of tokens with their numbers: {error}"),
        })?;
        let copies = [(path, VOCABULARY), (merges, MERGES)].map(|(path, name)| (path.to_owned(), name.to_owned()));
        Ok(Self { path: path.to_owned(), kind: Kind::Pair, copies: copies.into(), tokens })
    }

    fn read_json(path: &Path) -> Result<Self, ExportError> {
        let wrong = |reason: String| ExportError::Tokenizer { path: path.to_owned(), reason };
        let text = files::read(path, MAX_FILE_BYTES).map_err(|source| ExportError::Read { source })?;
        let json: TokenizerJson =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("no tokenizer.json: {error}")))?;
        let mut tokens = BTreeMap::new();
        match json.model.vocab {
            Value::Object(vocab) => {
                for (token, id) in vocab {
                    let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
                    tokens.insert(token.clone(), id.ok_or_else(|| wrong(format!("token `{token}` has no number")))?);
                }
            }
            // Unigram models list pairs of token and score.
            Value::Array(vocab) => {
                for (id, entry) in vocab.iter().enumerate() {
                    tokens.insert(entry.get(0).and_then(Value::as_str).unwrap_or_default().to_owned(), id);
                }
            }
            _ => return Err(wrong("`model.vocab` is neither a dictionary nor a list".to_owned())),
        }
        tokens.extend(json.added_tokens.into_iter().map(|token| (token.content, token.id)));
        let beside = |name: &&str| path.parent().map(|folder| folder.join(name)).filter(|path| path.is_file());
        let companions = COMPANIONS.iter().filter_map(|name| Some((beside(name)?, (*name).to_owned())));
        let copies = std::iter::once((path.to_owned(), JSON.to_owned())).chain(companions).collect();
        Ok(Self { path: path.to_owned(), kind: Kind::Json, copies, tokens })
    }

    /// Refuses a vocabulary of so many rows, out of so many that the model has, if there are more tokens.
    pub(super) fn check_rows(&self, rows: usize, of: usize) -> Result<(), ExportError> {
        let tokens = self.token_count();
        if tokens <= rows {
            return Ok(());
        }
        Err(ExportError::Tokens { path: self.path.clone(), tokens, rows, enough: tokens <= of })
    }

    /// Numbers that a model must have rows for: one more than the largest.
    pub fn token_count(&self) -> usize {
        self.tokens.values().max().map_or(0, |last| last.saturating_add(1))
    }

    /// The first of these tokens that exists, with its number.
    pub(super) fn first_of(&self, names: &[&'static str]) -> Option<(&'static str, usize)> {
        names.iter().find_map(|&name| Some((name, *self.tokens.get(name)?)))
    }

    pub(super) fn copies(&self) -> &[(PathBuf, String)] {
        &self.copies
    }

    pub(super) fn copies_file(&self, name: &str) -> bool {
        self.copies.iter().any(|(_, copied)| copied == name)
    }

    /// gpt-neox's `tokenizer_type` (`megatron/tokenizer/tokenizer.py`, `build_tokenizer`).
    pub(super) fn neox_type(&self) -> &'static str {
        match self.kind {
            Kind::Json => "HFTokenizer",
            Kind::Pair => "GPT2BPETokenizer",
        }
    }

    /// gpt-neox's settings for the copied files.
    pub(super) fn neox_files(&self) -> &'static [(&'static str, &'static str)] {
        match self.kind {
            Kind::Json => &[("vocab_file", JSON)],
            Kind::Pair => &[("vocab_file", VOCABULARY), ("merge_file", MERGES)],
        }
    }

    /// The class of transformers' fast tokenizer that reads the copied files.
    pub(super) fn hugging_face_class(&self) -> &'static str {
        match self.kind {
            Kind::Json => "PreTrainedTokenizerFast",
            Kind::Pair => "GPT2TokenizerFast",
        }
    }
}
