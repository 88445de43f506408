//! Reading residual streams: scores at the targets, and distances between streams. Chunk by chunk, so that the
//! numbers of a chunk do not depend on which others are here.

use tch::{Device, Kind, Tensor};

use super::super::device_memory::GPU_OUTPUT_ROWS;
use super::pieces::Piece;
use super::{DeviceRun, Held};
use crate::model::{DeviceScores, ModelError, OutputStage, Reference, Streams, TargetScores, each, to_i64, wide};

/// Positions whose logits exist at once, for each thread; a row of a 50,432-word vocabulary takes 200 kB in float32.
const CPU_OUTPUT_ROWS: i64 = 64;

/// Bytes of differences between streams that exist at once on a GPU: they are read again before they leave its cache.
const DIFFERENCES: i64 = 12 << 20;

impl DeviceRun {
    /// For every chunk the squared norm of the baseline's stream, then the squared distances of the others from it,
    /// `[chunks, 1 + others]`, float64, over all rows that all of these have. Reading it would make a GPU wait.
    pub(in crate::eval) fn distances(&self, baseline: usize, others: &[usize]) -> Result<Tensor, ModelError> {
        let baseline = self.held(baseline)?;
        let others = others.iter().map(|&other| self.held(other)).collect::<Result<Vec<_>, _>>()?;
        let at_targets = others.iter().any(|held| held.at_targets) || baseline.at_targets;
        let mut tasks = Vec::new();
        for (Piece { chunk, .. }, (start, length)) in self.pieces.iter().zip(self.target_ranges()?) {
            let rows_of = |held: &Held| match held {
                Held { streams, at_targets: true } => streams.narrow(start, length),
                Held { streams, at_targets: false } if at_targets => {
                    streams.select(&self.target_rows.f_narrow(0, start, length)?)
                }
                Held { streams, at_targets: false } => streams.narrow(chunk.start, chunk.tokens),
            };
            let others = others.iter().map(|held| rows_of(held)).collect::<Result<Vec<_>, _>>()?;
            tasks.push((rows_of(baseline)?, others));
        }
        let chunks = each(self.backend, tasks, |(baseline, others): (Streams, Vec<Streams>)| {
            let reference = baseline.mean()?;
            let mut squares = vec![sum_of_squares(&reference)?];
            for other in others {
                squares.push(squared_distance(&other.mean()?, &reference)?);
            }
            Ok(Tensor::f_stack(&squares, 0)?)
        })?;
        Ok(Tensor::f_stack(&chunks, 0)?)
    }

    /// Where the targets of each chunk are among all of them: first and number.
    fn target_ranges(&self) -> Result<Vec<(i64, i64)>, ModelError> {
        let mut start = 0;
        let ranges = self.pieces.iter().map(|Piece { targets, .. }| {
            let length = targets.size1()?;
            start += length;
            Ok((start - length, length))
        });
        ranges.collect()
    }

    /// Runs the last stage for all distinct variants; the first is the baseline that the others are compared with. Blocks
    /// of rows end where chunks end, so that a chunk's scores do not depend on which others are here.
    pub(in crate::eval) fn score(&self, outputs: &[(OutputStage, usize)]) -> Result<Vec<TargetScores>, ModelError> {
        let most = if self.backend.device == Device::Cpu { CPU_OUTPUT_ROWS } else { to_i64(GPU_OUTPUT_ROWS) };
        let blocks = self.target_ranges()?.into_iter().flat_map(|(first, count)| {
            let starts = (0..count.max(1)).step_by(usize::try_from(most).unwrap_or(1));
            starts.map(move |start| (first + start, most.min(count - start)))
        });
        let tasks = blocks.map(|(start, length)| {
            let rows = self.target_rows.f_narrow(0, start, length)?;
            let picked = outputs.iter().map(|&(_, stream)| match self.held(stream)? {
                Held { streams, at_targets: true } => streams.narrow(start, length),
                Held { streams, at_targets: false } => streams.select(&rows),
            });
            Ok((self.target_ids.f_narrow(0, start, length)?, picked.collect::<Result<Vec<_>, _>>()?))
        });
        let tasks = tasks.collect::<Result<Vec<(Tensor, Vec<Streams>)>, ModelError>>()?;
        let blocks = each(self.backend, tasks, |(ids, picked)| {
            let mut reference: Option<Reference> = None;
            let of_one = |((output, _), rows): (&(OutputStage, usize), &Streams)| {
                let log_probabilities = output.log_probabilities(rows)?;
                let scores = DeviceScores::new(&log_probabilities, &ids, reference.as_ref())?;
                if reference.is_none() && outputs.len() > 1 {
                    reference = Some(Reference::new(log_probabilities)?);
                }
                Ok(scores)
            };
            outputs.iter().zip(&picked).map(of_one).collect::<Result<Vec<_>, ModelError>>()
        })?;
        let mut parts: Vec<Vec<DeviceScores>> = outputs.iter().map(|_| Vec::new()).collect();
        for block in blocks {
            for (parts, scores) in parts.iter_mut().zip(block) {
                parts.push(scores);
            }
        }
        parts.iter().map(|parts| TargetScores::read(parts)).collect()
    }
}

/// Σ‖x‖² of all rows, float64. Squares of float16 overflow.
fn sum_of_squares(rows: &Tensor) -> Result<Tensor, ModelError> {
    if rows.device() == Device::Cpu {
        return Ok(rows.f_to_kind(wide(rows.kind()))?.f_square()?.f_sum(Kind::Double)?);
    }
    Ok(norm(rows)?.f_to_kind(Kind::Double)?.f_square()?)
}

/// Σ‖x − reference‖² of all rows, float64.
fn squared_distance(rows: &Tensor, reference: &Tensor) -> Result<Tensor, ModelError> {
    if rows.device() == Device::Cpu {
        let wide = wide(rows.kind());
        return sum_of_squares(&rows.f_to_kind(wide)?.f_sub(&reference.f_to_kind(wide)?)?);
    }
    let (count, width) = rows.size2()?;
    let step = (DIFFERENCES / (width * to_i64(rows.kind().elt_size_in_bytes())).max(1)).max(1);
    let starts = (0..count.max(1)).step_by(usize::try_from(step).unwrap_or(1));
    let norms = starts.map(|start| {
        let block = |rows: &Tensor| rows.f_narrow(0, start, step.min(count - start));
        // In 16 bits where the streams are, which rounds each difference by a part in 256 at most, up or down.
        norm(&block(rows)?.f_sub(&block(reference)?)?)
    });
    let norms = Tensor::f_stack(&norms.collect::<Result<Vec<_>, _>>()?, 0)?;
    Ok(norms.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?)
}

/// ‖x‖ in at least float32: one pass over memory, in which a GPU's kernel widens, squares and adds.
fn norm(rows: &Tensor) -> Result<Tensor, ModelError> {
    Ok(rows.f_norm_scalaropt_dtype(2, wide(rows.kind()))?)
}
