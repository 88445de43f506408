//! Where the tensors of a `torch.save` archive are. pytorch-reader returns a tensor's bytes but not their place in the
//! file, which reading piece by piece needs. This parser follows the pickle far enough for the dictionaries of tensors that
//! torch writes and gives up at anything else; such tensors are read by pytorch-reader. Its results are checked against
//! pytorch-reader's before they are used.

use std::collections::HashMap;

use pytorch_reader::PickleValue;

use super::pickle::Machine;
use super::place::Place;
use super::value::Value;

/// An entry of a dictionary: a tensor, with its place unless its type is unknown.
pub(super) type Found = HashMap<String, Option<Place>>;

/// The tensors that are one run each, of the dictionary of tensors that a pickle holds, or that it holds under `key`. `None`
/// for any other pickle.
pub(super) fn places(pickle: &[u8], key: Option<&str>) -> Option<HashMap<String, Place>> {
    let (machine, root) = Machine::run_to(pickle, key)?;
    let Value::Dict(dict) = root else { return None };
    let mut places = HashMap::new();
    for (name, value) in machine.dicts.get(dict)? {
        match value {
            Value::Tensor(Some(place)) if place.dtype.is_float() && place.is_run() => {
                places.insert(name.to_string(), (**place).clone());
            }
            Value::Tensor(_) => {}
            _ => return None,
        }
    }
    Some(places)
}

/// The tensors of the dictionary that a pickle holds, or that it holds under `key`, whatever else is in it. For pickles with
/// objects that pytorch-reader does not accept: they are never built and stay opaque.
pub(super) fn tensors(pickle: &[u8], key: Option<&str>) -> Option<Found> {
    let (machine, root) = Machine::run_to(pickle, key)?;
    let Value::Dict(dict) = root else { return None };
    let found = machine.dicts.get(dict)?.iter().filter_map(|(name, value)| match value {
        Value::Tensor(place) => Some((name.to_string(), place.as_deref().cloned())),
        _ => None,
    });
    Some(found.collect())
}

/// Whether a pickle can be followed to its end.
pub(super) fn is_read(pickle: &[u8]) -> bool {
    Machine::run_to(pickle, None).is_some()
}

/// The value that a pickle holds under `key`: a whole number, text, or a dictionary of those.
pub(super) fn plain_value(pickle: &[u8], key: &str) -> Option<PickleValue> {
    let (machine, root) = Machine::run_to(pickle, Some(key))?;
    let plain = |value: &Value| match value {
        Value::Int(number) => Some(PickleValue::Int(*number)),
        Value::Text(text) => Some(PickleValue::String(text.to_string())),
        _ => None,
    };
    match root {
        Value::Dict(dict) => {
            let entries = machine.dicts.get(dict)?.iter();
            let entries = entries.filter_map(|(name, value)| Some((name.to_string(), plain(value)?)));
            Some(PickleValue::Dict(entries.collect()))
        }
        value => plain(&value),
    }
}
