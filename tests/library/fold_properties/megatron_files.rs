//! Random models through files as Megatron-LM wrote them in every year: what is read is the model that was written, bit for
//! bit, and its libtorch logits are those of the plain loops.

use kintsugi::checkpoint::{DistributedCheckpoint, MegatronCheckpoint, ModelSource as _};
use kintsugi::config::{
    Activation, AttentionKind, EpsilonPlacement, MlpMatrices, Multipliers, Precision, QkvLayout, QueryKeyNorm,
    RotaryScaling,
};
use kintsugi::partition::{Kind, ParamValue};
use kintsugi::tensor::HostTensor;

use super::*;
use crate::common::megatron::distributed::{Contents, Division};
use crate::common::megatron::{Naming, Writing};

/// A model that Megatron of the time of these names could have trained, and how it is written.
#[derive(Debug, Clone)]
struct Written {
    design: Design,
    writing: Writing,
}

const LLAMA3: RotaryScaling =
    RotaryScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_positions: 8192 };

prop_compose! {
    fn written()(
        design in designs(),
        naming in select(Naming::ALL.to_vec()),
        version in select(vec![None, Some(1.0), Some(2.0), Some(3.0)]),
        dtype in select(DTYPES.to_vec()),
        (rms, positions, activation) in (any::<bool>(), 0..5_usize, 0..4_usize),
        (linear_bias, qkv_bias, tied, grouped, head_norms) in any::<(bool, bool, bool, bool, bool)>(),
        (window, zip, paired, zero_centred) in any::<(bool, bool, bool, bool)>(),
        (pipeline, virtual_stages, cuts) in (1..=3_usize, 1..=2_usize, any::<u64>()),
    ) -> Written {
        let core = !naming.is_legacy();
        let modern = core || naming == Naming::LateLegacy;
        let version = if modern { Some(3.0) } else { version };
        let mut a = design.architecture.clone();
        let original = a.clone();
        let rms = rms && modern;
        a.norm = if rms { Norm::RmsNorm } else { Norm::LayerNorm };
        (a.norm_epsilon, a.rms_epsilon) = (if modern { 1e-3 } else { 1e-5 }, EpsilonPlacement::Inside);
        if !modern {
            a.hidden_size = a.head_count * a.head_size;
        }
        if !(modern && grouped) {
            a.kv_head_count = a.head_count;
        }
        a.qkv = if a.kv_head_count == a.head_count { QkvLayout::Interleaved } else { QkvLayout::Blocks };
        let base = if core { 500.0 } else { 10_000.0 };
        a.positions = match positions {
            0 if modern => Positions::Absent,
            1 if modern => Positions::Rotary { dims: a.head_size, base, scaling: None },
            2 if modern => Positions::Rotary { dims: 2, base, scaling: None },
            3 if core => Positions::Rotary { dims: a.head_size, base, scaling: Some(LLAMA3) },
            _ => Positions::Learned { offset: 0 },
        };
        let linear_bias = linear_bias || !modern;
        (a.qkv_bias, a.attention_output_bias, a.mlp_bias) = (linear_bias || qkv_bias, linear_bias, linear_bias);
        (a.activation, a.tanh_gelu, a.onnx_gelu) = match activation {
            0 if modern => (Activation::SwiGlu, false, false),
            1 if modern => (Activation::SquaredRelu, false, false),
            2 if naming.is_legacy() => (Activation::Gelu, false, true),
            3 => (Activation::Gelu, linear_bias, false),
            _ => (Activation::Gelu, false, false),
        };
        a.gated = a.activation.is_gated();
        a.query_key_norm = (head_norms && core).then_some(QueryKeyNorm::PerHead);
        a.head = if tied || !modern { Head::Tied } else { Head::Column };
        let windowed = window && core;
        a.sliding_window = windowed.then_some(2);
        a.attention = vec![AttentionKind::Global; a.layer_count];
        if windowed {
            a.attention[0] = AttentionKind::Flash;
        }
        a.storage = match dtype {
            DType::F16 => Precision::Fp16,
            DType::BF16 => Precision::Bf16,
            _ => Precision::Fp32,
        };
        a.query_key_layer_scaling = false;
        a.multipliers = Multipliers::NONE;
        a.mlp_matrices = MlpMatrices::UpGate;
        (a.residual, a.mlp_input, a.attention_dropped) = (Residual::Sequential, MlpInput::OwnNorm, false);
        a.soft_prompt_length = 0;
        debug_assert_eq!(original.layer_count, a.layer_count);
        let paired_rotation = paired && core && matches!(a.positions, Positions::Rotary { .. });
        let mut writing = Writing {
            naming,
            version,
            zip,
            paired_rotation,
            zero_centred: zero_centred && modern,
            ..Writing::new(&a, design.tp_size)
        };
        if version.is_some_and(|version| version >= 2.0) {
            writing.pipeline_ranks = pipeline.min(a.layer_count);
            let virtual_stages = if writing.pipeline_ranks * virtual_stages <= a.layer_count { virtual_stages } else { 1 };
            writing.chunk_layers = cut(a.layer_count, writing.pipeline_ranks * virtual_stages, cuts);
        }
        Written { design: Design { architecture: a, dtype, ..design }, writing }
    }
}

/// So many layers in so many stages of one at least.
fn cut(layers: usize, stages: usize, mut seed: u64) -> Vec<usize> {
    let mut cut = vec![1; stages];
    for _ in stages..layers {
        cut[usize::try_from(seed % stages as u64).unwrap()] += 1;
        seed /= 7;
    }
    cut
}

/// A stage as it is read: gains that are stored without their 1 are in float32.
fn as_read(stage: &StageTensors, written: &Written) -> StageTensors {
    let mut stage = stage.clone();
    if !written.writing.zero_centred {
        return stage;
    }
    for param in stage.params.values_mut().filter(|param| param.kind == Kind::NormGain) {
        let ParamValue::Replicas(replicas) = &mut param.value else { panic!("gains are replicated") };
        for replica in replicas {
            let shape = replica.shape().to_vec();
            let stored: Vec<f64> = replica.to_f64().unwrap().iter().map(|gain| gain - 1.0).collect();
            let stored = HostTensor::from_f64(replica.dtype(), shape.clone(), &stored).unwrap();
            let stored = stored.cast(DType::F32).unwrap().to_f64().unwrap();
            let gains: Vec<f64> = stored.iter().map(|gain| gain + 1.0).collect();
            *replica = HostTensor::from_f64(DType::F32, shape, &gains).unwrap();
        }
    }
    stage
}

/// A stage whose ranks all hold what the first holds; as many replicas as there are `ranks`.
fn with_first_replicas(stage: &StageTensors, ranks: usize) -> StageTensors {
    let mut stage = stage.clone();
    stage.tp_size = ranks;
    for param in stage.params.values_mut() {
        if let ParamValue::Replicas(replicas) = &mut param.value {
            *replicas = vec![replicas[0].clone(); ranks];
        }
    }
    stage
}

fn divisions() -> impl proptest::strategy::Strategy<Value = Division> {
    let prefix = select(vec!["", "module.", "model."]);
    (any::<bool>(), any::<bool>(), select(vec![1, 2, 4]), any::<u64>(), prefix).prop_map(
        |(keys_per_layer, halves, writers, seed, prefix)| Division { keys_per_layer, halves, writers, seed, prefix },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn what_the_ranks_saved_together_is_what_each_saved_alone(
        written in written().prop_filter("core's", |written| !written.writing.naming.is_legacy()),
        division in divisions(),
    ) {
        let Written { design, writing } = &written;
        let model = design.draw();
        let (alone, together) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let equal: Vec<_> = model.stages.iter().map(|stage| with_first_replicas(stage, design.tp_size)).collect();
        writing.write(&design.architecture, &equal, alone.path());
        Contents::new(writing, &division, &design.architecture, &equal).write(together.path());
        let ranks = MegatronCheckpoint::open(alone.path(), &[]).unwrap().unwrap();
        let saved = DistributedCheckpoint::open(together.path(), &[]).unwrap().unwrap();
        prop_assert_eq!(saved.architecture(), ranks.architecture());
        prop_assert_eq!((saved.dtype(), saved.iteration()), (ranks.dtype(), ranks.iteration()));
        prop_assert_eq!(saved.notes(), [kintsugi::checkpoint::STORED_ONCE.to_owned()]);
        for (id, stage) in ranks.stage_ids().into_iter().zip(&equal) {
            let read = saved.read_stage(id).unwrap();
            prop_assert!(read.same_bits(&with_first_replicas(&ranks.read_stage(id).unwrap(), 1)), "{}", id);
            prop_assert!(read.same_bits(&with_first_replicas(&as_read(stage, &written), 1)), "{}", id);
            let names: Vec<_> = read.params.values().map(|param| param.name.clone()).collect();
            prop_assert!(names.iter().all(|name| !name.starts_with("mod") && !name.contains("layers.")), "{:?}", names);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_megatron_wrote_is_read(written in written()) {
        let Written { design, writing } = &written;
        let model = design.draw();
        let folder = tempfile::tempdir().unwrap();
        writing.write(&design.architecture, &model.stages, folder.path());
        let checkpoint = MegatronCheckpoint::open(folder.path(), &[]).unwrap().unwrap();
        prop_assert_eq!(checkpoint.architecture(), &design.architecture);
        prop_assert_eq!(checkpoint.notes(), Vec::<String>::new());
        let read: Vec<_> = checkpoint.stage_ids().into_iter().map(|id| checkpoint.read_stage(id).unwrap()).collect();
        prop_assert_eq!(read.len(), model.stages.len());
        for (read, expected) in read.iter().zip(&model.stages) {
            prop_assert!(read.same_bits(&as_read(expected, &written)), "{}", read.id);
        }
        #[cfg(feature = "libtorch")]
        if design.dtype == DType::F64 && !writing.zero_centred {
            let ids = design.ids();
            let expected = reference::logits(&design.architecture, &model.ranks, &ids);
            let (logits, _) = libtorch::logits(&design.architecture, &read, &ids);
            prop_assert!(difference(&expected, &logits) < NOISE, "{:e}", difference(&expected, &logits));
        }
    }
}
