//! Exports for transformers with something wrong in them: a table of defects, each with the words by which it is to be
//! named. Layers, rows and elements are drawn from a seed.

pub mod gpt_neox;
pub mod llama;

use kintsugi::tensor::{DType, HostTensor};
use serde_json::Value;

use super::hugging_face::HuggingFace;

/// What the findings are to say of a defect: the beginning of each warning behind the candidate's name, and no other.
pub struct Defect {
    /// A word for the directory and the table in docs/candidates.md.
    pub name: &'static str,
    pub export: HuggingFace,
    pub warnings: Vec<String>,
    /// Whether the scores show it: some limit of `gate` is exceeded.
    pub in_the_numbers: bool,
}

/// An export to be damaged.
pub struct Subject {
    /// Made by `fold`.
    pub export: HuggingFace,
    /// The same by `mean`.
    pub mean: HuggingFace,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Elements of a head that rotary embedding turns.
    pub rotary: usize,
    pub ranks: usize,
    pub seed: u64,
}

/// Numbers drawn one after another (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 27)) % limit as u64).unwrap()
    }
}

impl HuggingFace {
    /// Puts other values into a tensor.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Vec<f64>, &[usize])) {
        let tensor = self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let (mut values, shape) = (tensor.to_f64().unwrap(), tensor.shape().to_vec());
        change(&mut values, &shape);
        let changed = HostTensor::from_f64(tensor.dtype(), shape, &values).unwrap();
        self.tensors.insert(name.to_owned(), changed);
    }

    /// Puts rows into another order: row `at` becomes what row `source(at)` was.
    pub fn reorder(&mut self, name: &str, source: impl Fn(usize) -> usize) {
        self.change(name, |values, shape| {
            let width = shape.get(1).copied().unwrap_or(1);
            let old = values.clone();
            for (at, row) in values.chunks_mut(width).enumerate() {
                let from = source(at);
                row.copy_from_slice(&old[from * width..(from + 1) * width]);
            }
        });
    }

    pub fn transpose(&mut self, name: &str) {
        let turned = self.tensors[name].transposed().unwrap();
        assert_eq!(turned.shape(), self.tensors[name].shape(), "{name} is not square");
        self.tensors.insert(name.to_owned(), turned);
    }

    pub fn scale(&mut self, name: &str, factor: f64) {
        self.change(name, |values, _| values.iter_mut().for_each(|value| *value *= factor));
    }

    /// All tensors whose names begin so, rounded to bfloat16 and stored as before.
    pub fn round(&mut self, prefix: &str) {
        for (_, tensor) in self.tensors.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
            *tensor = tensor.cast(DType::BF16).unwrap().cast(tensor.dtype()).unwrap();
        }
    }

    pub fn set(&mut self, key: &str, value: Value) {
        assert_ne!(self.config.get(key), Some(&value), "{key} is so already");
        self.config.insert(key.to_owned(), value);
    }

    /// Gives the tensors of a layer to another one.
    fn copy_layer(&self, to: &mut Self, stem: &str, from_layer: usize, to_layer: usize) {
        let prefix = format!("{stem}.{from_layer}.");
        for (name, tensor) in self.tensors.iter().filter(|(name, _)| name.starts_with(&prefix)) {
            to.tensors.insert(name.replace(&prefix, &format!("{stem}.{to_layer}.")), tensor.clone());
        }
    }

    /// In another type.
    pub fn cast(mut self, dtype: DType) -> Self {
        self.tensors.values_mut().for_each(|tensor| *tensor = tensor.cast(dtype).unwrap());
        self
    }
}

/// In each head the first `dims` elements: the one of the first half and the one of the second side by side.
fn paired(size: usize, dims: usize) -> impl Fn(usize) -> usize {
    move |row| {
        let at = row % size;
        row - at + if at < dims { at / 2 + (at % 2) * dims / 2 } else { at }
    }
}

struct Table {
    defects: Vec<Defect>,
    draw: Draw,
    export: HuggingFace,
    layers: usize,
}

impl Table {
    fn of(subject: &Subject) -> Self {
        let (export, layers) = (subject.export.clone(), subject.layers);
        Self { defects: Vec::new(), draw: Draw(subject.seed), export, layers }
    }

    /// A layer drawn anew.
    fn layer(&mut self) -> usize {
        self.draw.below(self.layers)
    }

    fn add(
        &mut self,
        name: &'static str,
        in_the_numbers: bool,
        warnings: &[String],
        damage: impl FnOnce(&mut HuggingFace),
    ) {
        let mut export = self.export.clone();
        damage(&mut export);
        self.defects.push(Defect { name, export, warnings: warnings.to_vec(), in_the_numbers });
    }

    /// A defect of weights: the warning names what it is, but for the strategy.
    fn weights(
        &mut self,
        name: &'static str,
        in_the_numbers: bool,
        warning: &str,
        damage: impl FnOnce(&mut HuggingFace),
    ) {
        let warning = format!("fold, but {warning}");
        self.add(name, in_the_numbers, &[warning], damage);
    }

    /// A defect of a setting.
    fn setting(&mut self, name: &'static str, in_the_numbers: bool, warnings: &[&str], key: &str, value: Value) {
        let warnings: Vec<_> = warnings.iter().map(|&warning| warning.to_owned()).collect();
        self.add(name, in_the_numbers, &warnings, |export| export.set(key, value));
    }

    /// A layer rounded to bfloat16 where the rest is not.
    fn rounded_layer(&mut self, stem: &str) {
        let layer = self.layer();
        let warning = format!("for … of layer {layer}, which are rounded to bf16, the rest is not");
        self.weights("one layer in bfloat16", false, &warning, |export| export.round(&format!("{stem}.{layer}.")));
    }

    /// Layers once more and exchanged, in every family.
    fn layer_defects(&mut self, stem: &str) {
        let right = self.export.clone();
        let (one, other) = (self.draw.below(self.layers - 1), self.layers - 1);
        self.weights("one layer twice", true, &format!("layer {other} is layer {one} once more"), |export| {
            right.copy_layer(export, stem, one, other);
        });
        self.weights("layers out of order", true, &format!("layers {one} and {other} are exchanged"), |export| {
            right.copy_layer(export, stem, one, other);
            right.copy_layer(export, stem, other, one);
        });
    }
}
