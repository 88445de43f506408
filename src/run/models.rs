//! The models of a run: what the engine evaluates, and beside each what the report says of it.

use std::path::Path;

use super::candidates::{self, Candidate};
use crate::checkpoint::{ModelSource, STORED_ONCE};
use crate::eval::{Models, SliceOutcome, Variant};
use crate::merge::Strategy;
use crate::report::{Exact, ModelRecord, ModelRole, StrategyDigest};

/// The models of a run, the baseline first. What only their weights show is added to the records by
/// [`ModelSet::completed`] once the first slice has read them.
pub(super) struct ModelSet<'a> {
    /// The checkpoint, or the one model that is evaluated.
    pub source: &'a dyn ModelSource,
    pub path: &'a Path,
    /// `[models]`
    pub variants: Vec<Variant>,
    /// `[models]`
    records: Vec<ModelRecord>,
}

impl<'a> ModelSet<'a> {
    pub(super) fn new(source: &'a dyn ModelSource, path: &'a Path) -> Self {
        let description = match source.tp_size() {
            _ if source.stored_once() => {
                format!("The model as it is: {}, {STORED_ONCE}.", source.describe())
            }
            1 => format!("The model as it is: {}.", source.describe()),
            ranks => format!("The checkpoint as trained: {ranks} ranks, each with its own replicas."),
        };
        let record = ModelRecord { description, ..ModelRecord::new("baseline", ModelRole::Baseline) };
        Self { source, path, variants: vec![Variant::baseline()], records: vec![record] }
    }

    /// Adds a merge; returns its place.
    pub(super) fn add_merge(&mut self, strategy: Strategy) -> usize {
        let digest = |blake3: &String| StrategyDigest { name: strategy.name.clone(), blake3: blake3.clone() };
        let digest = strategy.blake3.as_ref().map(digest);
        let record = ModelRecord {
            description: strategy.description.clone(),
            source: strategy.source.clone(),
            strategies: digest.into_iter().collect(),
            ..ModelRecord::new(&strategy.name, ModelRole::Variant)
        };
        self.add(Variant::merged(strategy), record)
    }

    pub(super) fn add_candidate(&mut self, candidate: &Candidate) {
        let record = candidate.record(self.source.architecture());
        self.add(candidate.variant(), record);
    }

    /// Adds the baseline again, summed in another order: differences below its own are rounding.
    pub(super) fn add_noise_floor(&mut self) {
        let variant = Variant::noise_floor();
        let description = "the baseline again, summed in another order".to_owned();
        let record = ModelRecord { description, ..ModelRecord::new(&variant.name, ModelRole::NoiseFloor) };
        self.add(variant, record);
    }

    pub(super) fn evaluated(&self) -> Models<'_> {
        Models { checkpoint: self.source, variants: &self.variants }
    }

    /// The names of the merges and candidates.
    pub(super) fn judged(&self) -> impl Iterator<Item = &str> {
        self.records.iter().filter(|record| record.role == ModelRole::Variant).map(|record| record.name.as_str())
    }

    fn add(&mut self, variant: Variant, record: ModelRecord) -> usize {
        self.variants.push(variant);
        self.records.push(record);
        self.records.len() - 1
    }

    /// The records with what a slice has found in the weights.
    pub(super) fn completed(&self, slice: &SliceOutcome) -> Vec<ModelRecord> {
        let mut records = self.records.clone();
        for (at, record) in records.iter_mut().enumerate() {
            if record.candidate.is_some() {
                candidates::complete(record, slice, at);
            } else if let (ModelRole::Variant, Some(exactness)) = (record.role, slice.exactness.get(at)) {
                record.exact = Some(Exact { exact: exactness.is_exact(), because: exactness.because() });
                record.miscounts = exactness.miscounts();
                record.folding = exactness.folding();
            }
        }
        records
    }

    /// For each merge that makes the same model as an earlier one, the place of that one.
    pub(super) fn same_as(&self, slice: &SliceOutcome) -> Vec<Option<usize>> {
        let merges = |at: usize| self.records[at].role == ModelRole::Variant && self.records[at].candidate.is_none();
        let same = |at: usize, other: usize| slice.same_as.get(at) == slice.same_as.get(other);
        (0..self.records.len())
            .map(|at| (0..at).find(|&earlier| merges(at) && merges(earlier) && same(at, earlier)))
            .collect()
    }
}
