//! A long run: consecutive compares of the bundled checkpoint in one process, with the same results every time and neither
//! memory nor descriptors that pile up. Opt-in (`make soak`): it takes minutes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use fs_err as fs;
use mimalloc::MiMalloc;
use serde_json::Value;

/// The program's own.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `KINTSUGI_SOAK` asks for another number.
const COMPARES: usize = 200;
/// Descriptors and thread pools are all there by then.
const WARM: usize = 20;
/// The allocator has kept as much by then as it ever keeps; how much that is goes up and down by some megabytes.
const SETTLED: usize = 60;
/// What resident memory may grow by beyond the most of the time before: a leak of one stage (400 kB) a compare would be
/// 56 MB in 200.
const SLACK_BYTES: u64 = 16 << 20;

fn demo(name: &str) -> OsString {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("evals/demo").join(name).into_os_string()
}

/// `kintsugi compare` of twelve passages from arguments to files: the overheads are what is tested.
fn compare() -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let words = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
    let arguments = [
        words("kintsugi --quiet compare --no-cache --device cpu --limit 12 --bootstrap-replicates 200 --task"),
        vec![demo("task.yml"), "--tokenizer".into(), demo("tokenizer.json"), "--data".into(), demo("passages.jsonl")],
        vec!["--output-dir".into(), folder.path().into(), demo("checkpoint")],
    ];
    assert_eq!(kintsugi::cli::run(arguments.concat()), ExitCode::SUCCESS);
    results(folder.path())
}

/// The numbers of a run: its samples byte by byte, and its report but for times and the name of its folder.
fn results(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let samples = fs::read_dir(folder.join("samples")).unwrap().map(|entry| entry.unwrap().path());
    let mut results: BTreeMap<_, _> =
        samples.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect();
    let mut report: Value = serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap();
    drop(report.as_object_mut().unwrap().remove("run").unwrap());
    results.insert("report.json".into(), report.to_string().into_bytes());
    results
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[ignore = "takes minutes: make soak"]
fn consecutive_compares_leave_nothing_behind() {
    let compares = std::env::var("KINTSUGI_SOAK").map_or(COMPARES, |number| number.parse().unwrap());
    let clock = Instant::now();
    let first = compare();
    assert!(first.len() > 6, "{:?}", first.keys());
    let (mut highest, mut warm) = (0, (0, 0));
    for number in 2..=compares {
        let next = compare();
        for (name, bytes) in &first {
            assert!(next.get(name) == Some(bytes), "compare {number}: {} is another", name.display());
        }
        assert_eq!(next.len(), first.len(), "compare {number}");
        let (bytes, now) = (resident_bytes(), (descriptors(), threads()));
        if number % WARM == 0 {
            let seconds = clock.elapsed().as_secs();
            eprintln!("{number:>4}: {:>4} kB, {} descriptors, {} threads, {seconds} s", bytes / 1024, now.0, now.1);
        }
        if number == WARM {
            warm = now;
        }
        if number > WARM {
            assert_eq!(now, warm, "descriptors and threads after {number}");
        }
        if number <= SETTLED {
            highest = bytes.max(highest);
        } else {
            assert!(bytes <= highest + SLACK_BYTES, "{highest} bytes until {SETTLED}, {bytes} after {number}");
        }
    }
}
