//! What a pickle holds beside tensors, as plain values.

use serde_json::{Map, Number, Value as Plain};

use super::pickle::Machine;
use super::value::{Class, Object, Value};

/// Values may be shared, so that a small pickle holds any number of them. Each counts one, and one more for 16 bytes of text.
const MAX_VALUES: usize = 1 << 20;
const MAX_DEPTH: usize = 8;

/// A value as JSON, `None` for one that is too large. Objects are their attributes, or text such as `torch.float32` or
/// `signal.Signals(15)`; numbers that JSON does not have, text likewise. What lies too deep is null.
pub(super) fn plain(machine: &Machine<'_>, value: &Value) -> Option<Plain> {
    let mut conversion = Conversion { machine, left: MAX_VALUES, is_too_large: false };
    let plain = conversion.plain(value, MAX_DEPTH);
    (!conversion.is_too_large).then_some(plain)
}

struct Conversion<'a, 'b> {
    machine: &'a Machine<'b>,
    left: usize,
    is_too_large: bool,
}

impl Conversion<'_, '_> {
    fn plain(&mut self, value: &Value, depth: usize) -> Plain {
        let text = match value {
            Value::Text(text) => text.len(),
            Value::Sizes(sizes) => 16 * sizes.len(),
            _ => 0,
        };
        let Some(depth) = depth.checked_sub(1).filter(|_| self.take(text)) else { return Plain::Null };
        let machine = self.machine;
        match value {
            Value::Bool(truth) => Plain::Bool(*truth),
            Value::Int(number) => (*number).into(),
            Value::Float(number) => {
                Number::from_f64(*number).map_or_else(|| Plain::String(number.to_string()), Plain::Number)
            }
            Value::Text(text) => Plain::String(text.to_string()),
            Value::Sizes(sizes) => sizes.iter().copied().collect(),
            Value::List(list) => {
                let items = machine.lists.get(*list).into_iter().flatten();
                items.take(self.left + 1).map(|item| self.plain(item, depth)).collect()
            }
            Value::Dict(dict) => Plain::Object(self.entries(*dict, depth)),
            Value::Class(Class::Other(name)) if self.take(name.len()) => Plain::String(name.to_string()),
            Value::Object(object) => match machine.objects.get(*object) {
                Some(object) => match object.attributes() {
                    Some(attributes) => Plain::Object(self.entries(attributes, depth)),
                    None => self.call(object),
                },
                None => Plain::Null,
            },
            _ => Plain::Null,
        }
    }

    /// Whether there is room for a value with so many bytes of text, which is then taken.
    fn take(&mut self, text: usize) -> bool {
        let cost = 1 + text / 16;
        let left = self.left.checked_sub(cost);
        self.left = left.unwrap_or(0);
        self.is_too_large |= left.is_none();
        left.is_some()
    }

    fn entries(&mut self, dict: usize, depth: usize) -> Map<String, Plain> {
        let machine = self.machine;
        let entries = machine.dicts.get(dict).into_iter().flatten();
        let mut entries: Vec<_> = entries.take(self.left + 1).collect();
        entries.sort_by_key(|(key, _)| *key);
        let mut plain = Map::new();
        for (key, value) in entries {
            if self.take(key.len()) {
                plain.insert(key.to_string(), self.plain(value, depth));
            }
        }
        plain
    }

    /// An object as the call that makes it, with as much of its arguments as enumerations have.
    fn call(&mut self, object: &Object) -> Plain {
        let argument = match &object.arguments {
            Value::Sizes(numbers) => numbers.first().map(u64::to_string),
            Value::List(list) => match self.machine.lists.get(*list).and_then(|items| items.first()) {
                Some(Value::Text(text)) if self.take(text.len()) => Some(format!("{text:?}")),
                Some(Value::Int(number)) => Some(number.to_string()),
                _ => None,
            },
            _ => None,
        };
        if !self.take(object.class.len()) {
            return Plain::Null;
        }
        Plain::String(format!("{}({})", object.class, argument.unwrap_or_default()))
    }
}
