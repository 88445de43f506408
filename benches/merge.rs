//! Bytes per second of reading, joining, reducing and folding one transformer layer, on a synthetic checkpoint in a
//! temporary folder. Run with `cargo bench --bench merge`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kintsugi::checkpoint::{Checkpoint, ModelSource as _};
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::StageId;

fn layer(criterion: &mut Criterion) {
    let (Some(shape), Ok(folder)) = (Shape::named("70m"), tempfile::tempdir()) else { return };
    let options = SynthOptions { tp_size: 2, drift: 0.01, ..SynthOptions::new(shape) };
    let Ok(checkpoint) = write_checkpoint(&options, folder.path())
        .map_err(drop)
        .and_then(|step| Checkpoint::open(&step, &[]).map_err(drop))
    else {
        return;
    };
    let id = StageId::Layer(0);
    let Ok(stage) = checkpoint.read_stage(id) else { return };
    let mut group = criterion.benchmark_group("layer of the 70m shape");
    group.throughput(Throughput::Bytes(checkpoint.stage_bytes(id)));
    group.bench_function("read and join", |bencher| bencher.iter(|| black_box(checkpoint.read_stage(id).is_ok())));
    for name in ["mean", "fold"] {
        let Ok(strategy) = Strategy::resolve(name) else { continue };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut merger = StageMerger::new(&stage, checkpoint.architecture());
                black_box(merger.merge(&strategy, &mut Exactness::default()).is_ok())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, layer);
criterion_main!(benches);
