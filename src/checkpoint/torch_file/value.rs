//! The inert values that following a pickle gives.

use std::rc::Rc;

use super::place::Place;
use crate::tensor::DType;

/// Containers and objects are numbers of entries in the machine's lists, so that no value nests another in memory.
#[derive(Clone)]
pub(super) enum Value {
    /// Something that is not followed.
    Other,
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// A tuple of whole numbers that are not negative.
    Sizes(Rc<[u64]>),
    /// A list, or any other tuple.
    List(usize),
    Dict(usize),
    Class(Class),
    Object(usize),
    /// The persistent id of a storage: its type and name.
    Id(DType, Rc<str>),
    Storage(DType, Rc<str>),
    Arguments(Option<Rc<Place>>),
    /// Without a place where its type is unknown.
    Tensor(Option<Rc<Place>>),
}

#[derive(Clone)]
pub(super) enum Class {
    OrderedDict,
    RebuildTensor,
    Storage(DType),
    /// Any other, by its whole name. It is never called.
    Other(Rc<str>),
}

/// What a pickle would build from a class that is not known.
pub(super) struct Object {
    pub class: Rc<str>,
    /// What the class would be called with.
    pub arguments: Value,
    /// Its attributes, if it has some: the number of a dictionary.
    pub attributes: Option<usize>,
}

pub(super) fn class(module: &[u8], name: &[u8]) -> Class {
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
        _ => {
            let (module, name) = (String::from_utf8_lossy(module), String::from_utf8_lossy(name));
            Class::Other(format!("{module}.{name}").into())
        }
    }
}
