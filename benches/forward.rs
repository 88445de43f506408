//! Tokens per second of one transformer layer of the 70m shape, two ranks, beside the matrix-product rate of one thread at
//! its sizes: what the layer could reach. Run with `cargo bench --bench forward`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kintsugi::checkpoint::{Checkpoint, ModelSource as _};
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::model::{Backend, Chunk, Group, LayerStage, RotaryTable, Streams, Uploader};
use kintsugi::partition::StageId;
use tch::{Device, Kind, Tensor};

/// Passages of one length in a chunk, and their length.
const PASSAGES: (i64, i64) = (8, 64);

fn forward(criterion: &mut Criterion) {
    tch::set_num_threads(1);
    let _no_grad = tch::no_grad_guard();
    let (Some(shape), Ok(folder)) = (Shape::named("70m"), tempfile::tempdir()) else { return };
    let hidden = i64::try_from(shape.hidden_size).unwrap_or(i64::MAX);
    let options = SynthOptions { tp_size: 2, drift: 0.01, ..SynthOptions::new(shape) };
    let Ok(checkpoint) = write_checkpoint(&options, folder.path())
        .map_err(drop)
        .and_then(|step| Checkpoint::open(&step, &[]).map_err(drop))
    else {
        return;
    };
    let Ok(stage) = checkpoint.read_stage(StageId::Layer(0)) else { return };
    let (passages, length) = PASSAGES;
    let tokens = passages * length;
    let mut group = criterion.benchmark_group("layer of the 70m shape, one thread");
    for (name, kind) in [("f32", Kind::Float), ("bf16", Kind::BFloat16)] {
        let backend = Backend { device: Device::Cpu, kind };
        let (Ok(layer), Ok(rotary)) = (
            LayerStage::new(&stage, checkpoint.architecture(), &mut Uploader::new(backend)),
            RotaryTable::new(checkpoint.architecture(), backend, usize::try_from(length).unwrap_or(0)),
        ) else {
            return;
        };
        let positions = Tensor::arange(length, (Kind::Int64, Device::Cpu)).repeat([passages]);
        let chunk = Chunk { start: 0, tokens, groups: vec![Group { start: 0, passages, length }], positions };
        let mut streams = Streams::new(vec![Tensor::randn([tokens, hidden], (kind, Device::Cpu))]);
        group.throughput(Throughput::Elements(tokens.unsigned_abs()));
        group.bench_function(BenchmarkId::new("layer", name), |bencher| {
            bencher.iter(|| black_box(layer.forward(&mut streams, &chunk, rotary.as_ref(), None).is_ok()));
        });
        // Its four products: 12 hidden² multiplications and additions a token.
        let x = Tensor::randn([tokens, hidden], (kind, Device::Cpu));
        let inner = Tensor::randn([tokens, 4 * hidden], (kind, Device::Cpu));
        let weight = |rows: i64, columns: i64| Tensor::randn([rows, columns], (kind, Device::Cpu));
        let products =
            [(&x, weight(3 * hidden, hidden)), (&x, weight(hidden, hidden)), (&x, weight(4 * hidden, hidden))];
        let last = weight(hidden, 4 * hidden);
        group.bench_function(BenchmarkId::new("its matrix products alone", name), |bencher| {
            bencher.iter(|| {
                for (x, weight) in products.iter().chain([&(&inner, last.shallow_clone())]) {
                    let _ = black_box(x.linear(weight, None::<&Tensor>));
                }
            });
        });
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
