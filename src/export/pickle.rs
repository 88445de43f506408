//! A nested value as `torch.save` pickles it: protocol 2, the newest that `torch.load(weights_only=True)` reads, without
//! memo, and with the few classes that it allows.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::ExportError;
use crate::tensor::DType;

/// The contents of a `.pt` file.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A float64.
    Float(f64),
    /// Text.
    Str(String),
    List(Vec<Self>),
    Tuple(Vec<Self>),
    /// A `dict`.
    Dict(Vec<(String, Self)>),
    /// A `collections.OrderedDict`, as `state_dict()` makes.
    OrderedDict(Vec<(String, Self)>),
    /// A tensor; its elements are written apart.
    Tensor(StoredTensor),
}

/// A tensor that fills a storage. Tensors with the same storage share its elements, also after loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Number of the storage. A file's storages are numbered from 0 in the order in which they are written.
    pub storage: usize,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

/// Type and size of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage {
    pub dtype: DType,
    pub element_count: usize,
}

mod opcode {
    pub(super) const PROTO: u8 = 0x80;
    pub(super) const STOP: u8 = b'.';
    pub(super) const MARK: u8 = b'(';
    pub(super) const NONE: u8 = b'N';
    pub(super) const NEW_TRUE: u8 = 0x88;
    pub(super) const NEW_FALSE: u8 = 0x89;
    pub(super) const BIN_INT: u8 = b'J';
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const BIN_FLOAT: u8 = b'G';
    pub(super) const BIN_UNICODE: u8 = b'X';
    pub(super) const EMPTY_LIST: u8 = b']';
    pub(super) const APPENDS: u8 = b'e';
    pub(super) const EMPTY_TUPLE: u8 = b')';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const EMPTY_DICT: u8 = b'}';
    pub(super) const SET_ITEMS: u8 = b'u';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const BIN_PERSISTENT_ID: u8 = b'Q';
}

/// Pickles `root` and lists the storages that its tensors need. `path` is for messages.
pub(super) fn pickle(path: &Path, root: &Value) -> Result<(Vec<u8>, Vec<Storage>), ExportError> {
    let mut pickler = Pickler { path, bytes: vec![opcode::PROTO, 2], storages: BTreeMap::new() };
    pickler.value(root)?;
    pickler.bytes.push(opcode::STOP);
    let gap = pickler.storages.keys().enumerate().find(|&(position, &number)| position != number);
    if let Some((storage, _)) = gap {
        let reason = "no tensor uses it, but one uses a later storage";
        return Err(ExportError::Storage { path: path.to_owned(), storage, reason });
    }
    Ok((pickler.bytes, pickler.storages.into_values().collect()))
}

struct Pickler<'a> {
    path: &'a Path,
    bytes: Vec<u8>,
    storages: BTreeMap<usize, Storage>,
}

impl Pickler<'_> {
    fn value(&mut self, value: &Value) -> Result<(), ExportError> {
        match value {
            Value::None => self.bytes.push(opcode::NONE),
            Value::Bool(value) => self.bytes.push(if *value { opcode::NEW_TRUE } else { opcode::NEW_FALSE }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.bytes.push(opcode::BIN_FLOAT);
                self.bytes.extend(value.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::List(items) => {
                self.bytes.push(opcode::EMPTY_LIST);
                self.bytes.push(opcode::MARK);
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(opcode::APPENDS);
            }
            Value::Tuple(items) => {
                self.bytes.push(opcode::MARK);
                items.iter().try_for_each(|item| self.value(item))?;
                self.bytes.push(opcode::TUPLE);
            }
            Value::Dict(entries) => {
                self.bytes.push(opcode::EMPTY_DICT);
                self.entries(entries)?;
            }
            Value::OrderedDict(entries) => {
                self.empty_ordered_dict();
                self.entries(entries)?;
            }
            Value::Tensor(tensor) => self.tensor(tensor)?,
        }
        Ok(())
    }

    fn entries(&mut self, entries: &[(String, Value)]) -> Result<(), ExportError> {
        let mut seen = HashSet::with_capacity(entries.len());
        self.bytes.push(opcode::MARK);
        for (key, value) in entries {
            if !seen.insert(key) {
                return Err(ExportError::DuplicateKey { path: self.path.to_owned(), key: key.clone() });
            }
            self.text(key)?;
            self.value(value)?;
        }
        self.bytes.push(opcode::SET_ITEMS);
        Ok(())
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.bytes.extend([opcode::EMPTY_TUPLE, opcode::REDUCE]);
    }

    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)`.
    fn tensor(&mut self, tensor: &StoredTensor) -> Result<(), ExportError> {
        let storage = self.announce(tensor)?;
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.bytes.push(opcode::MARK);

        self.bytes.push(opcode::MARK);
        self.text("storage")?;
        self.global("torch", storage_class(storage.dtype));
        self.text(&tensor.storage.to_string())?;
        self.text("cpu")?;
        self.size(storage.element_count);
        self.bytes.extend([opcode::TUPLE, opcode::BIN_PERSISTENT_ID]);

        self.size(0);
        self.sizes(&tensor.shape);
        self.sizes(&strides(&tensor.shape));
        self.bytes.push(opcode::NEW_FALSE);
        self.empty_ordered_dict();
        self.bytes.extend([opcode::TUPLE, opcode::REDUCE]);
        Ok(())
    }

    /// Records the storage of a tensor, which must agree with other tensors of that storage.
    fn announce(&mut self, tensor: &StoredTensor) -> Result<Storage, ExportError> {
        let bytes = crate::tensor::byte_count(tensor.dtype, &tensor.shape)
            .map_err(|source| ExportError::Tensor { name: format!("storage {}", tensor.storage), source })?;
        let storage = Storage { dtype: tensor.dtype, element_count: bytes / tensor.dtype.size() };
        if *self.storages.entry(tensor.storage).or_insert(storage) != storage {
            return Err(ExportError::Storage {
                path: self.path.to_owned(),
                storage: tensor.storage,
                reason: "tensors that share it differ in element type or count",
            });
        }
        Ok(storage)
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.bytes.push(opcode::MARK);
        for &size in sizes {
            self.size(size);
        }
        self.bytes.push(opcode::TUPLE);
    }

    /// Sizes are below 2^63: `announce` has seen that the bytes can be addressed.
    fn size(&mut self, size: usize) {
        self.int(i64::try_from(size).unwrap_or(i64::MAX));
    }

    fn int(&mut self, value: i64) {
        if let Ok(small) = i32::try_from(value) {
            self.bytes.push(opcode::BIN_INT);
            self.bytes.extend(small.to_le_bytes());
        } else {
            self.bytes.extend([opcode::LONG1, 8]);
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<(), ExportError> {
        let length = u32::try_from(text.len())
            .map_err(|_| ExportError::StringTooLong { path: self.path.to_owned(), bytes: text.len() })?;
        self.bytes.push(opcode::BIN_UNICODE);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) {
        self.bytes.push(opcode::GLOBAL);
        for part in [module, name] {
            self.bytes.extend(part.as_bytes());
            self.bytes.push(b'\n');
        }
    }
}

/// Row-major strides, in elements; torch counts an extent of 0 as 1.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim].max(1);
    }
    strides
}

fn storage_class(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "HalfStorage",
        DType::BF16 => "BFloat16Storage",
        DType::F32 => "FloatStorage",
        DType::F64 => "DoubleStorage",
        DType::U8 => "ByteStorage",
        DType::I8 => "CharStorage",
        DType::I16 => "ShortStorage",
        DType::I32 => "IntStorage",
        DType::I64 => "LongStorage",
    }
}
