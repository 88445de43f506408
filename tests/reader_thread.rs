//! A reader thread that dies: the run ends with an error, and neither hangs nor dies with it.
#![cfg(feature = "libtorch")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::TinyModel;
use common::evaluation::{options, passages, variants};
use kintsugi::checkpoint::{Checkpoint, CheckpointError, ModelSource};
use kintsugi::config::Architecture;
use kintsugi::eval::{EvalError, Quiet, evaluate};
use kintsugi::partition::{StageId, StageTensors};
use kintsugi::tensor::DType;

/// A checkpoint whose reading panics at one stage.
#[derive(Debug)]
struct Fragile(Checkpoint, StageId);

impl ModelSource for Fragile {
    fn folder(&self) -> &Path {
        self.0.folder()
    }

    fn architecture(&self) -> &Architecture {
        self.0.architecture()
    }

    fn tp_size(&self) -> usize {
        self.0.tp_size()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn size(&self) -> (u64, u64) {
        self.0.size()
    }

    fn layout_name(&self) -> &'static str {
        self.0.layout_name()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn iteration(&self) -> Option<u64> {
        self.0.iteration()
    }

    fn vocabulary_multiple(&self) -> Option<usize> {
        self.0.vocabulary_multiple()
    }

    fn stage_files(&self, id: StageId) -> Vec<PathBuf> {
        self.0.stage_files(id)
    }

    fn read_stage(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        assert!(id != self.1, "the reader dies at {id}");
        self.0.read_stage(id)
    }

    fn read_replicas(&self, id: StageId) -> Result<StageTensors, CheckpointError> {
        self.0.read_replicas(id)
    }

    fn check_unchanged(&self, id: StageId) -> Result<(), CheckpointError> {
        self.0.check_unchanged(id)
    }
}

#[test]
fn a_reader_that_dies_ends_the_run_with_an_error() {
    let files = TinyModel::new().write();
    for id in files.open().stage_ids() {
        let model = Fragile(files.open(), id);
        let passages = passages(&[(vec![1, 2, 3], vec![4]), (vec![5], vec![6, 7])], 64);
        let error = evaluate(&model, &variants(&["mean"]), passages, &options(), &Quiet).unwrap_err();
        assert!(matches!(error, EvalError::ReaderGone { stage } if stage == id), "{id}: {error}");
    }
}
