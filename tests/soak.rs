//! A long run: 200 compares of the bundled checkpoint in one process, with the same numbers every time and neither memory
//! nor descriptors that pile up. Opt-in (`make soak`): it takes minutes.
#![cfg(all(feature = "libtorch", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::time::Instant;

use common::evaluation::{demo, in_repository, options, passages};
use fs_err as fs;
use kintsugi::checkpoint::Checkpoint;
use kintsugi::eval::documents::read_documents;
use kintsugi::eval::task::Task;
use kintsugi::eval::tokenizer::Tokenizer;
use kintsugi::eval::{EngineOptions, Evaluation, Quiet, Variant, evaluate};
use kintsugi::merge::Strategy;

const COMPARES: usize = 200;
/// Allocators and thread pools have filled up by then.
const WARM: usize = 20;
/// Passages a compare: the overheads are what is tested.
const PASSAGES: usize = 12;
/// What resident memory may grow by afterwards: a leak of one stage (400 kB) a compare would be 70 MB.
const SLACK_BYTES: u64 = 16 << 20;

/// Everything that `kintsugi compare` does up to the scores, from files to numbers.
fn compare() -> Evaluation {
    let checkpoint = Checkpoint::open(&demo(), &[]).unwrap();
    let task = Task::resolve(in_repository("evals/demo/task.yml").to_str().unwrap()).unwrap();
    let data = read_documents(&in_repository("evals/demo/passages.jsonl"), &task, Some(PASSAGES)).unwrap();
    let tokenizer = Tokenizer::from_file(&in_repository("evals/demo/tokenizer.json")).unwrap();
    let pairs = tokenizer.encode_documents(&data.documents).unwrap();
    let mut variants = vec![Variant::baseline()];
    variants.extend(Strategy::built_in().unwrap().into_iter().map(Variant::merged));
    variants.push(Variant::noise_floor());
    let passages = passages(&pairs, checkpoint.architecture().longest_input());
    let options = EngineOptions { digests: true, ..options() };
    evaluate(&checkpoint, &variants, passages, &options, &Quiet).unwrap()
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
fn two_hundred_compares_leave_nothing_behind() {
    let clock = Instant::now();
    let first = compare();
    let mut warm = (0, 0, 0);
    for number in 2..=COMPARES {
        let next = compare();
        assert_eq!(next.scores, first.scores, "compare {number} gives other numbers");
        assert_eq!(next.digests, first.digests, "compare {number} read other files");
        let now = (resident_bytes(), descriptors(), threads());
        if number % WARM == 0 {
            let seconds = clock.elapsed().as_secs();
            eprintln!("{number:>4}: {:>4} kB, {} descriptors, {} threads, {seconds} s", now.0 / 1024, now.1, now.2);
        }
        if number == WARM {
            warm = now;
        }
        if number > WARM {
            assert!(now.0 <= warm.0 + SLACK_BYTES, "{} bytes after {WARM}, {} after {number}", warm.0, now.0);
            assert_eq!((now.1, now.2), (warm.1, warm.2), "descriptors and threads after {number}");
        }
    }
}
