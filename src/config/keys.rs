//! The settings that gpt-neox and known forks of it have had, and whether the model depends on them. Settings that nobody
//! reads are never passed over in silence: known and irrelevant, refused, or named in a warning.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::choices::flag;

static KEYS: LazyLock<HashMap<&str, Key>> = LazyLock::new(|| {
    let rows = include_str!("keys.tsv").lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(Key::parse).collect()
});

/// A row of `keys.tsv`.
#[derive(Debug)]
pub(super) struct Key {
    /// gpt-neox, or the fork that has it.
    pub of: &'static str,
    pub effect: Effect,
}

#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    Read,
    /// The model does not depend on it.
    Irrelevant,
    /// It makes another model unless its value is one of these.
    OtherModel {
        harmless: Vec<Value>,
        meaning: &'static str,
    },
}

impl Key {
    fn parse(line: &'static str) -> Option<(&'static str, Self)> {
        let mut cells = line.split('\t');
        let (name, of) = (cells.next()?, cells.next()?);
        let effect = match cells.nth(2)? {
            "read" => Effect::Read,
            "none" => Effect::Irrelevant,
            _ => {
                let harmless = serde_json::from_str(cells.next()?).ok()?;
                Effect::OtherModel { harmless, meaning: cells.next()? }
            }
        };
        Some((name, Self { of, effect }))
    }
}

pub(super) fn known() -> impl Iterator<Item = (&'static str, &'static Key)> {
    KEYS.iter().map(|(name, key)| (*name, key))
}

pub(super) fn is_known(key: &str) -> bool {
    KEYS.contains_key(key)
}

/// Whether the model does not depend on a key, whatever its value.
pub(super) fn is_irrelevant(key: &str) -> bool {
    KEYS.get(key).is_some_and(|key| key.effect == Effect::Irrelevant)
}

/// Who has a setting that makes another model with this value, and what it changes.
pub(super) fn other_model(name: &str, value: &Value) -> Option<(&'static str, &'static str)> {
    match KEYS.get(name)? {
        Key { of, effect: Effect::OtherModel { harmless, meaning } }
            if !value.is_null() && !harmless.iter().any(|harmless| is(value, harmless)) =>
        {
            Some((of, meaning))
        }
        _ => None,
    }
}

/// Whether a value is a harmless one: the same, in another spelling of true or false, or a mapping with these entries.
fn is(value: &Value, harmless: &Value) -> bool {
    match (value, harmless) {
        (Value::Object(value), Value::Object(harmless)) if !harmless.is_empty() => {
            harmless.iter().all(|(key, harmless)| value.get(key).is_some_and(|value| is(value, harmless)))
        }
        (Value::Number(value), Value::Number(harmless)) => value.as_f64() == harmless.as_f64(),
        (value, Value::Bool(harmless)) => flag(value) == Some(*harmless),
        (Value::String(value), Value::String(harmless)) => value.trim().eq_ignore_ascii_case(harmless),
        (value, harmless) => value == harmless,
    }
}
