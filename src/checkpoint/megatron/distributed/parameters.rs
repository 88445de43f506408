//! The parameters of every stage from the tensors of a distributed checkpoint: each is there once, in its shape, in parts that
//! tile it, and every tensor is a parameter.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::names::{self, Place};
use super::super::rows::RowOrders;
use super::super::stages::{inner_name, parameter, setting_of};
use super::error::DistributedError;
use super::files::ItemFiles;
use super::keys::{self, Half, Key};
use super::tiles::{self, Fault};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::inventory::ParamEntry;
use crate::checkpoint::megatron::error::MegatronError;
use crate::checkpoint::torch_file::{Part, SavedTensor};
use crate::config::{Architecture, Head};
use crate::partition::{PartitionTable, Role, Row, StageId, StageKind};
use crate::tensor::DType;

/// A tensor of the model, whose type is one that parameters have.
#[derive(Debug)]
pub(super) struct Tensor {
    pub name: String,
    pub dtype: DType,
    /// With the layers as its first dimension, where it holds all of them.
    pub shape: Vec<usize>,
    pub parts: Vec<Part>,
}

/// A parameter of a stage.
#[derive(Debug)]
pub(super) struct Entry {
    pub param: ParamEntry,
    /// The tensors that it is made of, one behind another.
    pub sources: Vec<Source>,
}

/// A tensor, or a layer of one that holds all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// The number of the tensor.
    pub tensor: usize,
    pub layer: Option<usize>,
}

pub(super) type Stages = BTreeMap<StageId, BTreeMap<Role, Entry>>;

impl Tensor {
    /// Its parts that hold something of a layer; all parts of a tensor of one place.
    pub(super) fn parts_of(&self, layer: Option<usize>) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| {
            let range = || Some((*part.offsets.first()?, *part.sizes.first()?));
            layer.is_none_or(|layer| range().is_some_and(|(start, size)| layer >= start && layer - start < size))
        })
    }

    /// The shape of what is one place's.
    pub(super) fn inner_shape(&self, layer: Option<usize>) -> &[usize] {
        &self.shape[usize::from(layer.is_some()).min(self.shape.len())..]
    }
}

/// The tensors of the model by what they are.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub tensors: Vec<Tensor>,
    one: BTreeMap<(Place, Role), BTreeMap<Half, usize>>,
    stacked: BTreeMap<Role, BTreeMap<Half, usize>>,
}

impl Sorted {
    /// Sorts the tensors by their names. Messages name the file that they are from.
    pub(super) fn new(path: &Path, tensors: BTreeMap<String, SavedTensor>) -> Result<Self, CheckpointError> {
        let mut sorted = Self::default();
        for (name, SavedTensor { dtype, shape, parts }) in tensors {
            if let Some(source) = names::refused(&name) {
                return Err(MegatronError::Unsupported { path: path.to_owned(), source }.into());
            }
            let number = sorted.tensors.len();
            let (places, half) = match keys::meaning(&name) {
                Key::One(place, role, half) => (sorted.one.entry((place, role)).or_default(), half),
                Key::Stacked(role, half) => (sorted.stacked.entry(role).or_default(), half),
                Key::Ignored => continue,
                Key::Unknown => return Err(DistributedError::UnknownName { path: path.to_owned(), name }.into()),
            };
            if let Some(&other) = places.get(&half) {
                let other = sorted.tensors[other].name.clone();
                return Err(DistributedError::SameParameter { path: path.to_owned(), name, other }.into());
            }
            let dtype = dtype.map_err(|found| {
                let (path, name, expected) = (path.to_owned(), name.clone(), "floating point".to_owned());
                DistributedError::ElementType { path, name, expected, found }
            })?;
            places.insert(half, number);
            sorted.tensors.push(Tensor { name, dtype, shape, parts });
        }
        Ok(sorted)
    }

    /// A tensor of one place.
    pub(super) fn one(&self, place: Place, role: Role) -> Option<&Tensor> {
        self.tensors.get(*self.one.get(&(place, role))?.get(&Half::Whole)?)
    }

    /// A parameter of the layers, without the dimension of the layers.
    pub(super) fn shape_in_layers(&self, role: Role) -> Option<&[usize]> {
        let tensor = |halves: &BTreeMap<Half, usize>| self.tensors.get(*halves.get(&Half::Whole)?);
        match self.stacked.get(&role).and_then(tensor) {
            Some(tensor) => tensor.shape.get(1..),
            None => Some(&self.one(Place::Layer(0), role)?.shape),
        }
    }

    /// Accounts for every tensor.
    pub(super) fn account(
        &self,
        path: &Path,
        architecture: &Architecture,
        orders: RowOrders,
    ) -> Result<Stages, CheckpointError> {
        let account = Account { path, architecture, orders, sorted: self };
        account.check_complete()?;
        let mut stages = Stages::new();
        for (&(place, role), halves) in &self.one {
            let id = match place {
                Place::Embedding => StageId::Embedding,
                Place::Layer(number) => StageId::Layer(number),
                Place::Output | Place::Head => StageId::Output,
            };
            let entry = account.entry(role, halves, None)?;
            stages.entry(id).or_default().insert(role, entry);
        }
        for (&role, halves) in &self.stacked {
            account.check_layers(halves)?;
            for layer in 0..architecture.layer_count {
                let entry = account.entry(role, halves, Some(layer))?;
                let stage = stages.entry(StageId::Layer(layer)).or_default();
                if let Some(other) = stage.insert(role, entry) {
                    return Err(account.same(halves, &other));
                }
            }
        }
        Ok(stages)
    }

    /// Checks that the parts of every tensor tile it, and that the files have them.
    pub(super) fn check_parts(&self, path: &Path, files: &ItemFiles) -> Result<(), DistributedError> {
        for Tensor { name, dtype, shape, parts } in &self.tensors {
            let (path, name) = (|| path.to_owned(), || name.clone());
            tiles::check(shape, parts).map_err(|fault| match fault {
                Fault::Missing(part) => {
                    DistributedError::MissingPart { path: path(), name: name(), part: tiles::shown(&part) }
                }
                Fault::Overlap(part) => {
                    DistributedError::Overlap { path: path(), name: name(), part: tiles::shown(&part) }
                }
                Fault::Outside(part) => {
                    let (part, shape) = (tiles::shown(&part), shape.clone());
                    DistributedError::Outside { path: path(), name: name(), part, shape }
                }
                Fault::Tangled => DistributedError::Tangled { path: path(), name: name(), parts: parts.len() },
            })?;
            parts.iter().try_for_each(|part| files.check(&path(), &name(), *dtype, part))?;
            // Parts may share an item, so that small files hold any number of elements.
            let mut extents = shape.iter();
            let own = extents.try_fold(dtype.size() as u64, |bytes, &extent| bytes.checked_mul(extent as u64));
            if own.is_none_or(|own| own > files.bytes()) {
                let (shape, bytes) = (shape.clone(), files.bytes());
                return Err(DistributedError::Larger { path: path(), name: name(), shape, bytes });
            }
        }
        Ok(())
    }
}

struct Account<'a> {
    path: &'a Path,
    architecture: &'a Architecture,
    orders: RowOrders,
    sorted: &'a Sorted,
}

impl Account<'_> {
    fn tensor(&self, number: usize) -> &Tensor {
        &self.sorted.tensors[number]
    }

    /// The name of the first of a parameter's tensors.
    fn name(&self, halves: &BTreeMap<Half, usize>) -> String {
        halves.values().next().map(|&number| self.tensor(number).name.clone()).unwrap_or_default()
    }

    fn same(&self, halves: &BTreeMap<Half, usize>, other: &Entry) -> CheckpointError {
        let other = other.sources.first().map(|source| self.tensor(source.tensor).name.clone()).unwrap_or_default();
        DistributedError::SameParameter { path: self.path.to_owned(), name: self.name(halves), other }.into()
    }

    /// A tensor of all layers has as many as the arguments say.
    fn check_layers(&self, halves: &BTreeMap<Half, usize>) -> Result<(), DistributedError> {
        let expected = self.architecture.layer_count;
        for tensor in halves.values().map(|&number| self.tensor(number)) {
            if tensor.shape.first() != Some(&expected) {
                let expected = std::iter::once(expected).chain(tensor.shape.iter().skip(1).copied()).collect();
                return Err(self.shape(tensor, expected));
            }
        }
        Ok(())
    }

    fn shape(&self, tensor: &Tensor, expected: Vec<usize>) -> DistributedError {
        let (path, name, found) = (self.path.to_owned(), tensor.name.clone(), tensor.shape.clone());
        DistributedError::Shape { path, name, expected, found }
    }

    fn entry(
        &self,
        role: Role,
        halves: &BTreeMap<Half, usize>,
        layer: Option<usize>,
    ) -> Result<Entry, DistributedError> {
        let path = || self.path.to_owned();
        let row = PartitionTable::new(self.architecture).row(role).ok_or_else(|| {
            let (name, setting) = (self.name(halves), setting_of(role));
            DistributedError::NotInModel { path: path(), name, setting }
        })?;
        let numbers = self.numbers(role, halves)?;
        let shape = (row.shape)(self.architecture);
        let first = self.tensor(numbers[0]);
        for tensor in numbers.iter().map(|&number| self.tensor(number)) {
            let mut expected = shape.clone();
            if let Some(rows) = expected.first_mut().filter(|_| numbers.len() > 1) {
                *rows /= numbers.len();
            }
            if tensor.inner_shape(layer) != expected {
                let layers = layer.map(|_| self.architecture.layer_count).into_iter();
                return Err(self.shape(tensor, layers.chain(expected).collect()));
            }
            if tensor.dtype != first.dtype {
                let (name, expected, found) = (tensor.name.clone(), first.dtype.to_string(), tensor.dtype.to_string());
                return Err(DistributedError::ElementType { path: path(), name, expected, found });
            }
        }
        let dtype = self.orders.dtype(row.kind, first.dtype);
        Ok(Entry {
            param: ParamEntry { name: self.inner_name(halves), row, dtype, rank_shape: shape, used: true },
            sources: numbers.into_iter().map(|tensor| Source { tensor, layer }).collect(),
        })
    }

    /// The tensors of a parameter: a whole one, or both halves of a gated one.
    fn numbers(&self, role: Role, halves: &BTreeMap<Half, usize>) -> Result<Vec<usize>, DistributedError> {
        let name = || self.name(halves);
        let of = |half: Half| halves.get(&half).copied();
        match (of(Half::Whole), of(Half::First), of(Half::Second)) {
            (Some(whole), None, None) => Ok(vec![whole]),
            (Some(_), first, second) => {
                let other = first.or(second).map(|number| self.tensor(number).name.clone()).unwrap_or_default();
                Err(DistributedError::SameParameter { path: self.path.to_owned(), name: name(), other })
            }
            (None, Some(_), Some(_)) if !self.architecture.gated => {
                Err(DistributedError::NotInModel { path: self.path.to_owned(), name: name(), setting: "swiglu: False" })
            }
            (None, Some(first), Some(second)) => Ok(vec![first, second]),
            (None, first, _) => {
                let other = if first.is_some() { "_v" } else { "_w" };
                let wanted = format!("the other half of `{}` (`{other}`), of {}", name(), parameter(role));
                Err(DistributedError::Missing { path: self.path.to_owned(), wanted })
            }
        }
    }

    /// The name in a layer, and without the endings of halves.
    fn inner_name(&self, halves: &BTreeMap<Half, usize>) -> String {
        let name = self.name(halves);
        let plain = keys::plain(&name);
        let name = if halves.contains_key(&Half::First) { plain.trim_end_matches("_w") } else { plain };
        match name.strip_prefix("decoder.layers.") {
            Some(inner) if names::stacked_role(name).is_some() => inner.to_owned(),
            _ => inner_name(name),
        }
    }

    /// Every parameter that the model needs is there, and no layer more. Before shapes are looked at: what a missing tensor would
    /// have shown of the model is not known.
    fn check_complete(&self) -> Result<(), DistributedError> {
        let layers = self.architecture.layer_count;
        let Sorted { one, stacked, .. } = self.sorted;
        let more = one.iter().find(|((place, _), _)| matches!(place, Place::Layer(number) if *number >= layers));
        if let Some((_, halves)) = more {
            let (name, setting) = (self.name(halves), "num_layers");
            return Err(DistributedError::NotInModel { path: self.path.to_owned(), name, setting });
        }
        let table = PartitionTable::new(self.architecture);
        let head = (self.architecture.head != Head::Tied).then_some((Place::Head, StageKind::Head));
        let places = std::iter::once((Place::Embedding, StageKind::Embedding))
            .chain((0..layers).map(|layer| (Place::Layer(layer), StageKind::Layer)))
            .chain([(Place::Output, StageKind::FinalNorm)])
            .chain(head);
        for (place, kind) in places {
            let found = |row: &Row| {
                one.contains_key(&(place, row.role)) || (kind == StageKind::Layer && stacked.contains_key(&row.role))
            };
            if let Some(row) = table.required(kind).find(|row| !found(row)) {
                let of = if let Place::Layer(layer) = place { format!(" of layer {layer}") } else { String::new() };
                let wanted = format!("{}{of}", parameter(row.role));
                return Err(DistributedError::Missing { path: self.path.to_owned(), wanted });
            }
        }
        Ok(())
    }
}
