//! `report.json` and its schema. The file is what other programs read: pretty-printed, written whole or not at all.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contents::{Report, SCHEMA_VERSION};
use super::error::ReportError;
use super::explanation::Explanation;
use super::output_dir::write_atomically;
use crate::files;

/// The largest report that is read; ours have some 100 kB, most of it digests.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// The report as pretty-printed JSON with a final line break.
///
/// # Errors
/// [`ReportError::NotFinite`] names a number that is NaN or infinite.
pub fn to_json(report: &Report) -> Result<String, ReportError> {
    check_finite(report)?;
    pretty(report)
}

/// Indented JSON with a final line break.
pub(super) fn pretty(value: &impl Serialize) -> Result<String, ReportError> {
    let mut text = serde_json::to_string_pretty(value).map_err(ReportError::Json)?;
    text.push('\n');
    Ok(text)
}

/// Writes a report to a file of any name.
///
/// # Errors
/// Those of [`to_json`], and whatever keeps the file from being written, synced or moved into place.
pub fn write_json(path: &Path, report: &Report) -> Result<(), ReportError> {
    write_atomically(path, to_json(report)?.as_bytes())
}

/// Reads what [`write_json`] wrote. Unknown fields are ignored.
///
/// # Errors
/// A file that cannot be read, is no report, or has a different `schema_version`.
pub fn read_json(path: &Path) -> Result<Report, ReportError> {
    parse_json(&read(path, MAX_FILE_BYTES)?, path)
}

/// As [`read_json`], of bytes; `path` is named in errors.
///
/// # Errors
/// As [`read_json`].
pub fn parse_json(bytes: &[u8], path: &Path) -> Result<Report, ReportError> {
    parse(bytes, path)
}

/// Reads an `explanation.json`.
pub(super) fn read_explanation(path: &Path) -> Result<Explanation, ReportError> {
    parse(&read(path, MAX_FILE_BYTES)?, path)
}

pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, ReportError> {
    files::read(path, max_bytes).map_err(ReportError::Read)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T, ReportError> {
    #[derive(Deserialize)]
    struct Probe {
        schema_version: String,
    }
    let not_a_report = |source| ReportError::NotAReport { path: path.to_owned(), source };
    let Probe { schema_version: found } = serde_json::from_slice(bytes).map_err(not_a_report)?;
    if found != SCHEMA_VERSION {
        return Err(ReportError::SchemaVersion { path: path.to_owned(), found, expected: SCHEMA_VERSION });
    }
    without_controls(bytes, not_a_report)
}

/// A certificate.
pub(super) fn parse_certificate<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    expected: &'static str,
) -> Result<T, ReportError> {
    #[derive(Deserialize)]
    struct Probe {
        certificate_version: String,
    }
    let not_one = |source| ReportError::NotACertificate { path: path.to_owned(), source };
    let Probe { certificate_version: found } = serde_json::from_slice(bytes).map_err(not_one)?;
    if found != expected {
        return Err(ReportError::CertificateVersion { path: path.to_owned(), found, expected });
    }
    without_controls(bytes, not_one)
}

fn without_controls<T: DeserializeOwned>(
    bytes: &[u8],
    not_one: impl Fn(serde_json::Error) -> ReportError + Copy,
) -> Result<T, ReportError> {
    let parsed = serde_json::from_slice(bytes).map_err(not_one)?;
    let mut value: Value = serde_json::from_slice(bytes).map_err(not_one)?;
    if replace_controls(&mut value) { serde_json::from_value(value).map_err(not_one) } else { Ok(parsed) }
}

/// Replaces control characters, since reports of others are shown on a terminal. Whether there was any.
fn replace_controls(value: &mut Value) -> bool {
    let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    match value {
        Value::String(text) if text.contains(is_control) => {
            *text = text.replace(is_control, "\u{fffd}");
            true
        }
        Value::Array(items) => items.iter_mut().fold(false, |any, item| any | replace_controls(item)),
        Value::Object(fields) => fields.values_mut().fold(false, |any, field| any | replace_controls(field)),
        _ => false,
    }
}

/// The JSON Schema of `report.json`, generated from the types: the text of `configs/report.schema.json`.
///
/// # Errors
/// [`ReportError::Json`] where the schema cannot be written as text.
pub fn schema() -> Result<String, ReportError> {
    let mut schema = serde_json::to_value(schemars::schema_for!(Report)).map_err(ReportError::Json)?;
    forbid_null(&mut schema);
    pretty(&schema)
}

/// Takes `null` out of the types: an absent value has no field, see [`check_finite`].
fn forbid_null(schema: &mut Value) {
    if let Value::Object(fields) = schema {
        if let Some(Value::Array(types)) = fields.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                fields.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = choices.as_mut_slice() {
                let mut only = std::mem::take(only);
                fields.remove("anyOf");
                fields.append(&mut only);
            }
        }
        fields.values_mut().for_each(forbid_null);
    } else if let Value::Array(items) = schema {
        items.iter_mut().for_each(forbid_null);
    }
}

/// Refuses NaN and infinities, which `serde_json` writes as `null`: absent values are left out instead, so that every
/// `null` is such a number. The architecture is JSON already and cannot contain one.
pub(super) fn check_finite(report: &Report) -> Result<(), ReportError> {
    let value = serde_json::to_value(report).map_err(ReportError::Json)?;
    match null_in(&value, "") {
        Some(pointer) => Err(ReportError::NotFinite { pointer }),
        None => Ok(()),
    }
}

fn null_in(value: &Value, pointer: &str) -> Option<String> {
    match value {
        Value::Null => Some(pointer.to_owned()),
        _ if pointer == "/checkpoint/architecture" => None,
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| null_in(item, &format!("{pointer}/{index}")))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| null_in(field, &format!("{pointer}/{name}"))),
        _ => None,
    }
}
