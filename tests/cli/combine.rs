//! Shards of a run: whoever computes them, `combine` comes to the report of a single process, bit for bit, or says which
//! passage is missing or there twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common;
use crate::common::evaluation::{demo, json};
use crate::common::runs::{assert_same_but, compare, fail, finish, kintsugi, records};
use tempfile::TempDir;

/// A run of a single process.
fn whole() -> &'static TempDir {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        // In one slice, where shards have several.
        finish(&mut into(folder.path(), &["--slice-tokens", "1000000"]));
        folder
    })
}

/// Fails unless both runs came to the same, however the work was divided.
fn assert_same(found: &Path, expected: &Path) {
    assert_same_but(found, expected, &["threads", "slices", "run_shards"]);
}

fn into(folder: &Path, further: &[&str]) -> Command {
    let mut command = compare(&demo(), further);
    command.arg("--output-dir").arg(folder);
    command
}

/// Evaluates a shard; gives the folder of its journal.
fn shard(folder: &Path, shard: &str, further: &[&str]) -> PathBuf {
    finish(&mut into(folder, &[&["--shard", shard], further].concat()));
    folder.join("shards").join(shard.replace('/', "-of-"))
}

fn combine(journals: &[&Path], output: &Path) -> Command {
    let mut command = kintsugi();
    command.arg("combine").args(journals).arg("-o").arg(output);
    command
}

#[test]
fn shards_of_any_division_combine_to_the_same_report() {
    for count in [1, 2, 7] {
        let folder = tempfile::tempdir().unwrap();
        // The last first, on several threads and in slices of another size.
        let journals: Vec<_> = (1..=count)
            .rev()
            .map(|index| {
                let (threads, slice) = (["1", "2"][index % 2], ["96", "300"][index % 2]);
                shard(folder.path(), &format!("{index}/{count}"), &["--threads", threads, "--slice-tokens", slice])
            })
            .collect();
        if count == 1 {
            // A shard of one is the run.
            assert_same(folder.path(), whole().path());
            finish(&mut combine(&[folder.path()], folder.path()));
        } else {
            assert!(!folder.path().join("report.json").exists());
            assert!(journals.iter().all(|journal| records(&journal.join("journal.jsonl")) > 2));
            let paths: Vec<_> = journals.iter().map(PathBuf::as_path).collect();
            finish(&mut combine(&paths, &folder.path().join("joined")));
            assert_same(&folder.path().join("joined"), whole().path());
            let run = json(&folder.path().join("joined/report.json"))["run"].clone();
            assert_eq!((run["run_shards"].as_u64(), run.get("run_shard")), (Some(count as u64), None));
            // The folder that all were given finds them by itself.
            finish(&mut combine(&[folder.path()], folder.path()));
        }
        assert_same(folder.path(), whole().path());
    }
}

#[test]
fn more_shards_than_chunks_are_no_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let further = ["--limit", "3", "--chunk-tokens", "1000"];
    let stderr = finish(&mut into(folder.path(), &[&["--shard", "2/2"][..], &further].concat()));
    assert!(stderr.contains("shard 2/2 holds no passage: there are 1 chunks"), "{stderr}");
    shard(folder.path(), "1/2", &further);
    finish(&mut combine(&[folder.path()], folder.path()));
    assert_eq!(json(&folder.path().join("report.json"))["baseline"]["n"], 3);
}

#[test]
fn gaps_doubles_and_strangers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let joined = folder.path().join("joined");
    let [first, second] = ["1/2", "2/2"].map(|name| shard(folder.path(), name, &[]));
    let refused = |journals: &[&Path]| {
        let error = fail(&mut combine(journals, &joined));
        assert!(!joined.join("report.json").exists());
        error
    };
    let error = refused(&[&first]);
    assert!(error.contains("are in none of the journals: shard 2/2 was not given"), "{error}");
    assert!(error.contains("error: passages ") && error.contains("hint: run what is missing"), "{error}");
    let error = refused(&[&first, &second, &first]);
    assert!(error.contains("error: passages ") && error.contains(" are in both "), "{error}");
    let third = shard(folder.path(), "3/3", &[]);
    assert!(refused(&[&first, &second, &third]).contains(" are in both "));

    // Not finished: its last two slices are not there.
    let path = second.join("journal.jsonl");
    let bytes = fs_err::read(&path).unwrap();
    let lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    fs_err::write(&path, lines[..lines.len() - 2].concat()).unwrap();
    let (done, all) = (lines.len() - 4, lines.len() - 2);
    let error = refused(&[&first, &second]);
    assert!(error.contains(&format!("shard 2/2 has {done} of {all} chunks")), "{error}");
    shard(folder.path(), "2/2", &[]);
    assert_eq!(records(&path), lines.len());

    let other = tempfile::tempdir().unwrap();
    let stranger = shard(other.path(), "2/2", &["--max-length", "30"]);
    let error = refused(&[&first, &stranger]);
    assert!(error.contains("the journal belongs to a different run: max_length is 30"), "{error}");
    let error = refused(&[&first, &folder.path().join("nowhere")]);
    assert!(error.contains("nowhere"), "{error}");
    finish(&mut combine(&[&first, &second], &joined));
    assert_same(&joined, whole().path());
}

#[test]
fn a_checkpoint_that_differs_between_shards_is_a_stranger() {
    let (folder, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let checkpoint = source.path().join("checkpoint");
    common::copy_folder(&demo(), &checkpoint);
    shard(folder.path(), "1/2", &[]);
    let file = checkpoint.join("global_step1600/layer_04-model_00-model_states.pt");
    common::set_element(&file, "attention.dense.bias", 0, 0.5);
    let mut command = compare(&checkpoint, &["--shard", "2/2"]);
    finish(command.arg("--output-dir").arg(folder.path()));
    let error = fail(&mut combine(&[folder.path()], folder.path()));
    assert!(error.contains("the journal belongs to a different run: layer_04-model_00-model_states.pt is "), "{error}");
}

#[test]
fn launchers_say_which_shard_it_is_and_the_flag_overrides_them() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = finish(into(folder.path(), &[]).env("RANK", "1").env("WORLD_SIZE", "3"));
    assert!(
        stderr.contains("shard 2/3, from torchrun (RANK, WORLD_SIZE); --shard 1/1 evaluates everything"),
        "{stderr}"
    );
    assert!(folder.path().join("shards/2-of-3/journal.jsonl").is_file());
    assert!(!folder.path().join("report.json").exists());
    let mut array = into(folder.path(), &[]);
    for (variable, value) in [("ID", "1"), ("MIN", "1"), ("MAX", "3"), ("COUNT", "3"), ("STEP", "1")] {
        array.env(format!("SLURM_ARRAY_TASK_{variable}"), value);
    }
    assert!(finish(&mut array).contains("shard 1/3, from Slurm array"));
    let mut indexed = into(folder.path(), &[]);
    let stderr = finish(indexed.env("JOB_COMPLETION_INDEX", "2").env("KINTSUGI_SHARDS", "3"));
    assert!(stderr.contains("shard 3/3, from Kubernetes"), "{stderr}");
    finish(&mut combine(&[folder.path()], folder.path()));
    assert_same(folder.path(), whole().path());

    let alone = tempfile::tempdir().unwrap();
    let mut command = into(alone.path(), &["--shard", "1/1"]);
    let stderr = finish(command.env("RANK", "1").env("WORLD_SIZE", "3"));
    assert!(!stderr.contains("torchrun"), "{stderr}");
    assert_same(alone.path(), whole().path());
    let error = fail(into(alone.path(), &[]).env("JOB_COMPLETION_INDEX", "2"));
    assert!(error.contains("set KINTSUGI_SHARDS"), "{error}");
}
