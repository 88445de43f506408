//! What `merge` writes is, bit for bit, what the evaluation merges, and a model survives any change of its ranks.

use crate::common::merging::Merge;
use crate::common::{TinyModel, read_tensors};
use kintsugi::checkpoint::{Checkpoint, HuggingFaceModel, Layout, ModelSource, OpenOptions, TorchFile};
use kintsugi::config::{Activation, Norm, OutputLayerParallelism, PositionEmbedding, QuirkOptions};
use kintsugi::export::synth::SynthOptions;
use kintsugi::merge::{Exactness, StageMerger, Strategy};
use kintsugi::partition::{ParamValue, StageTensors};
use kintsugi::tensor::DType;

/// Models that exercise every way of reading, folding and dividing, all with replicas that drifted.
fn models() -> Vec<(&'static str, TinyModel)> {
    let model = |change: fn(&mut SynthOptions)| TinyModel::new().with(|options| options.drift = 0.02).with(change);
    vec![
        ("parallel", model(|_| ())),
        ("float16 under old names", model(|o| (o.dtype, o.legacy_names) = (DType::F16, true))),
        ("one file per rank", model(|o| o.layout = Layout::RankFiles)),
        ("sequential and tied", model(|o| (o.gpt_j_residual, o.tied_embeddings) = (false, true))),
        ("parallel and tied", model(|o| o.tied_embeddings = true)),
        ("row-parallel head", model(|o| o.head = OutputLayerParallelism::Row)),
        ("four ranks in bfloat16", model(|o| (o.tp_size, o.dtype) = (4, DType::BF16))),
        (
            "llama-like with grouped queries",
            model(|o| {
                (o.norm, o.activation, o.gpt_j_residual) = (Norm::RmsNorm, Activation::SwiGlu, false);
                (o.attention_bias, o.mlp_bias, o.rotary_pct) = (false, false, 1.0);
                o.shape.kv_head_count = Some(4);
            }),
        ),
        (
            "geglu with learned positions",
            model(|o| {
                (o.activation, o.positions, o.gpt_j_residual) = (Activation::GeGlu, PositionEmbedding::Learned, false);
            }),
        ),
        ("alibi with a tied norm", model(|o| (o.positions, o.gpt_j_tied) = (PositionEmbedding::Alibi, true))),
        ("relative biases", model(|o| o.positions = PositionEmbedding::RelativeBuckets)),
        ("scalenorm", model(|o| o.norm = Norm::ScaleNorm)),
        ("no norm parameters", model(|o| o.norm = Norm::NonParametricLayerNorm)),
    ]
}

fn merged(checkpoint: &Checkpoint, strategy: &Strategy) -> (Vec<StageTensors>, Exactness) {
    let mut exactness = Exactness::default();
    let merge = |id| {
        let stage = checkpoint.read_stage(id).unwrap();
        StageMerger::new(&stage, checkpoint.architecture()).merge(strategy, &mut exactness).unwrap()
    };
    (checkpoint.stage_ids().into_iter().map(merge).collect(), exactness)
}

fn assert_same_stage(expected: &StageTensors, found: &StageTensors, context: &str) {
    assert_eq!(expected.params.keys().collect::<Vec<_>>(), found.params.keys().collect::<Vec<_>>(), "{context}");
    for (role, param) in &expected.params {
        let [expected] = param.value.tensors() else { panic!("{context}: {role:?} has replicas") };
        let [found] = found.params[role].value.tensors() else { panic!("{context}: {role:?} has replicas") };
        assert!(expected.same_bits(found), "{context}: {} {role:?}", found.shape().len());
    }
}

#[test]
fn what_is_written_is_what_is_evaluated() {
    for (name, model) in models() {
        let source = model.write();
        let checkpoint = source.open();
        for strategy in Strategy::built_in().unwrap() {
            let folder = tempfile::tempdir().unwrap();
            let (expected, exactness) = merged(&checkpoint, &strategy);
            let merge = Merge { strategy: strategy.clone(), ..Merge::by("mean") };
            let directory = folder.path().join("merged");
            let summary = merge.write(&checkpoint, &directory).unwrap();
            assert_eq!(summary.exactness.because(), exactness.because(), "{name}, {}", strategy.name);
            let written = Checkpoint::open(&directory, &[]).unwrap();
            assert_eq!((written.tp_size(), written.layout()), (1, checkpoint.layout()));
            for expected in expected {
                let found = written.read_stage(expected.id).unwrap();
                assert_same_stage(&expected, &found, &format!("{name}, {}, {}", strategy.name, expected.id));
            }
        }
    }
}

#[test]
fn any_number_of_ranks_merges_to_the_same_model() {
    for (name, model) in models() {
        let source = model.write();
        let checkpoint = source.open();
        let strategy = Strategy::resolve("fold").unwrap();
        let (expected, _) = merged(&checkpoint, &strategy);
        for tp_size in [2, 4] {
            let folder = tempfile::tempdir().unwrap();
            let divided = Merge::by("fold").ranks(tp_size).reopen(&checkpoint, &folder.path().join("divided"));
            assert_eq!(divided.tp_size(), tp_size);
            let (found, exactness) = merged(&divided, &strategy);
            assert!(exactness.is_exact(), "{name}: equal replicas lose nothing: {:?}", exactness.because());
            for (expected, found) in expected.iter().zip(&found) {
                assert_same_stage(expected, found, &format!("{name}, {tp_size} ranks, {}", expected.id));
            }
        }
    }
}

#[test]
fn there_and_back_again_is_the_same_files() {
    for layout in [Layout::LayerFiles, Layout::RankFiles] {
        for from in [1, 2, 4] {
            let source = TinyModel::new()
                .with(|options| (options.tp_size, options.layout, options.dtype) = (from, layout, DType::F16))
                .write();
            for to in [1, 2, 4] {
                let folder = tempfile::tempdir().unwrap();
                let there = Merge::by("reduce-aware").ranks(to).reopen(&source.open(), &folder.path().join("there"));
                let back = Merge::by("reduce-aware").ranks(from).reopen(&there, &folder.path().join("back"));
                let names: Vec<_> = source.open().weight_files();
                assert_eq!(names.len(), back.weight_files().len());
                for path in names {
                    let other = back.folder().join(path.file_name().unwrap());
                    match layout {
                        Layout::LayerFiles => {
                            let (expected, found) = (read_tensors(&path), read_tensors(&other));
                            assert!(expected.keys().eq(found.keys()));
                            for (name, tensor) in expected {
                                assert!(
                                    tensor.same_bits(&found[&name]),
                                    "{from} to {to}: {name} of {}",
                                    other.display()
                                );
                            }
                        }
                        Layout::RankFiles => {
                            let [expected, found] =
                                [&path, &other].map(|path| TorchFile::open_key(path, "module").unwrap());
                            assert!(expected.forms().unwrap().keys().eq(found.forms().unwrap().keys()));
                            for name in expected.forms().unwrap().keys() {
                                let same = expected.read(name).unwrap().same_bits(&found.read(name).unwrap());
                                assert!(same, "{from} to {to}: {name} of {}", other.display());
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_wider_type_loses_nothing_and_rounds_no_fold() {
    let source = TinyModel::new().with(|options| (options.drift, options.dtype) = (0.02, DType::F16)).write();
    let checkpoint = source.open();
    let folder = tempfile::tempdir().unwrap();
    let wide = Merge { dtype: Some(DType::F32), ..Merge::by("fold") };
    let wide = wide.reopen(&checkpoint, &folder.path().join("wide"));
    assert_eq!((wide.dtype(), wide.config().precision.as_str()), (DType::F32, "fp32"));
    let narrow = Merge::by("fold").reopen(&checkpoint, &folder.path().join("narrow"));
    assert_eq!((narrow.dtype(), narrow.config().precision.as_str()), (DType::F16, "fp16"));
    let mut differ = 0;
    for id in checkpoint.stage_ids() {
        let (wide, narrow) = (wide.read_stage(id).unwrap(), narrow.read_stage(id).unwrap());
        for (role, param) in &wide.params {
            let (tensor, other) = (&param.value.tensors()[0], &narrow.params[role].value.tensors()[0]);
            let joined = matches!(param.value, ParamValue::Joined(_));
            differ += usize::from(!tensor.cast(DType::F16).unwrap().cast(DType::F32).unwrap().same_bits(tensor));
            assert!(!joined || tensor.shape() == other.shape());
        }
    }
    assert!(differ > 0, "folded weights hold more than float16 can");
}

/// What a source was taken for, and the order of grouped queries, is in the files: nobody has to say it again.
#[test]
fn what_is_written_is_understood_without_options() {
    let llama = |o: &mut SynthOptions| {
        (o.norm, o.activation, o.gpt_j_residual) = (Norm::RmsNorm, Activation::SwiGlu, false);
        (o.attention_bias, o.mlp_bias, o.rotary_pct) = (false, false, 1.0);
        o.shape.kv_head_count = Some(4);
    };
    let source = TinyModel::new().with(llama).write();
    let checkpoint = source.open();
    let grouped = |checkpoint: &Checkpoint| checkpoint.warnings().iter().any(|line| line.starts_with("num_kv_heads"));
    assert!(grouped(&checkpoint), "{:?}", checkpoint.warnings());
    let folder = tempfile::tempdir().unwrap();
    let hugging_face = folder.path().join("hf");
    Merge::by("fold").hf(u64::MAX).write(&checkpoint, &hugging_face).unwrap();
    let sources: [&dyn ModelSource; 2] = [&checkpoint, &HuggingFaceModel::open(&hugging_face).unwrap()];
    for (number, source) in sources.into_iter().enumerate() {
        let written = Merge::by("fold").ranks(2).reopen(source, &folder.path().join(number.to_string()));
        assert!(!grouped(&written), "{:?}", written.warnings());
    }

    for layout in [Layout::LayerFiles, Layout::RankFiles] {
        let source = TinyModel::new().with(|options| options.layout = layout).write();
        let era = QuirkOptions { era: Some("branch-2021".parse().unwrap()), settings: Vec::new() };
        let old = Checkpoint::open_with(source.path(), &OpenOptions { quirks: era, ..OpenOptions::default() }).unwrap();
        assert_ne!(old.architecture(), source.open().architecture());
        let folder = tempfile::tempdir().unwrap();
        let written = Merge::by("reduce-aware").reopen(&old, &folder.path().join("once"));
        assert_eq!(written.architecture(), old.architecture());
        let again = Merge::by("reduce-aware").reopen(&written, &folder.path().join("twice"));
        assert_eq!(again.architecture(), old.architecture());
        let why = again.quirks().list().into_iter().find(|line| line.name == "reduction").unwrap().why;
        assert_eq!(why, "from the files: kintsugi merge wrote them so");
    }
}

#[test]
fn padding_is_kept_or_trimmed() {
    let source = TinyModel::new().with(|options| options.head = OutputLayerParallelism::Row).write();
    let checkpoint = source.open();
    let folder = tempfile::tempdir().unwrap();
    let kept = Merge::by("mean").ranks(4).reopen(&checkpoint, &folder.path().join("kept"));
    let args = &kept.client().args;
    assert_eq!((args.padded_vocab_size, args.make_vocab_size_divisible_by), (Some(128), Some(8)));
    let trimmed = Merge { vocab_size: Some(120), ..Merge::by("mean").ranks(2) };
    let trimmed = trimmed.reopen(&checkpoint, &folder.path().join("trimmed"));
    let args = &trimmed.client().args;
    assert_eq!((args.padded_vocab_size, args.make_vocab_size_divisible_by), (Some(120), Some(60)));
    assert_eq!(trimmed.config().padded_vocab_size(Some(args)), Some(120));
    for id in [trimmed.stage_ids()[0], *trimmed.stage_ids().last().unwrap()] {
        for (role, param) in trimmed.read_stage(id).unwrap().params {
            let whole = checkpoint.read_stage(id).unwrap();
            let (found, whole) = (param.value.tensors()[0].clone(), &whole.params[&role].value.tensors()[0]);
            assert_eq!(found.bytes(), &whole.bytes()[..found.bytes().len()], "{role:?}");
        }
    }
}
