//! The arguments that Megatron-LM saves with a model (`args`, an `argparse.Namespace`), field by field.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::MegatronError;
use crate::config::read_files;

/// No size of a model is beyond this; products of three such sizes fit.
const MAX_COUNT: u64 = 1 << 20;

/// Fields that decide nothing about what the model computes, one a line; `*` ends a beginning. From the arguments of
/// Megatron-LM v1.0 (2020-04) to core 0.17.1 (2026-05).
const IRRELEVANT: &str = include_str!("irrelevant_args.txt");

/// Fields of the user's own files.
#[derive(Debug, Default)]
pub(super) struct GivenArgs {
    fields: Map<String, Value>,
    /// Of the files, for messages.
    names: String,
}

impl GivenArgs {
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self, MegatronError> {
        if paths.is_empty() {
            return Ok(Self::default());
        }
        let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Ok(Self { fields: read_files(paths)?.0, names })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Args {
    fields: Map<String, Value>,
    /// Where they are from, for messages.
    source_name: String,
}

impl Args {
    /// The fields of a rank's file, with those that the user gave before them.
    pub(super) fn new(
        path: &Path,
        saved: Option<Map<String, Value>>,
        given: &GivenArgs,
    ) -> Result<Self, MegatronError> {
        let missing = || MegatronError::NoArgs { path: path.to_owned() };
        let source_name = match (&saved, given.names.as_str()) {
            (None, "") => return Err(missing()),
            (None, names) => names.to_owned(),
            (Some(_), "") => format!("{}: args", path.display()),
            (Some(_), names) => format!("{names} and {}: args", path.display()),
        };
        let mut fields = saved.unwrap_or_default();
        fields.extend(given.fields.clone());
        Ok(Self { fields, source_name })
    }

    pub(super) fn source_name(&self) -> &str {
        &self.source_name
    }

    /// A field that is there and not None.
    pub(super) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Whether a field is there and means anything: neither None, False, 0 nor empty.
    pub(super) fn is_set(&self, field: &str) -> bool {
        self.get(field).is_some_and(is_set)
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, MegatronError> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.unexpected(field, "True or False"));
        self.get(field).map(flag).transpose()
    }

    /// A whole number from 1.
    pub(super) fn count(&self, field: &str) -> Result<Option<usize>, MegatronError> {
        let count = |value: &Value| {
            let number = value.as_u64().filter(|number| (1..=MAX_COUNT).contains(number));
            number
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| self.unexpected(field, &format!("a whole number from 1 to {MAX_COUNT}")))
        };
        self.get(field).map(count).transpose()
    }

    pub(super) fn required_count(&self, field: &'static str) -> Result<usize, MegatronError> {
        let missing = || MegatronError::MissingField { source_name: self.source_name.clone(), field };
        self.count(field)?.ok_or_else(missing)
    }

    /// A number above 0.
    pub(super) fn positive(&self, field: &str) -> Result<Option<f64>, MegatronError> {
        let number = |value: &Value| {
            let number = value.as_f64().filter(|&number| number > 0.0 && number.is_finite());
            number.ok_or_else(|| self.unexpected(field, "a number above 0"))
        };
        self.get(field).map(number).transpose()
    }

    pub(super) fn word(&self, field: &str) -> Result<Option<&str>, MegatronError> {
        self.get(field).map(|value| value.as_str().ok_or_else(|| self.unexpected(field, "a word"))).transpose()
    }

    /// The error for a field whose value is not what it should be.
    pub(super) fn unexpected(&self, field: &str, expected: &str) -> MegatronError {
        let found = self.fields.get(field).map_or_else(|| "nothing".to_owned(), shown);
        let (field, expected) = (field.to_owned(), expected.to_owned());
        MegatronError::Field { source_name: self.source_name.clone(), field, expected, found }
    }

    /// The first of these fields in which the other's differ: its name and both values.
    pub(super) fn difference<'a>(&self, other: &Self, fields: &[&'a str]) -> Option<(&'a str, String, String)> {
        let value = |args: &Self, field: &str| args.fields.get(field).cloned().unwrap_or(Value::Null);
        fields.iter().find_map(|&field| {
            let (ours, theirs) = (value(self, field), value(other, field));
            (ours != theirs).then(|| (field, shown(&ours), shown(&theirs)))
        })
    }

    /// Fields that are set, and neither among these nor known to decide nothing.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<&str> {
        let irrelevant = |field: &str| {
            IRRELEVANT.lines().any(|line| match line.strip_suffix('*') {
                Some(beginning) => field.starts_with(beginning),
                None => field == line,
            })
        };
        let fields = self.fields.iter().filter(|(_, value)| is_set(value)).map(|(field, _)| field.as_str());
        fields.filter(|field| !known.contains(field) && !irrelevant(field)).collect()
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

/// A value as Python writes it, cut where it is long.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        value => {
            let mut text = value.to_string();
            if let Some((end, _)) = text.char_indices().nth(80) {
                text.truncate(end);
                text.push('…');
            }
            text
        }
    }
}
