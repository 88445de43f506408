//! Checkpoint files that are written, replaced, cut or removed while they are being read: the run ends with the file's
//! name, and never with numbers that no checkpoint on disk has.

use std::path::{Path, PathBuf};

use crate::common::evaluation::{Evaluation, evaluate, options, passages, variants};
use crate::common::hugging_face::HuggingFace;
use crate::common::{TinyCheckpoint, TinyModel, delete, flip_byte, truncate_half};
use fs_err as fs;
use kintsugi::checkpoint::{Checkpoint, CheckpointError, HuggingFaceModel, ModelSource};
use kintsugi::eval::{EngineOptions, EvalError, Observer, Work};
use kintsugi::partition::StageId;

/// Does something to a file after the checkpoint was opened and before the engine reads.
struct Saboteur<F>(PathBuf, F);

impl<F: Fn(&Path) + Sync> Observer for Saboteur<F> {
    fn start(&self, _work: Work) {
        (self.1)(&self.0);
    }
}

fn run(files: &TinyCheckpoint, sabotage: impl Fn(&Path) + Sync) -> Result<Evaluation, EvalError> {
    let checkpoint = files.open();
    let passages = passages(&[(vec![1, 2, 3], vec![4]), (vec![5], vec![6, 7])], 64);
    let options = EngineOptions { digests: true, ..options() };
    evaluate(&checkpoint, &variants(&["mean"]), passages, &options, &Saboteur(files.layer_file(3, 1), sabotage))
}

/// What is done to a file.
type Sabotage = fn(&Path);

/// Another sound file of the same names and sizes under its name.
fn replace(path: &Path) {
    let other = path.with_extension("other");
    fs::copy(path, &other).unwrap();
    fs::rename(other, path).unwrap();
}

#[test]
fn a_file_that_is_replaced_or_written_during_the_run_is_noticed() {
    let sabotages: [Sabotage; 3] = [replace, |path| flip_byte(path, 3000), truncate_half];
    for sabotage in sabotages {
        let files = TinyModel::new().write();
        let error = run(&files, sabotage).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("layer_03-model_01-model_states.pt: "), "{text}");
        assert!(error.hint().is_some(), "{text}");
    }
    let files = TinyModel::new().write();
    assert!(matches!(run(&files, replace), Err(EvalError::Checkpoint(CheckpointError::Changed { .. }))));
    // What does not touch the contents is no change.
    assert!(run(&TinyModel::new().write(), |path| drop(fs::read(path).unwrap())).is_ok());
}

#[test]
fn a_file_that_vanishes_during_the_run_is_named() {
    let files = TinyModel::new().write();
    let text = run(&files, delete).unwrap_err().to_string();
    assert!(text.contains("layer_03-model_01-model_states.pt") && text.contains("no such file"), "{text}");
}

#[test]
fn a_change_between_reading_and_hashing_is_noticed() {
    let files = TinyModel::new().write();
    let checkpoint: Checkpoint = files.open();
    checkpoint.read_stage(StageId::Layer(1)).unwrap();
    checkpoint.check_unchanged(StageId::Layer(1)).unwrap();
    replace(&files.layer_file(3, 1));
    let error = checkpoint.check_unchanged(StageId::Layer(1)).unwrap_err();
    assert!(matches!(&error, CheckpointError::Changed { path, .. } if *path == files.layer_file(3, 1)), "{error}");
    // Other stages are as they were.
    checkpoint.check_unchanged(StageId::Layer(0)).unwrap();
}

#[test]
fn a_hugging_face_directory_that_changes_is_noticed() {
    let files = TinyModel::new().write();
    let folder = tempfile::tempdir().unwrap();
    let sabotages: [(Sabotage, &str); 4] = [
        (replace, "another file has its name"),
        (|path| flip_byte(path, 3000), "it was written to"),
        (truncate_half, "bytes became"),
        (delete, "no such file"),
    ];
    for (sabotage, expected) in sabotages {
        HuggingFace::merged(&files.open(), "mean").write_sharded(folder.path());
        let model = HuggingFaceModel::open(folder.path()).unwrap();
        model.read_stage(StageId::Layer(1)).unwrap();
        model.check_unchanged(StageId::Layer(1)).unwrap();
        // Times are kept in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        sabotage(&folder.path().join("model-00001-of-00002.safetensors"));
        for result in [
            model.check_unchanged(StageId::Layer(1)),
            model.read_stage(StageId::Layer(1)).map(drop),
            model.read_replicated(StageId::Layer(1)).map(drop),
        ] {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("model-00001-of-00002.safetensors") && text.contains(expected), "{text}");
        }
    }
}
