//! What a pickle holds beside tensors, as plain values.

use serde_json::{Map, Number, Value as Plain};

use super::pickle::Machine;
use super::value::{Class, Value};

/// Values may be shared, so that a small pickle holds any number of them.
const MAX_VALUES: usize = 100_000;
const MAX_DEPTH: usize = 8;

/// A value as JSON. Objects are their attributes, or text such as `torch.float32` or `signal.Signals(15)`; numbers that JSON
/// does not have, text likewise. What lies too deep, or behind too many others, is null.
pub(super) fn plain(machine: &Machine<'_>, value: &Value) -> Plain {
    Plainer { machine, left: MAX_VALUES }.plain(value, MAX_DEPTH)
}

struct Plainer<'a, 'b> {
    machine: &'a Machine<'b>,
    left: usize,
}

impl Plainer<'_, '_> {
    fn plain(&mut self, value: &Value, depth: usize) -> Plain {
        let Some(depth) = depth.checked_sub(1).filter(|_| self.left > 0) else { return Plain::Null };
        self.left -= 1;
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
                items.take(self.left).map(|item| self.plain(item, depth)).collect()
            }
            Value::Dict(dict) => Plain::Object(self.entries(*dict, depth)),
            Value::Class(Class::Other(name)) => Plain::String(name.to_string()),
            Value::Object(object) => match machine.objects.get(*object) {
                None => Plain::Null,
                Some(object) => match object.attributes {
                    Some(attributes) => Plain::Object(self.entries(attributes, depth)),
                    None => Plain::String(self.call(&object.class, &object.arguments)),
                },
            },
            _ => Plain::Null,
        }
    }

    fn entries(&mut self, dict: usize, depth: usize) -> Map<String, Plain> {
        let machine = self.machine;
        let entries = machine.dicts.get(dict).into_iter().flatten();
        let mut entries: Vec<_> = entries.take(self.left).collect();
        entries.sort_by_key(|(key, _)| *key);
        entries.into_iter().map(|(key, value)| (key.to_string(), self.plain(value, depth))).collect()
    }

    /// An object as the call that makes it, with as much of its arguments as enumerations have.
    fn call(&self, class: &str, arguments: &Value) -> String {
        let first = match arguments {
            Value::Sizes(numbers) => numbers.first().map(u64::to_string),
            Value::List(list) => match self.machine.lists.get(*list).and_then(|items| items.first()) {
                Some(Value::Text(text)) => Some(format!("{text:?}")),
                Some(Value::Int(number)) => Some(number.to_string()),
                _ => None,
            },
            _ => None,
        };
        format!("{class}({})", first.unwrap_or_default())
    }
}
