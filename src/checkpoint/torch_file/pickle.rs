//! Following a pickle far enough to know where its tensors are and what plain values it holds. Nothing is built and nothing
//! is executed; objects of unknown classes are records of what would have been. Nothing is nested in memory, however deeply a
//! hostile pickle nests.

use std::collections::HashMap;
use std::rc::Rc;

use super::place::place;
use super::value::{Class, Object, Value, class};
use crate::tensor::DType;

/// A pickle machine that creates only such values.
pub(super) struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    pub(super) dicts: Vec<HashMap<Rc<str>, Value>>,
    pub(super) lists: Vec<Vec<Value>>,
    pub(super) objects: Vec<Object>,
    /// Entries of dictionaries whose keys are objects, by the number of the dictionary: the object's number and the value.
    pub(super) keyed_by_objects: HashMap<usize, Vec<(usize, Value)>>,
    /// Type and number of elements of every storage that is referred to.
    pub(super) storages: HashMap<Rc<str>, (DType, u64)>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle and returns its value, or what its dictionary has under `key`.
    pub(super) fn run_to(pickle: &'a [u8], key: Option<&str>) -> Option<(Self, Value)> {
        let (machine, mut root) = Self::run_one(pickle)?;
        if let Some(key) = key {
            let Value::Dict(dict) = root else { return None };
            root = machine.dicts.get(dict)?.get(key)?.clone();
        }
        Some((machine, root))
    }

    /// Runs the pickle that the bytes begin with.
    pub(super) fn run_one(bytes: &'a [u8]) -> Option<(Self, Value)> {
        let mut machine = Machine {
            rest: bytes,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            dicts: Vec::new(),
            lists: Vec::new(),
            objects: Vec::new(),
            keyed_by_objects: HashMap::new(),
            storages: HashMap::new(),
        };
        let value = machine.run()?;
        Some((machine, value))
    }

    /// What follows the pickle.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Runs to the end and returns what the pickle holds.
    fn run(&mut self) -> Option<Value> {
        loop {
            let [opcode] = self.array()?;
            if opcode == b'.' {
                return self.stack.pop();
            }
            if !self.push_literal(opcode)? {
                self.apply(opcode)?;
            }
        }
    }

    /// Pushes a constant, if that is what the opcode does.
    fn push_literal(&mut self, opcode: u8) -> Option<bool> {
        match opcode {
            // NONE, NEWTRUE, NEWFALSE, EMPTY_LIST, EMPTY_SET
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
            b']' => self.new_list(Vec::new()),
            0x8f => self.stack.push(Value::Other),
            // BINFLOAT
            b'G' => {
                let number = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(number));
            }
            // BININT, BININT1, BININT2, LONG1, LONG4
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(i64::from(number)));
            }
            b'K' => self.whole(1)?,
            b'M' => self.whole(2)?,
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            // BINUNICODE8, BINBYTES8, BYTEARRAY8; BINSTRING, BINBYTES; SHORT_BINSTRING, SHORT_BINBYTES
            0x8d | 0x8e | 0x96 => self.opaque(8)?,
            b'T' | b'B' => self.opaque(4)?,
            b'U' | b'C' => self.opaque(1)?,
            _ => return Some(false),
        }
        Some(true)
    }

    fn apply(&mut self, opcode: u8) -> Option<()> {
        match opcode {
            b'(' => self.marks.push(self.stack.len()),
            // PROTO and FRAME
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.tuple(0)?,
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            b't' => {
                let count = self.above_mark()?;
                self.tuple(count)?;
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.new_dict(),
            b's' => self.set_items(2)?,
            b'u' => {
                let count = self.above_mark()?;
                self.set_items(count)?;
            }
            // APPEND, APPENDS, BUILD, POP
            b'a' => self.append(1)?,
            b'e' => {
                let count = self.above_mark()?;
                self.append(count)?;
            }
            b'b' => self.build()?,
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            // ADDITEMS, POP_MARK
            0x90 | b'1' => self.drop_above_mark()?,
            // LIST, FROZENSET
            b'l' => {
                let count = self.above_mark()?;
                let items = self.stack.split_off(self.stack.len() - count);
                self.new_list(items);
            }
            0x91 => {
                self.drop_above_mark()?;
                self.stack.push(Value::Other);
            }
            // DUP
            b'2' => {
                let top = self.stack.last()?.clone();
                self.stack.push(top);
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Class(class(module, name)));
            }
            0x93 => {
                let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else { return None };
                self.stack.push(Value::Class(class(module.as_bytes(), name.as_bytes())));
            }
            b'R' => self.reduce()?,
            // NEWOBJ, NEWOBJ_EX
            0x81 | 0x92 => {
                let count = if opcode == 0x81 { 1 } else { 2 };
                self.stack.truncate(self.stack.len().checked_sub(count)?);
                let class = self.pop()?;
                self.new_object(class, Value::None);
            }
            // BINPERSID
            b'Q' => {
                let storage = match self.pop()? {
                    Value::Id(dtype, name) => Value::Storage(dtype, name),
                    _ => Value::Other,
                };
                self.stack.push(storage);
            }
            // BINPUT, LONG_BINPUT, MEMOIZE; BINGET, LONG_BINGET
            b'q' => self.remember_by(1)?,
            b'r' => self.remember_by(4)?,
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            _ => return None,
        }
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\n')?;
        let line = self.take(end)?;
        self.take(1)?;
        Some(line)
    }

    fn pop(&mut self) -> Option<Value> {
        self.stack.pop()
    }

    /// A whole number of so many bytes.
    fn number(&mut self, width: usize) -> Option<u64> {
        Some(little_endian(self.take(width)?))
    }

    /// Bytes behind their count, a number of `width` bytes.
    fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let count = self.number(width)?;
        self.take(usize::try_from(count).ok()?)
    }

    /// A value that does not matter.
    fn opaque(&mut self, width: usize) -> Option<()> {
        self.counted(width)?;
        self.stack.push(Value::Other);
        Some(())
    }

    fn whole(&mut self, width: usize) -> Option<()> {
        let number = self.number(width)?;
        self.stack.push(i64::try_from(number).map_or(Value::Other, Value::Int));
        Some(())
    }

    /// A number in two's complement.
    fn long(&mut self, width: usize) -> Option<()> {
        let bytes = self.counted(width)?;
        let mut number = [if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 }; 8];
        let fits = bytes.len() <= number.len();
        self.stack.push(if fits {
            number[..bytes.len()].copy_from_slice(bytes);
            Value::Int(i64::from_le_bytes(number))
        } else {
            Value::Other
        });
        Some(())
    }

    fn text(&mut self, width: usize) -> Option<()> {
        let text = std::str::from_utf8(self.counted(width)?).ok()?;
        self.stack.push(Value::Text(text.into()));
        Some(())
    }

    /// How many values lie above the last mark, which goes.
    fn above_mark(&mut self) -> Option<usize> {
        self.stack.len().checked_sub(self.marks.pop()?)
    }

    fn drop_above_mark(&mut self) -> Option<()> {
        let count = self.above_mark()?;
        self.stack.truncate(self.stack.len() - count);
        Some(())
    }

    fn tuple(&mut self, count: usize) -> Option<()> {
        let items = self.stack.split_off(self.stack.len().checked_sub(count)?);
        let size = |item: &Value| if let Value::Int(size) = item { u64::try_from(*size).ok() } else { None };
        let value = match &items[..] {
            // Before torch 1.6 with a sixth item, for views, which is None.
            [Value::Text(tag), Value::Class(Class::Storage(dtype)), Value::Text(name), _, numel, rest @ ..]
                if **tag == *"storage" && matches!(rest, [] | [Value::None]) =>
            {
                self.storages.insert(name.clone(), (*dtype, size(numel).unwrap_or(0)));
                Value::Id(*dtype, name.clone())
            }
            [Value::Storage(dtype, name), Value::Int(first), Value::Sizes(sizes), Value::Sizes(strides), ..] => {
                let first = u64::try_from(*first).ok();
                Value::Arguments(first.and_then(|first| place(*dtype, name, first, sizes, strides)).map(Rc::new))
            }
            _ => {
                let Some(sizes) = items.iter().map(size).collect::<Option<_>>() else {
                    self.new_list(items);
                    return Some(());
                };
                Value::Sizes(sizes)
            }
        };
        self.stack.push(value);
        Some(())
    }

    fn new_list(&mut self, items: Vec<Value>) {
        self.stack.push(Value::List(self.lists.len()));
        self.lists.push(items);
    }

    /// Puts items into the list below them; into anything else, nothing.
    fn append(&mut self, count: usize) -> Option<()> {
        let items = self.stack.split_off(self.stack.len().checked_sub(count)?);
        if let Value::List(list) = *self.stack.last()? {
            self.lists.get_mut(list)?.extend(items);
        }
        Some(())
    }

    fn new_object(&mut self, class: Value, arguments: Value) {
        self.stack.push(match class {
            Value::Class(Class::Other(class)) => {
                self.objects.push(Object { class, arguments, state: Value::None });
                Value::Object(self.objects.len() - 1)
            }
            _ => Value::Other,
        });
    }

    /// Gives an object its state. The state of anything else concerns no entry.
    fn build(&mut self) -> Option<()> {
        let state = self.pop()?;
        if let Value::Object(object) = self.stack.last()? {
            self.objects.get_mut(*object)?.state = state;
        }
        Some(())
    }

    fn new_dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(HashMap::new());
    }

    /// Puts pairs of keys and values into what lies below them.
    fn set_items(&mut self, count: usize) -> Option<()> {
        let items = self.stack.split_off(self.stack.len().checked_sub(count)?);
        let Value::Dict(dict) = *self.stack.last()? else { return Some(()) };
        let named = self.dicts.get_mut(dict)?;
        for pair in items.chunks(2) {
            // Tensors have names, or records for keys; what has another key is none that is asked for.
            match pair {
                [Value::Text(key), value] => drop(named.insert(key.clone(), value.clone())),
                [Value::Object(key), value] => {
                    self.keyed_by_objects.entry(dict).or_default().push((*key, value.clone()));
                }
                _ => {}
            }
        }
        Some(())
    }

    fn reduce(&mut self) -> Option<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        match (callable, arguments) {
            (Value::Class(Class::OrderedDict), Value::Sizes(none)) if none.is_empty() => self.new_dict(),
            (Value::Class(Class::RebuildTensor), Value::Arguments(place)) => self.stack.push(Value::Tensor(place)),
            (Value::Class(Class::RebuildTensor), _) => self.stack.push(Value::Tensor(None)),
            (callable, arguments) => self.new_object(callable, arguments),
        }
        Some(())
    }

    fn remember_by(&mut self, width: usize) -> Option<()> {
        let number = self.number(width)?;
        self.remember(number)
    }

    fn remember(&mut self, number: u64) -> Option<()> {
        self.memo.insert(number, self.stack.last()?.clone());
        Some(())
    }

    fn recall(&mut self, width: usize) -> Option<()> {
        let number = self.number(width)?;
        self.stack.push(self.memo.get(&number)?.clone());
        Some(())
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
