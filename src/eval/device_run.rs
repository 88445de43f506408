//! One device's share of a slice: its passages, its residual streams, its scores.

use tch::{Device, Kind, Tensor};

use super::packing::Packed;
use crate::config::Architecture;
use crate::model::{
    Backend, Chunk, EmbeddingStage, Group, LayerStage, ModelError, OutputStage, RotaryTable, Streams, TargetScores,
    Uploader,
};
use crate::partition::{StageId, StageTensors};

/// Positions whose logits exist at once; a row of a 50,432-word vocabulary takes 200 kB in float32.
const OUTPUT_ROWS: i64 = 128;

/// Where a target token's score belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct TargetPlace {
    /// The passage's index.
    pub passage: usize,
    /// Which of its target tokens.
    pub ordinal: usize,
    /// The target token.
    pub id: u32,
}

/// Passages on one device.
pub(super) struct DeviceRun {
    backend: Backend,
    input_ids: Tensor,
    /// One chunk over all rows, for the embedding.
    whole: Chunk,
    chunks: Vec<Chunk>,
    rotary: Option<RotaryTable>,
    /// Packed rows of the target positions, the target ids, and where the scores belong.
    target_rows: Tensor,
    target_ids: Tensor,
    pub(super) places: Vec<TargetPlace>,
    /// Residual streams; variants that are equal so far share one.
    streams: Vec<Option<Streams>>,
}

impl DeviceRun {
    pub(super) fn new(
        architecture: &Architecture,
        backend: Backend,
        packed: &Packed,
        chunk_tokens: usize,
    ) -> Result<Self, ModelError> {
        let on_device = |values: &[i64]| -> Result<Tensor, ModelError> {
            Ok(Tensor::f_from_slice(values)?.f_to_device(backend.device)?)
        };
        let positions = on_device(packed.positions())?;
        let mut chunks = Vec::new();
        let (mut rows, mut ids, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in packed.chunks(chunk_tokens) {
            let (start, tokens) = (to_i64(chunk.rows.start), to_i64(chunk.rows.len()));
            for target in &chunk.targets {
                rows.push(start + to_i64(target.row));
                ids.push(target.id);
                let id = u32::try_from(target.id).unwrap_or(u32::MAX);
                places.push(TargetPlace { passage: target.passage, ordinal: target.ordinal, id });
            }
            let groups = chunk.groups.iter().map(|group| Group {
                start: to_i64(group.start),
                passages: to_i64(group.passage_count),
                length: to_i64(group.length),
            });
            let positions = positions.f_narrow(0, start, tokens)?;
            chunks.push(Chunk { start, tokens, groups: groups.collect(), positions });
        }
        let longest = packed.passages().first().map_or(0, super::packing::Passage::length);
        Ok(Self {
            backend,
            input_ids: on_device(packed.input_ids())?,
            whole: Chunk { start: 0, tokens: to_i64(packed.token_count()), groups: Vec::new(), positions },
            chunks,
            rotary: RotaryTable::new(architecture, backend, longest)?,
            target_rows: on_device(&rows)?,
            target_ids: on_device(&ids)?,
            places,
            streams: Vec::new(),
        })
    }

    pub(super) fn uploader(&self) -> Uploader {
        Uploader::new(self.backend)
    }

    /// Waits for the device, so that times measure work done.
    pub(super) fn synchronize(&self) {
        if let Device::Cuda(index) = self.backend.device {
            tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
        }
    }

    /// Runs a stage but the last: stream `input` (none for the embedding) goes in, the number of a new stream comes out.
    /// `last_use` says that nobody needs the input stream after this. `tick` hears of every chunk's tokens.
    pub(super) fn run(
        &mut self,
        architecture: &Architecture,
        stage: &StageTensors,
        uploader: &mut Uploader,
        input: Option<usize>,
        last_use: bool,
        tick: &dyn Fn(u64),
    ) -> Result<usize, ModelError> {
        let output = match (stage.id, input) {
            (StageId::Embedding, _) | (_, None) => {
                let streams =
                    EmbeddingStage::new(stage, architecture, uploader)?.forward(&self.input_ids, &self.whole)?;
                tick(self.whole.tokens.unsigned_abs());
                streams
            }
            (_, Some(input)) => {
                let layer = LayerStage::new(stage, architecture, uploader)?;
                let mut streams = self.take(input, last_use)?;
                for chunk in &self.chunks {
                    layer.forward(&mut streams, chunk, self.rotary.as_ref())?;
                    tick(chunk.tokens.unsigned_abs());
                }
                streams
            }
        };
        self.streams.push(Some(output));
        Ok(self.streams.len() - 1)
    }

    fn take(&mut self, stream: usize, last_use: bool) -> Result<Streams, ModelError> {
        let slot = self.streams.get_mut(stream);
        let found = if last_use { slot.and_then(Option::take) } else { None };
        match found {
            Some(streams) => Ok(streams),
            None => match self.streams.get(stream).and_then(Option::as_ref) {
                Some(streams) => streams.deep_copy(),
                None => Err(tch::TchError::Kind(format!("stream {stream} is gone")).into()),
            },
        }
    }

    /// Runs the last stage for all distinct variants; the first is the baseline that the others are compared with.
    pub(super) fn score(&self, outputs: &[(OutputStage, usize)]) -> Result<Vec<TargetScores>, ModelError> {
        let mut scores = vec![TargetScores::default(); outputs.len()];
        let count = self.target_rows.size1()?;
        for start in (0..count).step_by(usize::try_from(OUTPUT_ROWS).unwrap_or(1)) {
            let length = OUTPUT_ROWS.min(count - start);
            let rows = self.target_rows.f_narrow(0, start, length)?;
            let ids = self.target_ids.f_narrow(0, start, length)?;
            let mut baseline: Option<Tensor> = None;
            for ((output, stream), scores) in outputs.iter().zip(&mut scores) {
                let Some(streams) = self.streams.get(*stream).and_then(Option::as_ref) else {
                    return Err(tch::TchError::Kind(format!("stream {stream} is gone")).into());
                };
                let log_probabilities = output.log_probabilities(streams, &rows)?;
                scores.extend(TargetScores::new(&log_probabilities, &ids, baseline.as_ref())?);
                baseline = Some(baseline.unwrap_or(log_probabilities));
            }
        }
        Ok(scores)
    }
}

/// Half precision on a CPU is emulated and slow beyond use.
pub(super) fn is_emulated(backend: Backend) -> bool {
    backend.device == Device::Cpu && backend.kind == Kind::Half
}

fn to_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
