//! Synthetic checkpoints through the reader: every combination of settings opens and reads in full, and the model does
//! not depend on the number of ranks.

use std::collections::BTreeMap;

use crate::common::{
    TinyCheckpoint, TinyModel, delete, edit_layer_file, edit_rank_file, flip_byte, replace_tensor, set_element,
    truncate_half,
};
use kintsugi::checkpoint::{Checkpoint, Layout, ModelSource as _, TorchFile};
use kintsugi::config::{Activation, Head, Norm, OutputLayerParallelism, PositionEmbedding, QkvLayout};
use kintsugi::export::ExportError;
use kintsugi::export::synth::{Shape, SynthOptions, write_checkpoint};
use kintsugi::partition::{Kind, ParamValue, PartitionTable, Role, StageId, StageTensors, split};
use kintsugi::tensor::{Arithmetic, DType, HostTensor, sum};
use proptest::prelude::*;

fn stages(checkpoint: &Checkpoint) -> Vec<StageTensors> {
    checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap()).collect()
}

/// The joined tensors, and the replicas of rank 0 but for row-parallel biases, which depend on the number of ranks.
fn model(stages: &[StageTensors]) -> BTreeMap<(StageId, Role), HostTensor> {
    let mut tensors = BTreeMap::new();
    for stage in stages {
        for (&role, param) in stage.params.iter().filter(|(_, param)| param.kind != Kind::RowParallelBias) {
            tensors.insert((stage.id, role), param.value.tensors()[0].clone());
        }
    }
    tensors
}

fn assert_same(left: &BTreeMap<(StageId, Role), HostTensor>, right: &BTreeMap<(StageId, Role), HostTensor>) {
    assert_eq!(left.len(), right.len());
    for (key, tensor) in left {
        assert!(tensor.same_bits(&right[key]), "{key:?}");
    }
}

fn options() -> impl Strategy<Value = SynthOptions> {
    let activations = [Activation::Gelu, Activation::SwiGlu, Activation::GeGlu, Activation::Silu];
    let positions = [PositionEmbedding::Rotary, PositionEmbedding::Learned, PositionEmbedding::Absent];
    (
        (0..4_u32, any::<[bool; 9]>(), any::<u64>(), prop::sample::select(vec![DType::F16, DType::BF16, DType::F32])),
        (prop::sample::select(activations.to_vec()), prop::sample::select(positions.to_vec())),
        prop::sample::select(vec![None, Some(96), Some(160)]),
    )
        .prop_map(|((power, flags, seed, dtype), (activation, positions), mlp_inner_size)| {
            let [files, old, parallel, tied, tied_norm, rms, row, bias, few_heads] = flags;
            let mut options = TinyModel::new().options;
            options.tp_size = 1 << power;
            options.shape.mlp_inner_size = mlp_inner_size;
            // With the old names grouped queries mean the layout of their time, which is another model.
            options.shape.kv_head_count = (few_heads && power < 3 && !old).then_some(4);
            SynthOptions {
                dtype,
                seed,
                drift: if bias { 0.05 } else { 0.0 },
                layout: if files { Layout::LayerFiles } else { Layout::RankFiles },
                legacy_names: old,
                gpt_j_residual: parallel,
                gpt_j_tied: tied_norm,
                tied_embeddings: tied,
                head: if row { OutputLayerParallelism::Row } else { OutputLayerParallelism::Column },
                norm: if rms { Norm::RmsNorm } else { Norm::LayerNorm },
                activation,
                attention_bias: bias,
                mlp_bias: !bias || !parallel,
                positions,
                ..options
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_combination_is_read_in_full(options in options()) {
        let files = TinyModel { options: options.clone() }.write();
        let checkpoint = files.open();
        prop_assert_eq!(checkpoint.tp_size(), options.tp_size);
        prop_assert_eq!(checkpoint.layout(), options.layout);
        prop_assert_eq!(checkpoint.dtype(), options.dtype);
        prop_assert_eq!(checkpoint.architecture().mlp_inner_size, options.mlp_inner_size());
        let head = match (options.tied_embeddings, options.head) {
            (true, _) => Head::Tied,
            (false, OutputLayerParallelism::Column) => Head::Column,
            (false, OutputLayerParallelism::Row) => Head::Row,
        };
        prop_assert_eq!(checkpoint.architecture().head, head);
        prop_assert_eq!(checkpoint.client().iteration, Some(options.iteration));
        prop_assert_eq!(checkpoint.client().args.padded_vocab_size, Some(128));
        let table = PartitionTable::new(checkpoint.architecture());
        for stage in stages(&checkpoint) {
            for (&role, param) in &stage.params {
                match &param.value {
                    ParamValue::Replicas(replicas) => {
                        prop_assert_eq!(replicas.len(), options.tp_size);
                        let agree = options.drift == 0.0 || options.tp_size == 1;
                        prop_assert_eq!(param.value.ranks_agree(), agree, "{:?}", role);
                    }
                    ParamValue::Joined(joined) => {
                        // What the files hold is what splitting the joined tensor gives.
                        let shards = split(&table.partition(role).unwrap(), joined, options.tp_size).unwrap();
                        if options.layout == Layout::LayerFiles && let StageId::Layer(number) = stage.id {
                            for (tp_rank, shard) in shards.iter().enumerate() {
                                let file = TorchFile::open(&files.layer_file(number + 2, tp_rank)).unwrap();
                                prop_assert!(file.read(&param.name).unwrap().same_bits(shard), "{:?}", role);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_model_does_not_depend_on_ranks_files_or_names(options in options()) {
        let options = SynthOptions { drift: 0.0, ..options };
        let one_rank = SynthOptions { tp_size: 1, layout: Layout::RankFiles, legacy_names: false, ..options.clone() };
        let model_of = |options| model(&stages(&TinyModel { options }.write().open()));
        assert_same(&model_of(options), &model_of(one_rank));
    }
}

#[test]
fn row_parallel_biases_add_up_to_those_of_one_rank() {
    let biases = |tp_size: usize, gpt_j_residual: bool| {
        let tiny =
            TinyModel::new().with(|options| (options.tp_size, options.gpt_j_residual) = (tp_size, gpt_j_residual));
        let stage = tiny.write().open().read_stage(StageId::Layer(1)).unwrap();
        stage.replicas(Role::AttentionOutputBias).to_vec()
    };
    let sequential = biases(1, false);
    assert!(biases(4, false).iter().all(|replica| replica.same_bits(&sequential[0])));
    let shares = biases(4, true);
    let total = sum(&shares.iter().collect::<Vec<_>>(), Arithmetic::Float64).unwrap();
    assert!(total.same_bits(&biases(1, true)[0]));
    assert!(total.to_f64().unwrap().iter().any(|value| value.abs() > 0.05), "a wrong merge must show");
}

#[test]
fn weights_have_the_size_of_trained_ones() {
    let stage = TinyModel::new().write().open().read_stage(StageId::Layer(0)).unwrap();
    let moments = |role: Role| {
        let values = stage.get(role).unwrap().value.tensors()[0].to_f64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt())
    };
    let near = |(mean, deviation): (f64, f64), expected_mean: f64, expected: f64, tolerance: f64| {
        assert!((mean - expected_mean).abs() < tolerance * expected, "{mean}");
        assert!((deviation / expected - 1.0).abs() < tolerance, "{deviation}");
    };
    near(moments(Role::MlpInputWeight), 0.0, 0.02, 0.03);
    near(moments(Role::MlpOutputWeight), 0.0, 0.01, 0.03);
    near(moments(Role::InputNormGain), 1.0, 0.05, 0.5);
    near(moments(Role::QkvBias), 0.0, 0.02, 0.3);
}

#[test]
fn drift_is_relative_and_each_rank_has_its_own() {
    let gains = |drift: f64| {
        let tiny = TinyModel::new().with(|options| (options.drift, options.tp_size) = (drift, 4));
        let stage = tiny.write().open().read_stage(StageId::Layer(0)).unwrap();
        stage.replicas(Role::InputNormGain).iter().map(|gain| gain.to_f64().unwrap()).collect::<Vec<_>>()
    };
    let (still, strayed) = (gains(0.0), gains(0.05));
    for (tp_rank, replica) in strayed.iter().enumerate() {
        assert!(strayed.iter().skip(tp_rank + 1).all(|other| other != replica));
        let noise: Vec<_> = replica.iter().zip(&still[0]).map(|(strayed, still)| strayed / still - 1.0).collect();
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let deviation = (noise.iter().map(|value| value * value).sum::<f64>() / noise.len() as f64).sqrt();
        assert!((0.03..0.07).contains(&deviation), "{deviation}");
    }
}

#[test]
fn seeds_make_different_models_and_the_same_seed_the_same_files() {
    let read = |seed: u64| {
        let files = TinyModel::new().with(|options| options.seed = seed).write();
        std::fs::read(files.layer_file(2, 1)).unwrap()
    };
    assert_eq!(read(1), read(1));
    assert_ne!(read(1), read(2));
}

#[test]
fn named_shapes_are_the_published_models() {
    let rows = |name: &str, tp_size: usize| {
        SynthOptions { tp_size, ..SynthOptions::new(Shape::named(name).unwrap()) }.padded_vocab_size()
    };
    assert_eq!((rows("20b", 1), rows("20b", 2), rows("12b", 4)), (50_304, 50_432, 50_688));
    assert_eq!(Shape::names().count(), 10);
    assert_eq!(Shape::named("13b"), None);

    let folder = tempfile::tempdir().unwrap();
    let options = SynthOptions { tp_size: 2, ..SynthOptions::new(Shape::named("14m").unwrap()) };
    write_checkpoint(&options, folder.path()).unwrap();
    let checkpoint = Checkpoint::open(folder.path(), &[]).unwrap();
    // Pythia-14m has 14067712 parameters with 50304 rows of vocabulary.
    assert_eq!(checkpoint.size().0, 14_067_712 + 2 * 128 * 128);
    assert_eq!(checkpoint.stage_ids().len(), 8);
    assert_eq!(checkpoint.architecture().qkv, QkvLayout::Interleaved);
}

#[test]
fn what_no_reader_would_accept_is_not_written() {
    let refused = |change: fn(&mut SynthOptions)| {
        let folder = tempfile::tempdir().unwrap();
        let options = TinyModel::new().with(change).options;
        let error = write_checkpoint(&options, folder.path()).unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{error}");
        error
    };
    assert!(matches!(refused(|options| options.tp_size = 0), ExportError::Setting { setting: "tp_size", .. }));
    assert!(matches!(refused(|options| options.drift = -1.0), ExportError::Setting { setting: "drift", .. }));
    assert!(matches!(refused(|options| options.dtype = DType::F64), ExportError::Setting { setting: "dtype", .. }));
    assert!(matches!(refused(|options| options.tp_size = 3), ExportError::Config(_)));
    let indivisible = refused(|options| options.shape.mlp_inner_size = Some(33));
    assert!(matches!(indivisible, ExportError::Partition { .. }) && indivisible.hint().is_some());

    let files = TinyModel::new().write();
    let again = write_checkpoint(&TinyModel::new().options, files.path()).unwrap_err();
    assert!(matches!(again, ExportError::Exists { .. }) && again.hint().is_some(), "{again}");
}

/// What the reader says of a damaged checkpoint.
fn complaint(files: &TinyCheckpoint) -> String {
    let checkpoint = match Checkpoint::open(files.path(), &[]) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return error.to_string(),
    };
    let error = checkpoint.stage_ids().into_iter().find_map(|id| checkpoint.read_stage(id).err());
    error.map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn damage_is_noticed() {
    type Damage = fn(&TinyCheckpoint);
    let cases: [(Damage, &str); 8] = [
        (|files| truncate_half(&files.layer_file(2, 1)), "cannot be read as a torch.save file"),
        (|files| delete(&files.layer_file(3, 1)), "missing: rank 1 of 2"),
        (
            |files| {
                delete(&files.layer_file(3, 0));
                delete(&files.layer_file(3, 1));
            },
            "expected 2 transformer layers, found 1",
        ),
        (
            |files| set_element(&files.layer_file(2, 0), "mlp.linear1.bias", 3, f64::NAN),
            "tensor `mlp.linear1.bias`: NaN or infinity at element 3",
        ),
        (
            |files| files.edit_config(|keys| keys["num_layers"] = 3.into()),
            "`num_layers` is 3, but the checkpoint was written with 2",
        ),
        (
            |files| {
                let wrong = HostTensor::from_f64(DType::F32, vec![3], &[0.0; 3]).unwrap();
                replace_tensor(&files.layer_file(2, 0), "mlp.linear2.bias", wrong);
            },
            "expected shape [64], found [3]",
        ),
        (
            |files| edit_layer_file(&files.layer_file(2, 1), |tensors| drop(tensors.remove("mlp.linear1.weight"))),
            "rank 1: missing tensor `mlp.linear1.weight`",
        ),
        (
            |files| {
                // The middle of this file lies inside a tensor.
                let path = files.layer_file(3, 0);
                let size = std::fs::read(&path).unwrap().len();
                flip_byte(&path, size / 2);
            },
            "tensor `mlp.linear1.weight`",
        ),
    ];
    for (damage, expected) in cases {
        let files = TinyModel::new().write();
        damage(&files);
        let message = complaint(&files);
        assert!(message.contains(expected), "expected `{expected}`, found `{message}`");
    }

    let files = TinyModel::new().with(|options| options.layout = Layout::RankFiles).write();
    assert_eq!(complaint(&files), "");
    edit_rank_file(&files.rank_file(1), |tensors| drop(tensors.remove("sequential.2.mlp.linear1.bias")));
    assert!(complaint(&files).ends_with("rank 1: missing tensor `mlp.linear1.bias`"));
}
