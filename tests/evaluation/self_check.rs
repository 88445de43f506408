//! The forward pass against `checkpoint_validation_logits`, in every form that gpt-neox stores them.

use crate::common::evaluation::{cpu, shared_checkpoint};
use crate::common::{TinyModel, set_element};
use kintsugi::checkpoint::{Checkpoint, ModelSource as _};
use kintsugi::eval::self_check::{StoredForm, self_check};
use kintsugi::export::{StoredTensor, Value, save};
use kintsugi::model::{Chunk, EmbeddingStage, Group, LayerStage, OutputStage, RotaryTable, Uploader};
use kintsugi::partition::StageId;
use kintsugi::tensor::{DType, HostTensor};
use tch::{Kind, Tensor};

#[test]
#[cfg_attr(not(kintsugi_shared), ignore = "needs ../shared/checkpoints")]
fn checkpoints_of_gpt_neox_agree_with_what_they_store() {
    let forms = [
        ("validation-logits-tp2", StoredForm::SoftmaxSlice),
        ("validation-logits-tp2-drift", StoredForm::GatheredSoftmax),
    ];
    for (name, form) in forms {
        let check = self_check(&Checkpoint::open(&shared_checkpoint(name), &[]).unwrap(), cpu()).unwrap().unwrap();
        eprintln!("{name}: {check:?}");
        assert_eq!(check.form, form);
        assert!(check.positions > 1 && check.agrees(), "{name}: {check:?}");
    }
}

/// The model's logits for tokens 0 … positions−1, `[positions, vocabulary]`, float64.
fn logits(checkpoint: &Checkpoint, positions: i64) -> Tensor {
    let architecture = checkpoint.architecture();
    let rows = Tensor::arange(positions, (Kind::Int64, tch::Device::Cpu));
    let group = Group { start: 0, passages: 1, length: positions };
    let chunk = Chunk { start: 0, tokens: positions, groups: vec![group], positions: rows.shallow_clone() };
    let mut uploader = Uploader::new(cpu());
    let stage = |id| checkpoint.read_stage(id).unwrap();
    let embedding = EmbeddingStage::new(&stage(StageId::Embedding), architecture, &mut uploader).unwrap();
    let mut streams = embedding.forward(&rows, &chunk).unwrap();
    let rotary = RotaryTable::new(architecture, cpu(), usize::try_from(positions).unwrap()).unwrap();
    for layer in 0..architecture.layer_count {
        let layer = LayerStage::new(&stage(StageId::Layer(layer)), architecture, &mut uploader).unwrap();
        streams.fork(layer.streams_after(streams.count())).unwrap();
        layer.forward(&mut streams, &chunk, rotary.as_ref(), None).unwrap();
    }
    let output = OutputStage::new(&stage(StageId::Output), architecture, &mut uploader).unwrap();
    output.logits(&streams).unwrap().to_kind(Kind::Double)
}

/// Stores these values as every rank's `checkpoint_validation_logits`.
fn store(paths: &[std::path::PathBuf], values: &[Tensor]) {
    for (path, values) in paths.iter().zip(values) {
        let shape: Vec<usize> = values.size().iter().map(|&extent| usize::try_from(extent).unwrap()).collect();
        let flat: Vec<f64> = Vec::try_from(values.contiguous().view(-1)).unwrap();
        let tensor = HostTensor::from_f64(DType::F32, shape.clone(), &flat).unwrap();
        let stored = Value::Tensor(StoredTensor { storage: 0, dtype: DType::F32, shape });
        let root =
            Value::Dict(vec![("module".to_owned(), Value::None), ("checkpoint_validation_logits".to_owned(), stored)]);
        save(path, &root, |_| Ok::<_, std::io::Error>(tensor.clone())).unwrap();
    }
}

#[test]
fn every_form_is_told_apart_and_a_changed_weight_is_noticed() {
    let files = TinyModel::new().with(|options| options.drift = 0.02).write();
    let checkpoint = files.open();
    assert_eq!(self_check(&checkpoint, cpu()).unwrap(), None);
    let all = logits(&checkpoint, 16);
    let softmax = all.softmax(-1, Kind::Double);
    let half = all.size()[1] / 2;
    let slices = |tensor: &Tensor| vec![tensor.narrow(1, 0, half), tensor.narrow(1, half, half)];
    let twice = |tensor: Tensor| vec![tensor.shallow_clone(), tensor];
    let paths = [files.rank_file(0), files.rank_file(1)];
    let forms = [
        (StoredForm::SoftmaxSlice, slices(&softmax)),
        (StoredForm::LogitSlice, slices(&all)),
        (StoredForm::GatheredSoftmax, twice(&softmax / 2.0)),
        (StoredForm::GatheredLogits, twice(all.shallow_clone())),
    ];
    for (form, values) in forms {
        store(&paths, &values);
        let check = self_check(&files.open(), cpu()).unwrap().unwrap();
        assert_eq!((check.form, check.positions), (form, 16));
        assert!(check.agrees(), "{check:?}");
    }
    // One element: a constant added to all of them would be taken out by the next norm.
    set_element(&files.layer_file(2, 1), "attention.dense.bias", 0, 0.5);
    let check = self_check(&files.open(), cpu()).unwrap().unwrap();
    assert!(!check.agrees(), "{check:?}");
}
