//! One device's share of a slice: its passages, its residual streams, its scores.

use tch::{Device, Kind, Tensor};

use super::packing::Packed;
use crate::config::{Architecture, Positions, Precision, RotaryTables};
use crate::model::{
    Backend, Chunk, EmbeddingStage, Group, LayerMeans, LayerStage, ModelError, OutputStage, RotaryTable, Streams,
    TargetScores, Uploader,
};
use crate::partition::{StageId, StageTensors};

/// Positions whose logits exist at once; a row of a 50,432-word vocabulary takes 200 kB in float32.
const OUTPUT_ROWS: i64 = 64;

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

/// What goes into a stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct StageInput {
    /// The stream; none for the embedding.
    pub stream: Option<usize>,
    /// Whether nobody needs the stream after this.
    pub last_use: bool,
    /// Whether to use chunks of the other size.
    pub rechunked: bool,
}

/// What a rotary table depends on.
type RotaryKey = (Positions, RotaryTables, Precision);

/// Passages on one device.
pub(super) struct DeviceRun {
    backend: Backend,
    input_ids: Tensor,
    /// One chunk over all rows, for the embedding.
    whole: Chunk,
    chunks: Vec<Chunk>,
    /// The same rows in chunks of another size.
    other_chunks: Vec<Chunk>,
    /// Longest passage, in tokens.
    longest: usize,
    /// Rotary tables, by what they depend on.
    rotary: Vec<(RotaryKey, Option<RotaryTable>)>,
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
        let (mut rows, mut ids, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in packed.chunks(chunk_tokens) {
            for target in &chunk.targets {
                rows.push(to_i64(chunk.rows.start + target.row));
                ids.push(target.id);
                let id = u32::try_from(target.id).unwrap_or(u32::MAX);
                places.push(TargetPlace { passage: target.passage, ordinal: target.ordinal, id });
            }
        }
        let chunks = model_chunks(packed, chunk_tokens, &positions)?;
        // Small data may fit one chunk of either size: half of it is another chunking all the same.
        let other_tokens = (chunk_tokens / 3 + 1).min(packed.token_count().div_ceil(2));
        let other_chunks = model_chunks(packed, other_tokens, &positions)?;
        let longest = packed.passages().first().map_or(0, super::packing::Passage::length);
        let mut run = Self {
            backend,
            input_ids: on_device(packed.input_ids())?,
            whole: Chunk { start: 0, tokens: to_i64(packed.token_count()), groups: Vec::new(), positions },
            chunks,
            other_chunks,
            longest,
            rotary: Vec::new(),
            target_rows: on_device(&rows)?,
            target_ids: on_device(&ids)?,
            places,
            streams: Vec::new(),
        };
        run.rotary_of(architecture)?;
        Ok(run)
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

    /// Runs a stage but the last; the number of a new stream comes out. `means` takes part in what a layer's norms put
    /// out, `tick` hears of every chunk's tokens.
    pub(super) fn run(
        &mut self,
        architecture: &Architecture,
        stage: &StageTensors,
        uploader: &mut Uploader,
        input: StageInput,
        mut means: Option<&mut LayerMeans>,
        tick: &dyn Fn(u64),
    ) -> Result<usize, ModelError> {
        let output = match (stage.id, input.stream) {
            (StageId::Embedding, _) | (_, None) => {
                let streams =
                    EmbeddingStage::new(stage, architecture, uploader)?.forward(&self.input_ids, &self.whole)?;
                tick(self.whole.tokens.unsigned_abs());
                streams
            }
            (_, Some(stream)) => {
                let layer = LayerStage::new(stage, architecture, uploader)?;
                let rotary = self.rotary_of(architecture)?;
                let mut streams = self.take(stream, input.last_use)?;
                for chunk in if input.rechunked { &self.other_chunks } else { &self.chunks } {
                    layer.forward(&mut streams, chunk, self.rotary[rotary].1.as_ref(), means.as_deref_mut())?;
                    tick(chunk.tokens.unsigned_abs());
                }
                streams
            }
        };
        self.streams.push(Some(output));
        Ok(self.streams.len() - 1)
    }

    /// Where the rotary table of such a model is; it is made if it is not there.
    fn rotary_of(&mut self, architecture: &Architecture) -> Result<usize, ModelError> {
        let key = (architecture.positions, architecture.rotary_tables, architecture.storage);
        if let Some(at) = self.rotary.iter().position(|(known, _)| *known == key) {
            return Ok(at);
        }
        self.rotary.push((key, RotaryTable::new(architecture, self.backend, self.longest)?));
        Ok(self.rotary.len() - 1)
    }

    /// Frees a stream.
    pub(super) fn discard(&mut self, stream: usize) {
        if let Some(slot) = self.streams.get_mut(stream) {
            *slot = None;
        }
    }

    fn stream(&self, stream: usize) -> Result<&Streams, ModelError> {
        let found = self.streams.get(stream).and_then(Option::as_ref);
        found.ok_or_else(|| tch::TchError::Kind(format!("stream {stream} is gone")).into())
    }

    /// Mean outputs of the final norm over all rows, one vector per rank.
    pub(super) fn final_norm_means(
        &self,
        architecture: &Architecture,
        stage: &StageTensors,
        stream: usize,
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        let output = OutputStage::new(stage, architecture, &mut self.uploader())?;
        let rows = Tensor::f_arange(self.whole.tokens, (Kind::Int64, self.backend.device))?;
        output.norm_means(self.stream(stream)?, &rows)?.per_rank(stage.tp_size)
    }

    /// The logits at all rows, `[rows, vocabulary]`.
    pub(super) fn all_logits(
        &self,
        architecture: &Architecture,
        stage: &StageTensors,
        stream: usize,
    ) -> Result<Tensor, ModelError> {
        let output = OutputStage::new(stage, architecture, &mut self.uploader())?;
        let rows = Tensor::f_arange(self.whole.tokens, (Kind::Int64, self.backend.device))?;
        output.logits(self.stream(stream)?, &rows)
    }

    /// Σ‖x − x_baseline‖² and Σ‖x_baseline‖² over all rows.
    pub(super) fn distance(&self, baseline: usize, stream: usize) -> Result<(f64, f64), ModelError> {
        let (baseline, other) = (self.stream(baseline)?, self.stream(stream)?);
        let mut total = (0.0, 0.0);
        for chunk in &self.chunks {
            // Squares of float16 overflow.
            let reference = baseline.mean_rows(chunk)?.f_to_kind(Kind::Double)?;
            let difference = other.mean_rows(chunk)?.f_to_kind(Kind::Double)?.f_sub(&reference)?;
            total.0 += difference.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
            total.1 += reference.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
        Ok(total)
    }

    fn take(&mut self, stream: usize, last_use: bool) -> Result<Streams, ModelError> {
        let found = if last_use { self.streams.get_mut(stream).and_then(Option::take) } else { None };
        match found {
            Some(streams) => Ok(streams),
            None => self.stream(stream)?.deep_copy(),
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
                let log_probabilities = output.log_probabilities(self.stream(*stream)?, &rows)?;
                scores.extend(TargetScores::new(&log_probabilities, &ids, baseline.as_ref())?);
                baseline = Some(baseline.unwrap_or(log_probabilities));
            }
        }
        Ok(scores)
    }
}

/// The packing's chunks as the model takes them.
fn model_chunks(packed: &Packed, chunk_tokens: usize, positions: &Tensor) -> Result<Vec<Chunk>, ModelError> {
    packed
        .chunks(chunk_tokens)
        .into_iter()
        .map(|chunk| {
            let (start, tokens) = (to_i64(chunk.rows.start), to_i64(chunk.rows.len()));
            let groups = chunk.groups.iter().map(|group| Group {
                start: to_i64(group.start),
                passages: to_i64(group.passage_count),
                length: to_i64(group.length),
            });
            let positions = positions.f_narrow(0, start, tokens)?;
            Ok(Chunk { start, tokens, groups: groups.collect(), positions })
        })
        .collect()
}

/// Half precision on a CPU is emulated and slow beyond use.
pub(super) fn is_emulated(backend: Backend) -> bool {
    backend.device == Device::Cpu && backend.kind == Kind::Half
}

fn to_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
