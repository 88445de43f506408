//! Bytes per second of what `merge` is made of: reading shards, joining them, writing files, and the whole. On a synthetic
//! checkpoint in a temporary folder. Run with `cargo bench --bench export`; folding is in `merge`.

use std::error::Error;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kintsugi::checkpoint::{Checkpoint, ModelSource as _, Reading};
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::export::{Format, MergeChoice, MergeJob, Record, save_tensors};
use kintsugi::merge::Strategy;
use kintsugi::partition::{PartitionTable, Role, StageId, join};

fn export(criterion: &mut Criterion) {
    if let Err(error) = run(criterion) {
        tracing::error!("{error}");
    }
}

fn run(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let shape = Shape::named("70m").ok_or("no shape 70m")?;
    let options = SynthOptions { tp_size: 2, drift: 0.01, ..SynthOptions::new(shape) };
    let checkpoint = Checkpoint::open(&write_checkpoint(&options, folder.path())?, &[])?;
    let roles = [Role::MlpInputWeight, Role::MlpOutputWeight];
    let layer = checkpoint.open_stage(StageId::Layer(0), &roles, &Reading::default())?;

    let mut group = criterion.benchmark_group("a matrix of the 70m shape");
    for (name, role) in [("column-parallel", Role::MlpInputWeight), ("row-parallel", Role::MlpOutputWeight)] {
        let shards = layer.read_shards(role)?;
        let bytes = shards.iter().map(|shard| shard.bytes().len() as u64).sum();
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(format!("read {name}"), |b| b.iter(|| black_box(layer.read_shards(role).is_ok())));
        let partition = PartitionTable::new(checkpoint.architecture()).partition(role).ok_or("not partitioned")?;
        group.bench_function(format!("join {name}"), |b| b.iter(|| black_box(join(&partition, &shards).is_ok())));
        let joined = join(&partition, &shards)?;
        let path = folder.path().join("matrix.pt");
        group.bench_function(format!("write {name}"), |b| {
            b.iter(|| black_box(save_tensors(&path, [(name, &joined)]).is_ok()));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("merge of the 70m shape");
    group.sample_size(10).throughput(Throughput::Bytes(checkpoint.size().1));
    let record = Record::default();
    for name in ["reduce-aware", "fold"] {
        let strategy = Strategy::resolve(name)?;
        let formats = [
            ("for gpt-neox", Format::Neox { tp_size: 1 }),
            ("for four ranks", Format::Neox { tp_size: 4 }),
            ("for transformers", Format::HuggingFace { max_shard_bytes: 1 << 30 }),
        ];
        for (words, format) in formats {
            let job = MergeJob {
                source: &checkpoint,
                choice: MergeChoice {
                    strategy: &strategy,
                    dtype: None,
                    vocab_size: None,
                    vocab_multiple: None,
                    calibrated: false,
                },
                format,
                drift: None,
                tokenizer: None,
                directory: &folder.path().join("merged"),
                overwrite: true,
                memory_budget: 512 << 20,
                record: &record,
            };
            group.bench_function(format!("{name} {words}"), |b| b.iter(|| black_box(job.run(None, &()).is_ok())));
        }
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, export);
criterion_main!(benches);
