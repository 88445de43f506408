//! Typed access to raw configuration values, with errors that name key, expectation, finding and file.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::choices::{Choice, flag};
use super::error::ConfigError;
use super::yaml::{Sources, shorten};

/// No size of a model comes near this; products of two sizes stay within 64 bits.
const MAX_SIZE: u64 = (1 << 31) - 1;

/// Whole numbers up to here are exact in a 64-bit float.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// The top level of a configuration or one of its sections. A key with the value `null` counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    map: &'a Map<String, Value>,
    sources: &'a Sources,
    section: Option<&'static str>,
}

impl<'a> Values<'a> {
    pub(super) fn new(map: &'a Map<String, Value>, sources: &'a Sources) -> Self {
        Self { map, sources, section: None }
    }

    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn section(self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { map, section: Some(key), ..self })),
            Some(other) => Err(self.invalid(key, "a mapping", describe(other))),
        }
    }

    pub(super) fn required(self, key: &str, value: Option<usize>) -> Result<usize, ConfigError> {
        value.ok_or_else(|| ConfigError::MissingKey { key: self.name(key), files: self.file(key) })
    }

    /// A size or count of at least one.
    pub(super) fn size(self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.size_within(key, 1..=MAX_SIZE)
    }

    pub(super) fn count(self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.size_within(key, 0..=MAX_SIZE)
    }

    pub(super) fn size_within(self, key: &str, range: RangeInclusive<u64>) -> Result<Option<usize>, ConfigError> {
        let whole = self.whole(key, range)?;
        whole.map(|whole| usize::try_from(whole).map_err(|_| self.invalid(key, "a smaller number", whole))).transpose()
    }

    /// A whole number: an integer, a float without fraction, or either as text.
    pub(super) fn whole(self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let whole = match value {
            Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole_from_float)),
            Value::String(text) => parse(text).or_else(|| parse(text).and_then(whole_from_float)),
            _ => None,
        };
        match whole {
            Some(whole) if range.contains(&whole) => Ok(Some(whole)),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                Err(self.invalid(key, expected, describe(value)))
            }
        }
    }

    /// A finite number of at least zero.
    pub(super) fn number(self, key: &str, default: f64) -> Result<f64, ConfigError> {
        Ok(self.number_that(key, "a number of at least 0", |number| number >= 0.0)?.unwrap_or(default))
    }

    pub(super) fn positive(self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.number_that(key, "a number above 0", |number| number > 0.0)
    }

    /// A finite number that meets a condition. `PyYAML` reads `1e-5` as text, so text with a number in it is one.
    pub(super) fn number_that(
        self,
        key: &str,
        expected: &str,
        accepts: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => parse(text),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() && accepts(number) => Ok(Some(number)),
            _ => Err(self.invalid(key, expected, describe(value))),
        }
    }

    /// True or false, as [`flag`] understands them.
    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        flag(value).ok_or_else(|| self.invalid(key, "true or false", describe(value)))
    }

    pub(super) fn text(self, key: &str) -> Result<Option<String>, ConfigError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.invalid(key, "text", describe(other))),
        }
    }

    pub(super) fn choice<T: Choice>(self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let spellings = || T::VALUES.iter().map(|choice| (choice.word(), *choice)).chain(T::ALIASES.iter().copied());
        let chosen = value.as_str().and_then(|text| spellings().find(|(spelling, _)| *spelling == text));
        chosen.map(|(_, choice)| Some(choice)).ok_or_else(|| {
            let words: Vec<&str> = T::VALUES.iter().map(|choice| choice.word()).collect();
            self.invalid(key, format!("one of {}", words.join(", ")), describe(value))
        })
    }

    pub(super) fn invalid(self, key: &str, expected: impl fmt::Display, found: impl fmt::Display) -> ConfigError {
        ConfigError::InvalidValue {
            key: self.name(key),
            expected: expected.to_string(),
            found: found.to_string(),
            file: self.file(key),
        }
    }

    pub(super) fn conflict(
        self,
        (key, value): (&str, &dyn fmt::Display),
        (other_key, other_value): (&str, &dyn fmt::Display),
    ) -> ConfigError {
        ConfigError::Conflict {
            key: self.name(key),
            value: value.to_string(),
            other_key: other_key.to_owned(),
            other_value: other_value.to_string(),
            file: self.file(key),
        }
    }

    fn name(self, key: &str) -> String {
        self.section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}"))
    }

    fn file(self, key: &str) -> String {
        self.sources.describe(self.section.unwrap_or(key))
    }
}

/// A value for a message: short, with quotes around text.
pub(super) fn describe(value: &Value) -> String {
    shorten(value.to_string(), 60)
}

/// `_` is allowed between digits, as in Python.
fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.trim().replace('_', "").parse().ok()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
fn whole_from_float(number: f64) -> Option<u64> {
    let whole = number.fract() == 0.0 && (0.0..=MAX_EXACT_FLOAT).contains(&number);
    whole.then_some(number as u64)
}
