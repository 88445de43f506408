//! Reading residual streams: scores at the targets, and distances between streams. Chunk by chunk, so that the
//! numbers of a chunk do not depend on which others are here.

use tch::{Device, Kind, Tensor};

use super::super::outcome::Divergence;
use super::pieces::Piece;
use super::{DeviceRun, Held};
use crate::model::{DeviceScores, ModelError, OutputStage, Reference, Streams, TargetScores, each, wide};

/// Positions whose logits exist at once, for each thread; a row of a 50,432-word vocabulary takes 200 kB in float32.
const CPU_OUTPUT_ROWS: i64 = 64;

/// The same on a GPU, which needs more to be busy.
const GPU_OUTPUT_ROWS: i64 = 512;

impl DeviceRun {
    /// How far a stream is from the baseline's in every chunk, over all rows that the streams have.
    pub(in crate::eval) fn distance(&self, baseline: usize, stream: usize) -> Result<Vec<Divergence>, ModelError> {
        let (baseline, other) = (self.held(baseline)?, self.held(stream)?);
        let mut tasks = Vec::new();
        for (Piece { chunk, .. }, (start, length)) in self.pieces.iter().zip(self.target_ranges()?) {
            let rows_of = |held: &Held| match held {
                Held { streams, at_targets: true } => streams.narrow(start, length),
                Held { streams, at_targets: false } if baseline.at_targets || other.at_targets => {
                    streams.select(&self.target_rows.f_narrow(0, start, length)?)
                }
                Held { streams, at_targets: false } => streams.narrow(chunk.start, chunk.tokens),
            };
            tasks.push((rows_of(baseline)?, rows_of(other)?));
        }
        // Squares of float16 overflow.
        let wide = wide(self.backend.kind);
        let parts = each(self.backend, tasks, |(baseline, other)| {
            let reference = baseline.mean()?.f_to_kind(wide)?;
            let difference = other.mean()?.f_to_kind(wide)?.f_sub(&reference)?;
            let sum_of_squares = |x: &Tensor| x.f_square()?.f_sum(Kind::Double);
            Ok((sum_of_squares(&difference)?, sum_of_squares(&reference)?))
        })?;
        let read = |(difference, reference): (Tensor, Tensor)| {
            Ok(Divergence {
                squared_distance: difference.f_double_value(&[])?,
                squared_norm: reference.f_double_value(&[])?,
            })
        };
        parts.into_iter().map(read).collect()
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
        let most = if self.backend.device == Device::Cpu { CPU_OUTPUT_ROWS } else { GPU_OUTPUT_ROWS };
        let blocks = self.target_ranges()?.into_iter().flat_map(|(first, count)| {
            let starts = (0..count).step_by(usize::try_from(most).unwrap_or(1));
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
