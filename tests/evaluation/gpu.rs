//! What callers from Rust find on a GPU. `make test-cuda-host` runs these on a fake one, whose numbers mean nothing.

use crate::common::TinyModel;
use crate::common::evaluation::{evaluate, passages, variants};
use kintsugi::eval::{EngineOptions, Quiet};
use kintsugi::model::{Backend, free_device_memory, gpu_memory};

/// Not through a choice of devices, and with a budget for which no GPU is asked.
#[test]
#[ignore = "needs a GPU"]
fn an_evaluation_loads_what_it_needs_and_can_be_repeated() {
    let source = TinyModel::new().write();
    let checkpoint = source.open();
    let backend = Backend { device: tch::Device::Cuda(0), kind: tch::Kind::Half };
    let options = EngineOptions { memory_budget: Some(1 << 20), ..EngineOptions::on(vec![backend]) };
    let pairs: Vec<_> =
        (0..20).map(|seed| ((0..8 + seed % 5).map(|at| (seed + at) % 120).collect(), vec![seed])).collect();
    let run = |options: &EngineOptions| {
        let found = evaluate(&checkpoint, &variants(&["mean", "fold"]), passages(&pairs, 64), options, &Quiet).unwrap();
        (found.scores.len(), found.slice_count)
    };
    assert_eq!(run(&options).0, 3);
    // The memory that libtorch keeps for the next evaluation is not used: both make the same plan.
    let options = EngineOptions::on(vec![backend]);
    let free = free_device_memory(0).unwrap();
    let first = run(&options);
    assert_eq!((run(&options), free_device_memory(0)), (first, Some(free)));
    let memory = gpu_memory(0).unwrap();
    assert!(memory.free <= free && free <= memory.total, "{memory}");
}
