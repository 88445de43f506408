//! Reading gpt-neox configuration files and combining them into one flat map.
//!
//! gpt-neox reads every file with `PyYAML`, `.json` included, replaces `-` by `_` in top-level keys and refuses a key
//! that an earlier file gave (`NeoXArgs.from_ymls`, `megatron/neox_arguments/arguments.py`). Its check compares the
//! raw key with the converted ones and so lets some duplicates through; here keys are converted first, and duplicates
//! that repeat a value in one file, and those of keys that the model does not depend on, are let through.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::{DuplicateKeyPolicy, Error as YamlError, NonFiniteFloatPolicy, Spanned};

use super::error::{ConfigError, KeyPlace};
use super::keys;
use crate::files;

/// Real configurations are a few kilobytes; long lists of data files make some larger.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The sections that `parse` reads, and the keys that it reads in them.
const SECTIONS: [(&str, &[&str]); 4] = [
    ("bf16", &["enabled"]),
    ("fp16", &["enabled", "fp16", "type"]),
    ("soft_prompt_tuning", &["enabled", "num_tokens"]),
    ("zero_optimization", &["stage"]),
];

/// The files a configuration came from, and which of them gave each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    files: Vec<PathBuf>,
    place_of_key: HashMap<String, KeyPlace>,
}

impl Sources {
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The file that gave a top-level key (spelled with `_`).
    pub(crate) fn file_of(&self, key: &str) -> Option<&Path> {
        self.place_of_key.get(key).map(|place| place.path.as_path())
    }

    /// The line, counted from 1, of a top-level key (spelled with `_`) in its file.
    pub fn line_of(&self, key: &str) -> Option<usize> {
        self.place_of_key.get(key).map(|place| place.line)
    }

    /// The file and line of a top-level key (spelled with `_`).
    pub(super) fn place_of(&self, key: &str) -> Option<&KeyPlace> {
        self.place_of_key.get(key)
    }

    /// For messages: the file that gave the key, else all files.
    pub(super) fn describe(&self, key: &str) -> String {
        match self.file_of(key) {
            Some(path) => path.display().to_string(),
            None if self.files.is_empty() => "configuration".to_owned(),
            None => self.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        }
    }
}

impl From<Vec<PathBuf>> for Sources {
    /// Files without the knowledge which gave which key.
    fn from(files: Vec<PathBuf>) -> Self {
        Self { files, place_of_key: HashMap::new() }
    }
}

/// Reads configuration files and combines them. Keys keep their order and carry `_` instead of `-`.
pub fn read_files(paths: &[PathBuf]) -> Result<(Map<String, Value>, Sources), ConfigError> {
    let contents = paths.iter().map(|path| Ok((path.clone(), read_bytes(path)?)));
    combine(&contents.collect::<Result<Vec<_>, ConfigError>>()?)
}

/// Combines configuration files whose bytes are at hand, as [`read_files`] does.
pub(super) fn combine(contents: &[(PathBuf, Vec<u8>)]) -> Result<(Map<String, Value>, Sources), ConfigError> {
    if contents.is_empty() {
        return Err(ConfigError::NoFiles);
    }
    let mut values = Map::new();
    let mut sources = Sources::from(contents.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>());
    for (path, bytes) in contents {
        let text = decode(path, bytes)?;
        let entries = match parse(text, DuplicateKeyPolicy::Error) {
            Err(error @ YamlError::DuplicateMappingKey { .. }) => {
                // A second, permissive reading finds both lines if the key is a top-level one.
                let entries = parse(text, DuplicateKeyPolicy::PassThrough).ok();
                entries.filter(|entries| entries.can_be_read(&error)).ok_or(error)
            }
            read => read,
        };
        for Entry { key: written, line, value } in entries.map_err(|error| syntax_error(path, text, &error))?.0 {
            let key = written.replace('-', "_");
            let place = KeyPlace { path: path.clone(), line };
            match sources.place_of_key.entry(key.clone()) {
                // As in PyYAML, the last value counts.
                MapEntry::Occupied(mut first)
                    if keys::is_irrelevant(&key)
                        || (first.get().path == place.path && values.get(&key) == Some(&value)) =>
                {
                    drop(first.insert(place));
                }
                MapEntry::Occupied(first) => {
                    return Err(ConfigError::DuplicateKey { key, first: first.get().clone(), second: place });
                }
                MapEntry::Vacant(slot) => drop(slot.insert(place)),
            }
            values.insert(key, value);
        }
    }
    Ok((values, sources))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
    files::read(path, MAX_FILE_BYTES).map_err(|source| match source.kind() {
        ErrorKind::FileTooLarge => ConfigError::TooLarge { path: path.to_owned(), limit_bytes: MAX_FILE_BYTES },
        _ => ConfigError::Read { path: path.to_owned(), source },
    })
}

fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|_| {
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        ConfigError::Syntax {
            path: path.to_owned(),
            line: valid.matches('\n').count() + 1,
            column: valid.chars().rev().take_while(|&character| character != '\n').count() + 1,
            message: "expected text in UTF-8, found other bytes".to_owned(),
            suggestion: None,
        }
    })
}

struct Entries(Vec<Entry>);

impl Entries {
    /// Whether a key that is given twice is one of the top level, which [`combine`] checks, or inside a section that
    /// the model does not depend on. There, as in `PyYAML`, the last value counts.
    fn can_be_read(&self, error: &YamlError) -> bool {
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok()).unwrap_or(0);
        let mut seen = HashSet::new();
        let twice = self.0.iter().any(|entry| !seen.insert(entry.key.replace('-', "_")));
        let section = self.0.iter().rev().find(|entry| entry.line <= line);
        let YamlError::DuplicateMappingKey { key: Some(key), .. } = error else { return false };
        let is_irrelevant = |section: &Entry| {
            let name = section.key.replace('-', "_");
            let read = SECTIONS.iter().find(|(section, _)| *section == name);
            keys::is_irrelevant(&name) || read.is_some_and(|(_, keys)| !keys.contains(&key.as_str()))
        };
        twice || section.is_some_and(is_irrelevant)
    }
}

struct Entry {
    key: String,
    line: usize,
    value: Value,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;

        impl<'de> Visitor<'de> for TopLevel {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a mapping of configuration keys")
            }

            fn visit_unit<E>(self) -> Result<Entries, E> {
                Ok(Entries(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<Spanned<String>, Value>()? {
                    let line = usize::try_from(key.referenced.line()).unwrap_or(usize::MAX);
                    entries.push(Entry { key: key.value, line, value });
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_any(TopLevel)
    }
}

fn parse(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Entries, YamlError> {
    let options = serde_saphyr::options! {
        // Aliases let a small file grow without bound.
        budget: serde_saphyr::budget! {
            max_aliases: 1_000,
            max_nodes: 200_000,
            max_total_scalar_bytes: 32 << 20,
        },
        duplicate_keys: duplicate_keys,
        // As PyYAML: 010 is eight.
        legacy_octal_numbers: true,
        // JSON values have no infinity; a key that needs a number refuses the word later.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
}

fn syntax_error(path: &Path, text: &str, error: &YamlError) -> ConfigError {
    let location = error.location();
    let position = |number: Option<u64>| number.and_then(|number| usize::try_from(number).ok()).unwrap_or(1);
    let line = position(location.map(|location| location.line()));
    let column = position(location.map(|location| location.column()));
    let mut message = match error {
        YamlError::DuplicateMappingKey { key, .. } => {
            format!("key `{}` is given twice in one mapping", key.as_deref().unwrap_or("?"))
        }
        YamlError::MultipleDocuments { .. } => "expected one YAML document, found a second".to_owned(),
        other => other.to_string(),
    };
    // The place is in the fields.
    if let Some(end) = message.rfind(" at line ") {
        message.truncate(end);
    }
    let suggestion = punctuation_hint(text, line, &message);
    ConfigError::Syntax { path: path.to_owned(), line, column, message: shorten(message, 160), suggestion }
}

/// The parser notices a missing comma or quotation mark only at the next token, often on a later line.
fn punctuation_hint(text: &str, line: usize, message: &str) -> Option<String> {
    if !message.contains("did not find expected ','") && !message.contains("invalid trailing content") {
        return None;
    }
    let lines: Vec<&str> = text.lines().take(line.saturating_sub(1)).map(without_comment).collect();
    let before = lines.iter().enumerate().rev().find_map(|(index, code)| Some((index + 1, code.chars().next_back()?)));
    match before {
        Some((number, last)) if !matches!(last, ',' | '{' | '[' | ':') => {
            Some(format!("a comma seems to be missing at the end of line {number}"))
        }
        _ => Some(format!("look for a missing comma or quotation mark on line {line} or just before it")),
    }
}

fn without_comment(line: &str) -> &str {
    let starts_comment = |position: usize| {
        let before = &line[..position];
        before.matches('"').count().is_multiple_of(2) && before.chars().next_back().is_none_or(char::is_whitespace)
    };
    let end = line.match_indices('#').map(|(position, _)| position).find(|&position| starts_comment(position));
    line[..end.unwrap_or(line.len())].trim_end()
}

/// Cuts text that a file may have made long.
pub(super) fn shorten(mut text: String, longest: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(longest) {
        text.truncate(end);
        text.push('…');
    }
    text
}
