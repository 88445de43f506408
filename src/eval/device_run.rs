//! The chunks of a slice on one device: its passages, its residual streams, its scores.

mod pieces;
mod scoring;

use std::collections::BTreeSet;

use tch::{Device, Tensor};

use super::chunk_plan::DeviceChunks;
use super::packing::Target;
use crate::config::{Architecture, Positions, Precision, RotaryTables};
use crate::model::{
    Backend, Chunk, EmbeddingStage, FinalNorm, LayerMeans, LayerStage, ModelError, NormMeans, OutputStage, RotaryTable,
    Streams, Uploader, each, to_i64,
};
use crate::partition::{StageId, StageTensors};
use pieces::{Piece, in_parts, pieces};

#[derive(Debug, Clone, Copy)]
pub(super) struct StageInput {
    /// None for the embedding.
    pub stream: Option<usize>,
    /// Whether the stream is not needed after this.
    pub last_use: bool,
    /// Whether only the rows of the targets are needed afterwards.
    pub targets_only: bool,
}

/// The residual streams of variants that are equal so far.
struct Held {
    streams: Streams,
    /// Whether they have come down to the rows of the targets.
    at_targets: bool,
}

/// A layer on the device.
pub(super) struct Layer {
    stage: LayerStage,
    /// Where its rotary table is in [`DeviceRun::rotary`].
    rotary: usize,
    /// Whether it computes the noise floor, in chunks of the other size and another order of summation.
    rechunked: bool,
}

/// A stage on the device. Of the host's weights it keeps those that it computes with where they are.
pub(super) enum DeviceStage {
    Embedding(EmbeddingStage),
    Layer(Box<Layer>),
    Output(OutputStage),
}

type RotaryKey = (Positions, RotaryTables, Precision);

pub(super) struct DeviceRun {
    pub(super) backend: Backend,
    input_ids: Tensor,
    tokens: i64,
    /// Tokens of the largest slice on a GPU.
    room: i64,
    pieces: Vec<Piece>,
    /// The rows of the noise floor, in chunks of another size.
    other_pieces: Vec<Piece>,
    /// All rows, some of them in chunks of another size.
    all_pieces: Vec<Piece>,
    longest: usize,
    rotary: Vec<(RotaryKey, Option<RotaryTable>)>,
    /// Packed rows of the targets, their ids, and where their scores belong.
    target_rows: Tensor,
    target_ids: Tensor,
    pub(super) targets: Vec<Target>,
    pub(super) numbers: Vec<usize>,
    /// The passages that are scored in chunks of another size too.
    pub(super) noise: BTreeSet<usize>,
    streams: Vec<Option<Held>>,
}

impl DeviceRun {
    pub(super) fn new(
        architecture: &Architecture,
        backend: Backend,
        chunks: &DeviceChunks,
    ) -> Result<Self, ModelError> {
        backend.prepare()?;
        let on_device = |values: &[i64]| -> Result<Tensor, ModelError> {
            Ok(Tensor::f_from_slice(values)?.f_to_device(backend.device)?)
        };
        let positions = on_device(&chunks.packed.positions)?;
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for chunk in &chunks.chunks {
            rows.extend(chunk.targets.iter().map(|target| to_i64(chunk.rows.start + target.row)));
            targets.extend_from_slice(&chunk.targets);
        }
        let ids: Vec<_> = targets.iter().map(|target| target.id).collect();
        let mut run = Self {
            backend,
            input_ids: on_device(&chunks.packed.input_ids)?,
            tokens: to_i64(chunks.packed.input_ids.len()),
            room: 0,
            pieces: pieces(&chunks.chunks, &positions)?,
            other_pieces: pieces(&chunks.rechunked(false), &positions)?,
            all_pieces: pieces(&chunks.rechunked(true), &positions)?,
            noise: chunks.noise_passages(),
            longest: chunks.longest,
            rotary: Vec::new(),
            target_rows: on_device(&rows)?,
            target_ids: on_device(&ids)?,
            targets,
            numbers: chunks.numbers.clone(),
            streams: Vec::new(),
        };
        run.rotary_of(architecture)?;
        Ok(run)
    }

    /// Makes streams of so many tokens, which those of later slices will find.
    pub(super) fn with_room(self, tokens: usize) -> Self {
        // A CPU's allocator has no need of it.
        if self.backend.device == Device::Cpu { self } else { Self { room: to_i64(tokens), ..self } }
    }

    /// Puts a stage's weights on the device; `rechunked` makes a layer of the noise floor.
    pub(super) fn build(
        &mut self,
        architecture: &Architecture,
        stage: &StageTensors,
        uploader: &mut Uploader,
        rechunked: bool,
    ) -> Result<DeviceStage, ModelError> {
        Ok(match stage.id {
            StageId::Embedding => DeviceStage::Embedding(EmbeddingStage::new(stage, architecture, uploader)?),
            StageId::Layer(_) => {
                uploader.other_order = rechunked;
                let stage = LayerStage::new(stage, architecture, uploader)?;
                DeviceStage::Layer(Box::new(Layer { stage, rotary: self.rotary_of(architecture)?, rechunked }))
            }
            StageId::Output => DeviceStage::Output(OutputStage::new(stage, architecture, uploader)?),
        })
    }

    /// Runs a stage but the last; returns the number of a new stream. `means` receives the outputs of a layer's norms, which
    /// needs all rows. `tick` is called with every chunk's tokens.
    pub(super) fn run(
        &mut self,
        stage: &DeviceStage,
        input: StageInput,
        means: Option<&mut LayerMeans>,
        tick: &(dyn Fn(u64) + Sync),
    ) -> Result<usize, ModelError> {
        let held = match (stage, input.stream) {
            (DeviceStage::Embedding(embedding), _) => Held { streams: self.embed(embedding, tick)?, at_targets: false },
            (DeviceStage::Layer(layer), Some(stream)) => self.run_layer(layer, stream, input, means, tick)?,
            _ => {
                return Err(
                    tch::TchError::Kind("a layer without a stream, or a stage that makes none".to_owned()).into()
                );
            }
        };
        self.streams.push(Some(held));
        Ok(self.streams.len() - 1)
    }

    fn embed(&self, embedding: &EmbeddingStage, tick: &(dyn Fn(u64) + Sync)) -> Result<Streams, ModelError> {
        let streams = self.blank(embedding.stream_count(), embedding.hidden_size())?;
        let tasks = self.pieces.iter().map(|Piece { chunk, .. }| {
            let ids = self.input_ids.f_narrow(0, chunk.start, chunk.tokens)?;
            Ok((chunk.shallow_clone(), ids, streams.narrow(chunk.start, chunk.tokens)?))
        });
        each(
            self.backend,
            tasks.collect::<Result<_, ModelError>>()?,
            |(chunk, ids, mut rows): (Chunk, Tensor, Streams)| {
                rows.copy_from(&embedding.forward(&ids, &chunk)?)?;
                tick(chunk.tokens.unsigned_abs());
                Ok(())
            },
        )?;
        Ok(streams)
    }

    fn blank(&self, count: usize, hidden_size: usize) -> Result<Streams, ModelError> {
        Streams::blank(count, self.tokens, self.room, to_i64(hidden_size), self.backend)
    }

    fn run_layer(
        &mut self,
        layer: &Layer,
        stream: usize,
        input: StageInput,
        means: Option<&mut LayerMeans>,
        tick: &(dyn Fn(u64) + Sync),
    ) -> Result<Held, ModelError> {
        if input.targets_only {
            match self.last_layer(layer, stream, tick) {
                Ok(streams) => {
                    if input.last_use {
                        self.discard(stream);
                    }
                    return Ok(Held { streams, at_targets: true });
                }
                // All rows can be computed in smaller parts.
                Err(error) if error.is_out_of_memory() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Held { streams: self.layer(layer, stream, input, means, tick)?, at_targets: false })
    }

    /// All rows through a layer: in place where the stream is not needed any more.
    fn layer(
        &mut self,
        layer: &Layer,
        stream: usize,
        input: StageInput,
        means: Option<&mut LayerMeans>,
        tick: &(dyn Fn(u64) + Sync),
    ) -> Result<Streams, ModelError> {
        let before = self.stream(stream)?.count();
        let count = layer.stage.streams_after(before);
        let in_place = if input.last_use && count == before { self.streams[stream].take() } else { None };
        let (streams, source) = if let Some(held) = in_place {
            (held.streams, None)
        } else {
            let source = self.stream(stream)?;
            (self.blank(count, source.hidden_size())?, Some(source))
        };
        let pieces = if layer.rechunked { &self.other_pieces } else { &self.pieces };
        let rotary = self.rotary[layer.rotary].1.as_ref();
        let wants_means = means.is_some();
        let tasks = pieces.iter().map(|Piece { chunk, .. }| {
            let source = source.map(|source| source.narrow(chunk.start, chunk.tokens)).transpose()?;
            Ok((chunk.shallow_clone(), source, streams.narrow(chunk.start, chunk.tokens)?))
        });
        let tasks = tasks.collect::<Result<Vec<(Chunk, Option<Streams>, Streams)>, ModelError>>()?;
        let parts = each(self.backend, tasks, |(chunk, source, mut rows)| {
            if let Some(source) = source {
                rows.copy_from(&source)?;
            }
            let means = in_parts(&mut rows, &chunk, &|rows, chunk| {
                let mut means = wants_means.then(LayerMeans::default);
                layer.stage.forward(rows, chunk, rotary, means.as_mut())?;
                Ok(means)
            })?;
            tick(chunk.tokens.unsigned_abs());
            Ok(means)
        })?;
        if let Some(means) = means {
            // In the chunks' order, so that sums do not depend on which thread was first.
            parts.into_iter().flatten().flatten().try_for_each(|part| means.merge(part))?;
        }
        if source.is_some() && input.last_use {
            self.discard(stream);
        }
        Ok(streams)
    }

    /// A layer of which only the rows of the targets are needed.
    fn last_layer(&self, layer: &Layer, stream: usize, tick: &(dyn Fn(u64) + Sync)) -> Result<Streams, ModelError> {
        let source = self.stream(stream)?;
        // Rows in the order of the targets: where chunks are not computed again, they mean nothing.
        let pieces = if layer.rechunked { &self.all_pieces } else { &self.pieces };
        let tasks = pieces.iter().map(|Piece { chunk, targets }| {
            Ok((chunk.shallow_clone(), targets.shallow_clone(), source.narrow(chunk.start, chunk.tokens)?))
        });
        let tasks = tasks.collect::<Result<Vec<(Chunk, Tensor, Streams)>, ModelError>>()?;
        let rotary = self.rotary[layer.rotary].1.as_ref();
        let parts = each(self.backend, tasks, |(chunk, targets, rows)| {
            let out = layer.stage.forward_at(&rows, &targets, &chunk, rotary)?;
            tick(chunk.tokens.unsigned_abs());
            Ok(out)
        })?;
        Streams::concatenate(&parts)
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

    pub(super) fn discard(&mut self, stream: usize) {
        if let Some(slot) = self.streams.get_mut(stream) {
            *slot = None;
        }
    }

    fn stream(&self, stream: usize) -> Result<&Streams, ModelError> {
        Ok(&self.held(stream)?.streams)
    }

    fn held(&self, stream: usize) -> Result<&Held, ModelError> {
        let found = self.streams.get(stream).and_then(Option::as_ref);
        found.ok_or_else(|| tch::TchError::Kind(format!("stream {stream} is gone")).into())
    }

    /// Mean outputs of the final norm over all rows, one vector per rank.
    pub(super) fn final_norm_means(
        &self,
        architecture: &Architecture,
        stage: &StageTensors,
        uploader: &mut Uploader,
        stream: usize,
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        let norm = FinalNorm::new(stage, architecture, uploader)?;
        let streams = self.stream(stream)?;
        let tasks = self.pieces.iter().map(|Piece { chunk, .. }| streams.narrow(chunk.start, chunk.tokens));
        let parts = each(self.backend, tasks.collect::<Result<_, _>>()?, |rows: Streams| norm.means(&rows))?;
        let mut means = NormMeans::default();
        parts.into_iter().try_for_each(|part| means.merge(part))?;
        means.per_rank(stage.tp_size)
    }

    /// The logits at all rows, `[rows, vocabulary]`.
    pub(super) fn all_logits(
        &self,
        architecture: &Architecture,
        stage: &StageTensors,
        stream: usize,
    ) -> Result<Tensor, ModelError> {
        let output = OutputStage::new(stage, architecture, &mut Uploader::new(self.backend))?;
        output.logits(self.stream(stream)?)
    }
}
