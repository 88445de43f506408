//! The tokenizer that goes with the weights: its files are copied, and read only as far as the written configuration
//! needs: how many tokens there are, and which of them begin and end a text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ExportError;
use crate::files;

/// The name that the copy gets.
const NAME: &str = "tokenizer.json";

/// Files beside `tokenizer.json` that belong to it.
const COMPANIONS: [&str; 5] =
    ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"];

/// The largest of these files that is read; those of the largest vocabularies have 30 MB.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;

/// A `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct TokenizerFiles {
    path: PathBuf,
    companions: Vec<PathBuf>,
    tokens: BTreeMap<String, usize>,
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
    /// Reads the file and finds those beside it.
    ///
    /// # Errors
    /// The file cannot be read or is no `tokenizer.json`.
    pub fn read(path: &Path) -> Result<Self, ExportError> {
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
        let beside = |name: &str| path.parent().map(|folder| folder.join(name)).filter(|path| path.is_file());
        let companions = COMPANIONS.iter().filter_map(|name| beside(name)).collect();
        Ok(Self { path: path.to_owned(), companions, tokens })
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

    /// The files to copy, with the names that they get.
    pub(super) fn copies(&self) -> Vec<(PathBuf, String)> {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let companions = self.companions.iter().map(|path| (path.clone(), name(path)));
        std::iter::once((self.path.clone(), NAME.to_owned())).chain(companions).collect()
    }

    pub(super) fn copies_file(&self, name: &str) -> bool {
        self.companions.iter().any(|path| path.file_name().is_some_and(|found| found == name))
    }
}
