//! Never a directory that looks complete and is not: merges that are killed, that run out of disk, that may not write,
//! or whose source changes while it is read.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common;
use crate::common::TinyModel;
use crate::common::disk::SmallDisk;
use crate::common::merging::{Merge, files_below};
use kintsugi::checkpoint::{Checkpoint, CheckpointError, Layout, digest_file};
use kintsugi::export::synth::{Shape, SynthOptions};
use kintsugi::export::{ExportError, Progress, RECIPE_FILE};
use kintsugi::tensor::DType;
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// Fails unless the directory holds exactly the files that its recipe lists, with their digests.
fn assert_complete(directory: &Path) {
    let recipe: Value = serde_json::from_slice(&fs_err::read(directory.join(RECIPE_FILE)).unwrap()).unwrap();
    let mut listed: BTreeSet<_> = [RECIPE_FILE, "README.md"].map(|name| directory.join(name)).into();
    for output in recipe["outputs"].as_array().unwrap() {
        let path = directory.join(output["file"].as_str().unwrap());
        assert_eq!(digest_file(&path).unwrap().blake3, output["blake3"].as_str().unwrap(), "{}", path.display());
        listed.insert(path);
    }
    assert_eq!(files_below(directory).into_iter().collect::<BTreeSet<_>>(), listed);
}

/// The recipe has the digests of the files that were merged.
fn assert_inputs(recipe: &Value, step: &Path) {
    let inputs = recipe["inputs"].as_array().unwrap();
    assert!(!inputs.is_empty());
    for input in inputs {
        let path = step.join(input["file"].as_str().unwrap());
        assert_eq!(digest_file(&path).unwrap().blake3, input["blake3"].as_str().unwrap(), "{}", path.display());
    }
}

/// A few megabytes, so that a merge takes a while.
fn larger_model() -> TinyModel {
    let shape = Shape { vocab_size: 8000, make_vocab_size_divisible_by: 64, ..Shape::named("14m").unwrap() };
    TinyModel::new().with(|o| *o = SynthOptions { tp_size: 2, drift: 0.01, ..SynthOptions::new(shape) })
}

fn kintsugi(source: &Path, target: &Path, further: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    command.args(["-q", "merge"]).arg(source).arg("-o").arg(target).args(further);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn killed_at_any_time_it_leaves_nothing_that_looks_complete() {
    let source = larger_model().write();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("merged");
    // The quickest of a few: others may have had the processor during one of them.
    let whole = (0..4).map(|_| {
        let clock = Instant::now();
        assert!(kintsugi(source.path(), &target, &[]).status().unwrap().success());
        let took = clock.elapsed();
        assert_complete(&target);
        fs_err::remove_dir_all(&target).unwrap();
        took
    });
    let whole = whole.min().unwrap();

    let mut random = ChaCha12Rng::seed_from_u64(50);
    let (mut killed, mut rounds) = (0, 0..500);
    // Those that were done before they were killed do not count.
    while killed < 50 {
        let round = rounds.next().expect("runs are killed");
        let further: &[&str] = if target.exists() { &["--overwrite"] } else { &[] };
        let before = target.exists();
        let mut child = kintsugi(source.path(), &target, further).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(random.random_range(0.0..1.1)));
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        assert!(target.exists() >= before, "round {round}: the earlier output is gone");
        if target.exists() {
            assert_complete(&target);
        }
        if round % 5 == 4 && target.exists() {
            fs_err::remove_dir_all(&target).unwrap();
        }
    }
    assert!(kintsugi(source.path(), &target, &["--overwrite"]).status().unwrap().success());
    assert_complete(&target);
    let recipe = serde_json::from_slice(&fs_err::read(target.join(RECIPE_FILE)).unwrap()).unwrap();
    assert_inputs(&recipe, source.step());
    // What the killed runs left is gone.
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_full_disk_leaves_source_and_earlier_output_as_they_were() {
    let Some(disk) = SmallDisk::mount(3 << 20) else { return };
    let target = disk.path().join("merged");
    let small = TinyModel::new().write();
    Merge::by("mean").write(&small.open(), &target).unwrap();
    assert_complete(&target);

    let source = larger_model().write();
    let digests =
        |folder: &Path| -> Vec<_> { files_below(folder).iter().map(|path| digest_file(path).unwrap()).collect() };
    let before = digests(source.path());
    for layout in [Merge::by("fold"), Merge::by("fold").hf(1 << 30)] {
        let error = Merge { overwrite: true, ..layout }.write(&source.open(), &target).unwrap_err();
        assert!(
            matches!(&error, ExportError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("space"), "{error}");
        assert_complete(&target);
        assert_eq!(fs_err::read_dir(disk.path()).unwrap().count(), 1, "nothing half-written is left");
    }
    assert_eq!(digests(source.path()), before);
}

#[test]
fn where_nothing_may_be_written_nothing_is() {
    let source = TinyModel::new().write();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs_err::write(&file, "text").unwrap();
    let error = Merge::by("mean").write(&source.open(), &file.join("merged")).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
    let error = Merge::by("mean").write(&source.open(), &file).unwrap_err();
    assert!(matches!(error, ExportError::Exists { .. }), "{error}");
    assert_eq!(fs_err::read_to_string(&file).unwrap(), "text");

    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    if !disk.read_only() {
        eprintln!("skipped: a file system cannot be made read-only here");
        return;
    }
    let error = Merge::by("mean").write(&source.open(), &disk.path().join("merged")).unwrap_err();
    assert!(error.to_string().contains("cannot be written"), "{error}");
}

/// Writes to a file when the merge begins.
struct Meddler<'a> {
    path: &'a Path,
    append: bool,
    done: AtomicBool,
}

impl Progress for Meddler<'_> {
    fn start(&self, _: u64) {}

    fn advance(&self, _: u64) {
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut bytes = fs_err::read(self.path).unwrap();
        if self.append {
            bytes.push(0);
        }
        fs_err::write(self.path, bytes).unwrap();
    }
}

#[test]
fn a_source_that_changes_while_it_is_read_is_an_error() {
    for (append, words) in [(true, "bytes became"), (false, "written to")] {
        let source = TinyModel::new().write();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("merged");
        let path = source.layer_file(0, 0);
        // Times are kept in steps of some milliseconds.
        std::thread::sleep(Duration::from_millis(50));
        let meddler = Meddler { path: &path, append, done: AtomicBool::new(false) };
        let error = Merge::by("mean").with(&source.open(), &target, |job| job.run(None, &meddler)).unwrap_err();
        assert!(matches!(error, ExportError::Checkpoint(CheckpointError::Changed { .. })), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn damaged_and_impossible_merges_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("merged");
    let refused = |checkpoint: &Checkpoint, merge: &Merge, words: &str| {
        let error = merge.write(checkpoint, &target).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 0, "{error}");
    };
    for layout in [Layout::LayerFiles, Layout::RankFiles] {
        let source = TinyModel::new().with(|options| options.layout = layout).write();
        let checkpoint = source.open();
        refused(&checkpoint, &Merge::by("mean").ranks(3), "a multiple of model_parallel_size (3)");
        refused(&checkpoint, &Merge { vocab_size: Some(129), ..Merge::by("mean") }, "cannot be cut to 129 tokens");
        refused(&checkpoint, &Merge { vocab_size: Some(0), ..Merge::by("mean") }, "cannot be cut to 0 tokens");
        refused(&checkpoint, &Merge { vocab_size: Some(125), ..Merge::by("mean").ranks(2) }, "padded_vocab_size");
        let damaged = if layout == Layout::LayerFiles { source.layer_file(3, 1) } else { source.rank_file(1) };
        common::flip_byte(&damaged, usize::try_from(fs_err::metadata(&damaged).unwrap().len()).unwrap() / 2);
        refused(&checkpoint, &Merge::by("mean"), "model_states.pt");
        common::delete(&damaged);
        refused(&checkpoint, &Merge::by("mean"), "model_states.pt");
    }
    let source = TinyModel::new().write();
    common::set_element(&source.layer_file(2, 0), "attention.query_key_value.weight", 7, 1e6);
    refused(
        &source.open(),
        &Merge { dtype: Some(DType::F16), ..Merge::by("mean") },
        "layer 0: `attention.query_key_value.weight`: element 7 is beyond the range of f16",
    );
}

#[test]
fn recipe_and_card_say_what_was_done() {
    let source = TinyModel::new().with(|options| options.drift = 0.01).write();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("merged");
    Merge::by("fold").write(&source.open(), &target).unwrap();
    assert_complete(&target);
    let recipe: Value = serde_json::from_slice(&fs_err::read(target.join(RECIPE_FILE)).unwrap()).unwrap();
    assert_eq!((&recipe["exact"], &recipe["strategy"]["name"]), (&true.into(), &"fold".into()));
    assert_inputs(&recipe, source.step());
    let rule = |name: &str| {
        let parameters = recipe["parameters"].as_array().unwrap();
        parameters.iter().find(|parameter| parameter["name"] == name).unwrap()["rule"].as_str().unwrap().to_owned()
    };
    assert_eq!(rule("layer.1.attention.dense.bias"), "sum");
    assert_eq!(rule("layer.1.input_layernorm.weight"), "fold");
    assert_eq!(rule("layer.1.attention.query_key_value.weight"), "joined, the norm that it reads folded in");
    assert_eq!(rule("layer.1.mlp.linear2.weight"), "joined");
    let card = fs_err::read_to_string(target.join("README.md")).unwrap();
    assert!(card.contains("strategy `fold`") && card.contains("Yes: the merge computes"), "{card}");
    Merge { overwrite: true, ..Merge::by("zeroth") }.write(&source.open(), &target).unwrap();
    let card = fs_err::read_to_string(target.join("README.md")).unwrap();
    assert!(card.contains("Not exactly:") && card.contains("attention.dense.bias"), "{card}");
}
