//! The `.metadata` file of PyTorch's distributed checkpoints (`torch/distributed/checkpoint/metadata.py` and
//! `filesystem.py`): a pickle of dataclasses, followed as all pickles are, and never built.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::pickle::Machine;
use super::value::{Class, Value};
use crate::tensor::DType;

/// Which tensors a distributed checkpoint holds, and which item of which file holds which part of them.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Metadata {
    pub tensors: BTreeMap<String, SavedTensor>,
    /// Names of pickled objects.
    pub objects: Vec<String>,
    /// Names of the files with items.
    pub files: Vec<String>,
}

#[derive(Debug)]
pub(in crate::checkpoint) struct SavedTensor {
    /// `Err` with the type's name where no parameter has it.
    pub dtype: Result<DType, String>,
    pub shape: Vec<usize>,
    /// In any order.
    pub parts: Vec<Part>,
}

/// A box of a tensor.
#[derive(Debug)]
pub(in crate::checkpoint) struct Part {
    pub offsets: Vec<usize>,
    pub sizes: Vec<usize>,
    /// `None` where no file has it.
    pub item: Option<Item>,
}

/// Where a part is.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct Item {
    /// The number of the file.
    pub file: usize,
    pub offset: u64,
    pub length: u64,
    /// What must be undone to read it, such as `zstd`.
    pub transforms: Vec<String>,
}

impl Metadata {
    /// Follows the pickle, and lists the tensors and objects whose names are wanted.
    ///
    /// # Errors
    /// Why it is not such a file.
    pub(in crate::checkpoint) fn parse(pickle: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<Self, String> {
        let (machine, root) = Machine::run_one(pickle).ok_or("its pickle cannot be followed to its end")?;
        let reader = Reader { machine: &machine };
        let mut metadata = Self::default();
        let items = reader.items(&root, wanted, &mut metadata.files)?;
        let Some(&Value::Dict(tensors)) = reader.attribute(&root, "state_dict_metadata") else {
            return Err("it has no state_dict_metadata".to_owned());
        };
        // A list may be shared, so that a small pickle holds any number of parts.
        let mut parts_left = pickle.len();
        for (name, value) in machine.dicts.get(tensors).into_iter().flatten().filter(|(name, _)| wanted(name)) {
            if !reader.class(value).is_some_and(|class| class.ends_with(".TensorStorageMetadata")) {
                metadata.objects.push(name.to_string());
                continue;
            }
            let tensor =
                reader.tensor(value, |offsets| items.get(&(name.clone(), offsets.into())).cloned(), &mut parts_left);
            let tensor = tensor.ok_or_else(|| format!("its record of `{name}` is not that of a tensor"))?;
            metadata.tensors.insert(name.to_string(), tensor);
        }
        metadata.objects.sort();
        Ok(metadata)
    }
}

/// Items by the name of the tensor and the offsets of the part.
type Items = HashMap<(Rc<str>, Box<[u64]>), Item>;

struct Reader<'a, 'b> {
    machine: &'a Machine<'b>,
}

impl<'a> Reader<'a, '_> {
    fn class(&self, value: &Value) -> Option<&'a str> {
        let Value::Object(object) = *value else { return None };
        Some(&self.machine.objects.get(object)?.class)
    }

    fn attribute(&self, value: &Value, name: &str) -> Option<&'a Value> {
        let Value::Object(object) = *value else { return None };
        let attributes = self.machine.objects.get(object)?.attributes()?;
        self.machine.dicts.get(attributes)?.get(name)
    }

    fn text(&self, value: &Value, name: &str) -> Option<Rc<str>> {
        if let Value::Text(text) = self.attribute(value, name)? { Some(text.clone()) } else { None }
    }

    fn number(&self, value: &Value, name: &str) -> Option<u64> {
        if let Value::Int(number) = self.attribute(value, name)? { u64::try_from(*number).ok() } else { None }
    }

    /// The numbers of a `torch.Size`, or of a tuple.
    fn sizes(&self, value: &Value) -> Option<Rc<[u64]>> {
        match value {
            Value::Sizes(sizes) => Some(sizes.clone()),
            Value::Object(object) => {
                let size = self.machine.objects.get(*object).filter(|object| &*object.class == "torch.Size")?;
                let Value::List(arguments) = size.arguments else { return None };
                match self.machine.lists.get(arguments)?.first()? {
                    Value::Sizes(sizes) => Some(sizes.clone()),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn extents(&self, value: &Value, name: &str) -> Option<Vec<usize>> {
        let sizes = self.sizes(self.attribute(value, name)?)?;
        sizes.iter().map(|&size| usize::try_from(size).ok()).collect()
    }

    /// Items by what they are of. Those of pickled objects have no offsets, and are passed over.
    fn items(&self, root: &Value, wanted: &dyn Fn(&str) -> bool, files: &mut Vec<String>) -> Result<Items, String> {
        let Some(Value::Dict(places)) = self.attribute(root, "storage_data") else {
            return Err("it has no storage_data".to_owned());
        };
        let mut numbers: HashMap<Rc<str>, usize> = HashMap::new();
        let mut items = Items::new();
        for (index, info) in self.machine.keyed_by_objects.get(places).into_iter().flatten() {
            let index = Value::Object(*index);
            let offsets = self.attribute(&index, "offset").and_then(|offsets| self.sizes(offsets));
            let name = self.text(&index, "fqn").filter(|name| wanted(name));
            let (Some(name), Some(offsets)) = (name, offsets) else { continue };
            let file = self.text(info, "relative_path");
            let place = file.zip(self.number(info, "offset")).zip(self.number(info, "length"));
            let ((file, offset), length) =
                place.ok_or_else(|| format!("an item of `{name}` has no file, offset and length"))?;
            let file = *numbers.entry(file).or_insert_with_key(|file| {
                files.push(file.to_string());
                files.len() - 1
            });
            let transforms = self.transforms(info);
            items.insert((name, (*offsets).into()), Item { file, offset, length, transforms });
        }
        Ok(items)
    }

    fn transforms(&self, info: &Value) -> Vec<String> {
        let Some(&Value::List(list)) = self.attribute(info, "transform_descriptors") else { return Vec::new() };
        let descriptor = |value: &Value| match value {
            Value::Text(text) => text.to_string(),
            _ => "a transformation".to_owned(),
        };
        self.machine.lists.get(list).into_iter().flatten().take(4).map(descriptor).collect()
    }

    fn tensor(
        &self,
        value: &Value,
        item: impl Fn(&[u64]) -> Option<Item>,
        parts_left: &mut usize,
    ) -> Option<SavedTensor> {
        let dtype = self.dtype(self.attribute(value, "properties")?)?;
        let Value::List(list) = *self.attribute(value, "chunks")? else { return None };
        let list = self.machine.lists.get(list)?;
        *parts_left = parts_left.checked_sub(list.len())?;
        let part = |value: &Value| {
            let place = self.sizes(self.attribute(value, "offsets")?)?;
            let (offsets, sizes) = (self.extents(value, "offsets")?, self.extents(value, "sizes")?);
            Some(Part { offsets, sizes, item: item(&place) })
        };
        let parts = list.iter().map(part).collect::<Option<_>>()?;
        Some(SavedTensor { dtype, shape: self.extents(value, "size")?, parts })
    }

    /// The type among a tensor's properties, which are a tuple that begins with it.
    fn dtype(&self, properties: &Value) -> Option<Result<DType, String>> {
        let Value::Object(object) = *properties else { return None };
        let first = match self.machine.objects.get(object)?.state {
            Value::List(list) => self.machine.lists.get(list)?.first()?,
            _ => self.attribute(properties, "dtype")?,
        };
        let Value::Class(Class::Other(name)) = first else { return None };
        Some(match &**name {
            "torch.float64" => Ok(DType::F64),
            "torch.float32" => Ok(DType::F32),
            "torch.float16" => Ok(DType::F16),
            "torch.bfloat16" => Ok(DType::BF16),
            other => Err(other.to_owned()),
        })
    }
}
