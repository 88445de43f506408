//! Following a pickle far enough to know where its tensors are. Nothing is built and nothing is executed; objects of unknown
//! classes are opaque. Nothing is nested in memory, however deeply a hostile pickle nests.

use std::collections::HashMap;
use std::rc::Rc;

use super::place::{Place, place};
use crate::tensor::DType;

#[derive(Clone)]
pub(super) enum Value {
    Other,
    Int(u64),
    Text(Rc<str>),
    Sizes(Rc<[u64]>),
    Class(Class),
    /// The persistent id of a storage of floating point: its type and name.
    Id(DType, Rc<str>),
    Storage(DType, Rc<str>),
    Arguments(Option<Rc<Place>>),
    Tensor(Option<Rc<Place>>),
    Dict(usize),
}

#[derive(Clone, Copy)]
pub(super) enum Class {
    OrderedDict,
    RebuildTensor,
    Storage(DType),
    Unknown,
}

/// A pickle machine that creates only such values.
pub(super) struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    pub(super) dicts: Vec<HashMap<Rc<str>, Value>>,
}

impl<'a> Machine<'a> {
    /// Runs a pickle and returns its value, or what its dictionary has under `key`.
    pub(super) fn run_to(pickle: &'a [u8], key: Option<&str>) -> Option<(Self, Value)> {
        let mut machine =
            Machine { rest: pickle, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), dicts: Vec::new() };
        let mut root = machine.run()?;
        if let Some(key) = key {
            let Value::Dict(dict) = root else { return None };
            root = machine.dicts.get(dict)?.get(key)?.clone();
        }
        Some((machine, root))
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
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.stack.push(Value::Other),
            // BINFLOAT
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Other);
            }
            // BININT, BININT1, BININT2, LONG1, LONG4
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.stack.push(u64::try_from(number).map_or(Value::Other, Value::Int));
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
            // APPEND; BUILD, whose state concerns no entry; POP
            b'a' | b'b' => drop(self.pop()?),
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            // APPENDS, ADDITEMS, POP_MARK
            b'e' | 0x90 | b'1' => self.drop_above_mark()?,
            // LIST, FROZENSET
            b'l' | 0x91 => {
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
                let arguments = if opcode == 0x81 { 1 } else { 2 };
                self.stack.truncate(self.stack.len().checked_sub(arguments)?);
                *self.stack.last_mut()? = Value::Other;
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
        self.stack.push(Value::Int(number));
        Some(())
    }

    fn long(&mut self, width: usize) -> Option<()> {
        let bytes = self.counted(width)?;
        let fits = bytes.len() <= 8 && bytes.last().is_none_or(|&last| last < 0x80);
        self.stack.push(if fits { Value::Int(little_endian(bytes)) } else { Value::Other });
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
        let value = match &items[..] {
            [Value::Text(tag), Value::Class(Class::Storage(dtype)), Value::Text(name), _, _] if **tag == *"storage" => {
                Value::Id(*dtype, name.clone())
            }
            [Value::Storage(dtype, name), Value::Int(first), Value::Sizes(sizes), Value::Sizes(strides), ..] => {
                Value::Arguments(place(*dtype, name, *first, sizes, strides).map(Rc::new))
            }
            _ => {
                let sizes = items.iter().map(|item| if let Value::Int(size) = item { Some(*size) } else { None });
                sizes.collect::<Option<_>>().map_or(Value::Other, Value::Sizes)
            }
        };
        self.stack.push(value);
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
        let dict = self.dicts.get_mut(dict)?;
        for pair in items.chunks(2) {
            // Tensors have names; what has another key is none that is asked for.
            if let [Value::Text(key), value] = pair {
                dict.insert(key.clone(), value.clone());
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
            _ => self.stack.push(Value::Other),
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

fn class(module: &[u8], name: &[u8]) -> Class {
    match (module, name) {
        (b"collections", b"OrderedDict") => Class::OrderedDict,
        (b"torch._utils", b"_rebuild_tensor_v2") => Class::RebuildTensor,
        (b"torch", b"DoubleStorage") => Class::Storage(DType::F64),
        (b"torch", b"FloatStorage") => Class::Storage(DType::F32),
        (b"torch", b"HalfStorage") => Class::Storage(DType::F16),
        (b"torch", b"BFloat16Storage") => Class::Storage(DType::BF16),
        (b"torch", b"LongStorage") => Class::Storage(DType::I64),
        (b"torch", b"IntStorage") => Class::Storage(DType::I32),
        (b"torch", b"ShortStorage") => Class::Storage(DType::I16),
        (b"torch", b"CharStorage") => Class::Storage(DType::I8),
        (b"torch", b"ByteStorage" | b"BoolStorage") => Class::Storage(DType::U8),
        _ => Class::Unknown,
    }
}
