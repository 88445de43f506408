//! Nothing that was computed is lost: runs that are killed, interrupted, that run out of disk or lose their reader go on
//! where they stopped and come to the report that they would have come to.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::copy_folder;
use crate::common::disk::SmallDisk;
use crate::common::evaluation::demo;
use crate::common::runs::{self, assert_same, compare, fail, finish, records};
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

/// A run that nothing happened to, and how long it took.
fn uninterrupted() -> &'static (TempDir, Duration) {
    static RUN: OnceLock<(TempDir, Duration)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let clock = Instant::now();
        finish(&mut run_into(folder.path()));
        let took = clock.elapsed();
        assert!(records(&folder.path().join("journal.jsonl")) > 10, "too few slices to interrupt");
        (folder, took)
    })
}

fn run_into(folder: &Path) -> Command {
    let mut command = compare(&demo(), &[]);
    command.arg("--output-dir").arg(folder);
    command
}

/// The bundled checkpoint in another place, under its own name, which stands in reports.
struct CopiedDemo(TempDir);

impl CopiedDemo {
    fn new() -> Self {
        let copied = Self(tempfile::tempdir().unwrap());
        copy_folder(&demo(), &copied.path());
        copied
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("checkpoint")
    }
}

/// Waits until the journal has so many records, or the run is over.
fn wait_for(journal: &Path, count: usize, child: &mut Child) {
    while records(journal) < count && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Kills runs at random moments until they have been killed so often; every run is gone on with until it is finished.
/// `KINTSUGI_KILLS` says how often.
#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_report() {
    let kills = std::env::var("KINTSUGI_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(5);
    let (whole, took) = uninterrupted();
    let mut random = ChaCha12Rng::seed_from_u64(100);
    let (mut killed, mut runs, mut kept, mut recomputed) = (0, 0, 0, 0);
    while killed < kills {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.jsonl");
        runs += 1;
        loop {
            let before = records(&journal);
            let mut child = run_into(folder.path()).spawn().unwrap();
            std::thread::sleep(took.mul_f64(random.random_range(0.0..0.8)));
            child.kill().unwrap();
            if child.wait().unwrap().success() {
                break;
            }
            killed += 1;
            let bytes = fs_err::read(&journal).unwrap_or_default();
            recomputed += usize::from(bytes.last().is_some_and(|&byte| byte != b'\n'));
            let after = records(&journal);
            // Two records come before the first slice, and are written again where no slice follows.
            assert!(after >= before || before <= 2, "kill {killed}: {after} records, {before} before");
            kept += after.saturating_sub(before);
        }
        // A run that is killed while it writes the report is gone on with as well.
        finish(&mut run_into(folder.path()));
        assert_same(folder.path(), whole.path());
    }
    eprintln!(
        "{killed} kills in {runs} runs: {kept} records kept, {recomputed} torn records dropped, 0 reports differed"
    );
}

#[test]
fn a_signal_ends_the_run_after_the_slice_at_hand() {
    for (name, number) in [("-INT", 2), ("-TERM", 15)] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.jsonl");
        let mut child = run_into(folder.path()).spawn().unwrap();
        wait_for(&journal, 4, &mut child);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(128 + number), "{stderr}");
        assert!(stderr.contains("error: interrupted: ") && stderr.contains("hint: run the same command"), "{stderr}");
        assert!(!folder.path().join("report.json").exists(), "{stderr}");
        let bytes = fs_err::read(&journal).unwrap();
        assert!(bytes.ends_with(b"}\n") && records(&journal) >= 4);
        let done = records(&journal) - 2;
        assert!(stderr.contains(&format!("interrupted: {done} of ")), "{stderr}");
        let stderr = finish(&mut run_into(folder.path()));
        assert!(stderr.contains(&format!("continuing: {done} of ")), "{stderr}");
        assert_same(folder.path(), uninterrupted().0.path());
    }
}

#[test]
fn a_second_signal_ends_it_at_once_and_without_a_journal_the_first_does() {
    let folder = tempfile::tempdir().unwrap();
    // One slice takes longer than both signals.
    let arguments = ["--slice-tokens", "100000000", "--limit", "200", "--chunk-tokens", "8"];
    let mut slow = compare(&demo(), &arguments);
    slow.args(["--output-dir"]).arg(folder.path());
    let mut child = slow.spawn().unwrap();
    wait_for(&folder.path().join("journal.jsonl"), 1, &mut child);
    signal(&child, "-INT");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "-INT");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(records(&folder.path().join("journal.jsonl")), 1);

    let child = compare(&demo(), &arguments).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "-INT");
    let status = child.wait_with_output().unwrap().status;
    assert_eq!(status.signal(), Some(2), "{status}");
}

#[test]
fn a_run_that_is_done_computes_nothing_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(uninterrupted().0.path(), folder.path());
    fs_err::remove_file(folder.path().join("report.json")).unwrap();
    let stderr = finish(&mut run_into(folder.path()));
    assert!(stderr.contains("nothing is left to compute"), "{stderr}");
    assert_same(folder.path(), uninterrupted().0.path());
}

#[test]
fn another_run_is_refused_and_its_difference_named() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(uninterrupted().0.path(), folder.path());
    let before = fs_err::read(folder.path().join("journal.jsonl")).unwrap();
    let into = |further: &[&str]| {
        let mut command = compare(&demo(), further);
        command.arg("--output-dir").arg(folder.path());
        command
    };
    for (further, difference) in [
        (&["--dtype", "f64"][..], "dtype is f32, now f64"),
        (&["--strategy", "zeroth"], "models is baseline, mean, fold, noise floor, now baseline, mean, fold, zeroth"),
        (&["--max-length", "30"], "max_length is "),
    ] {
        let error = fail(&mut into(further));
        assert!(error.contains("the journal belongs to a different run: ") && error.contains(difference), "{error}");
        assert!(error.contains("hint: give another --output-dir, or --restart"), "{error}");
        assert_eq!(fs_err::read(folder.path().join("journal.jsonl")).unwrap(), before);
    }
    // Devices, threads and slices are no difference.
    finish(&mut into(&["--memory-budget", "1GiB"]));
    finish(&mut into(&["--dtype", "f64", "--restart"]));
    assert!(fail(&mut into(&[])).contains("dtype is f64, now f32"));
}

#[test]
fn a_checkpoint_that_was_moved_is_the_same_and_one_that_was_changed_is_not() {
    let (folder, source) = (tempfile::tempdir().unwrap(), CopiedDemo::new());
    let into = || {
        let mut command = compare(&source.path(), &[]);
        command.arg("--output-dir").arg(folder.path());
        command
    };
    let mut child = into().spawn().unwrap();
    wait_for(&folder.path().join("journal.jsonl"), 6, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    // Touched: other times, the same bytes.
    let step = source.path().join("global_step1600");
    let file = step.join("layer_03-model_01-model_states.pt");
    let bytes = fs_err::read(&file).unwrap();
    fs_err::remove_file(&file).unwrap();
    fs_err::write(&file, &bytes).unwrap();
    common::edit_layer_file(&step.join("layer_04-model_00-model_states.pt"), |_| {});
    let error = fail(&mut into());
    assert!(error.contains("the journal belongs to a different run: layer_04-model_00-model_states.pt is "), "{error}");
    fs_err::copy(demo().join("global_step1600/layer_04-model_00-model_states.pt"), step.join("copy")).unwrap();
    fs_err::rename(step.join("copy"), step.join("layer_04-model_00-model_states.pt")).unwrap();
    let stderr = finish(&mut into());
    assert!(stderr.contains("continuing: "), "{stderr}");
    assert_eq!(runs::files(folder.path()), runs::files(uninterrupted().0.path()));
}

#[test]
fn torn_records_are_dropped_and_damaged_ones_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.jsonl");
    let whole = fs_err::read(uninterrupted().0.path().join("journal.jsonl")).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|&byte| byte == b'\n').collect();
    let five = lines[..5].concat();
    fs_err::write(&journal, &whole[..five.len() + lines[5].len() / 2]).unwrap();
    let stderr = finish(&mut run_into(folder.path()));
    assert!(stderr.contains("the last record was not finished and is dropped"), "{stderr}");
    assert!(stderr.contains("continuing: 3 of "), "{stderr}");
    assert_same(folder.path(), uninterrupted().0.path());

    let mut damaged = whole.clone();
    damaged[five.len() - 20] ^= 1;
    fs_err::write(&journal, &damaged).unwrap();
    let error = fail(&mut run_into(folder.path()));
    assert!(error.contains("record 5 is damaged") && error.contains("--restart"), "{error}");
    assert!(fs_err::read(&journal).unwrap() == damaged);
    fs_err::write(&journal, "no journal\nat all\n").unwrap();
    assert!(fail(&mut run_into(folder.path())).contains("record 1 is damaged"));
}

#[test]
fn two_runs_do_not_share_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = run_into(folder.path()).spawn().unwrap();
    wait_for(&folder.path().join("journal.jsonl"), 1, &mut child);
    let error = fail(&mut run_into(folder.path()));
    assert!(error.contains("another run is writing to this journal"), "{error}");
    assert!(child.wait_with_output().unwrap().status.success());
    assert_same(folder.path(), uninterrupted().0.path());
}

#[test]
fn a_full_disk_loses_nothing_that_was_finished() {
    let Some(disk) = SmallDisk::mount(100 << 10) else { return };
    let journal = disk.path().join("out/journal.jsonl");
    let error = fail(&mut run_into(&disk.path().join("out")));
    assert!(error.contains("could not write the journal") && error.contains("No space left"), "{error}");
    assert!(error.contains("hint: free some space"), "{error}");
    let done = records(&journal);
    assert!(done > 2 && fs_err::read(&journal).unwrap().ends_with(b"\n"), "{done} records");
    // Still too little.
    assert!(fail(&mut run_into(&disk.path().join("out"))).contains("No space left"));
    assert_eq!(records(&journal), done);
    assert!(disk.grow(50 << 20));
    let stderr = finish(&mut run_into(&disk.path().join("out")));
    assert!(stderr.contains(&format!("continuing: {} of ", done - 2)), "{stderr}");
    assert_same(&disk.path().join("out"), uninterrupted().0.path());
}

#[test]
fn a_journal_that_may_not_be_written_is_an_error_before_anything_is_computed() {
    let Some(disk) = SmallDisk::mount(50 << 20) else { return };
    let out = disk.path().join("out");
    copy_folder(uninterrupted().0.path(), &out);
    assert!(disk.read_only());
    let error = fail(&mut run_into(&out));
    assert!(error.contains("not writable"), "{error}");
}

#[test]
fn a_file_that_vanishes_or_changes_ends_the_run_with_its_slices_kept() {
    let (folder, source) = (tempfile::tempdir().unwrap(), CopiedDemo::new());
    let into = || {
        let mut command = compare(&source.path(), &[]);
        command.arg("--output-dir").arg(folder.path());
        command
    };
    let file: PathBuf = source.path().join("global_step1600/layer_05-model_00-model_states.pt");
    let (aside, journal) = (source.path().join("aside"), folder.path().join("journal.jsonl"));
    let mut child = into().spawn().unwrap();
    wait_for(&journal, 5, &mut child);
    fs_err::rename(&file, &aside).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("layer_05-model_00-model_states.pt"), "{stderr}");
    let done = records(&journal);
    fs_err::rename(&aside, &file).unwrap();
    let stderr = finish(&mut into());
    assert!(stderr.contains(&format!("continuing: {} of ", done - 2)), "{stderr}");
    assert_eq!(runs::files(folder.path()), runs::files(uninterrupted().0.path()));
}
