//! The same logits from `kintsugi::model`, in float64 on the CPU.

use kintsugi::config::Architecture;
use kintsugi::model::{Backend, Chunk, EmbeddingStage, Group, LayerStage, OutputStage, RotaryTable, Uploader};
use kintsugi::partition::StageTensors;
use tch::{Device, Kind, Tensor};

const BACKEND: Backend = Backend { device: Device::Cpu, kind: Kind::Double };

/// The logits and log-probabilities, `[token][padded vocabulary]` each, of one sequence.
pub(super) fn logits(
    architecture: &Architecture,
    stages: &[StageTensors],
    ids: &[usize],
) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let to_i64 = |value: usize| i64::try_from(value).unwrap();
    let prompt = architecture.padded_vocab_size..architecture.padded_vocab_size + architecture.soft_prompt_length;
    let ids: Vec<i64> = prompt.chain(ids.iter().copied()).map(to_i64).collect();
    let count = to_i64(ids.len());
    let rows = Tensor::arange(count, (Kind::Int64, Device::Cpu));
    let group = Group { start: 0, passages: 1, length: count };
    let chunk = Chunk { start: 0, tokens: count, groups: vec![group], positions: rows.shallow_clone() };
    // On the CPU the stages' weights are the host tensors' own memory: the uploader keeps it alive.
    let mut uploader = Uploader::new(BACKEND);
    let rotary = RotaryTable::new(architecture, BACKEND, ids.len()).unwrap();
    let (first, rest) = stages.split_first().unwrap();
    let (last, layers) = rest.split_last().unwrap();
    let embedding = EmbeddingStage::new(first, architecture, &mut uploader).unwrap();
    let mut streams = embedding.forward(&Tensor::from_slice(&ids), &chunk).unwrap();
    for layer in layers {
        let layer = LayerStage::new(layer, architecture, &mut uploader).unwrap();
        streams.fork(layer.streams_after(streams.count())).unwrap();
        layer.forward(&mut streams, &chunk, rotary.as_ref(), None).unwrap();
    }
    let output = OutputStage::new(last, architecture, &mut uploader).unwrap();
    let logits = Vec::try_from(output.logits(&streams).unwrap()).unwrap();
    let log_probabilities = Vec::try_from(output.log_probabilities(&streams).unwrap()).unwrap();
    (logits, log_probabilities)
}
