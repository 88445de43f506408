//! What a run evaluates: known before anything is read, looked up, computed or recorded.

use std::path::Path;

use crate::checkpoint::ModelSource;
use crate::eval::{SliceOutcome, Variant};
use crate::report::{ModelRecord, ModelRole};
use crate::stats::PairedBootstrap;

/// What is evaluated, and what is said of it.
pub(super) struct Job<'a> {
    pub model: &'a dyn ModelSource,
    /// The checkpoint as it was given.
    pub given: &'a Path,
    pub variants: &'a [Variant],
    /// What the first slice tells about every model.
    pub describe: &'a dyn Fn(&SliceOutcome) -> Vec<ModelRecord>,
    /// The journal's name in its folder.
    pub journal: &'a str,
    pub bootstrap: PairedBootstrap,
}

/// A model of which nothing else is known.
pub(super) fn model_record(name: &str, role: ModelRole, description: String, source: String) -> ModelRecord {
    ModelRecord {
        name: name.to_owned(),
        role,
        description,
        source,
        exact: None,
        miscounts: Vec::new(),
        folding: None,
        candidate: None,
        findings: Vec::new(),
    }
}
