//! How far the variants' residual streams are from the baseline's, stage by stage.

use std::collections::BTreeSet;
use std::time::Instant;

use tch::Tensor;

use super::SliceRun;
use crate::eval::EvalError;
use crate::eval::outcome::Divergence;
use crate::model::ModelError;
use crate::partition::StageId;

/// How far streams are from the baseline's after a stage, not read yet.
pub(super) struct Measured {
    /// Each variant's column after the first of a device's distances; `None` for those in the baseline's stream.
    columns: Vec<Option<usize>>,
    /// As [`DeviceRun::distances`] gives them, by device.
    distances: Vec<Tensor>,
}

impl SliceRun<'_> {
    /// Measures how far every variant's stream is from the baseline's in every chunk, where that was asked for.
    pub(super) fn measure_divergence(&mut self, id: StageId) -> Result<(), EvalError> {
        if id == StageId::Output || !self.divergence {
            return Ok(());
        }
        let Some(Some(baseline)) = self.streams.first().copied() else { return Ok(()) };
        let measuring = Instant::now();
        // The noise floor has not all passages.
        let compared = self.models.variants.iter().zip(&self.streams).filter(|(variant, _)| !variant.rechunked);
        let others = compared.filter_map(|(_, stream)| *stream).filter(|&stream| stream != baseline);
        let others: Vec<_> = others.collect::<BTreeSet<_>>().into_iter().collect();
        let failed = |source| EvalError::Model { stage: id, source };
        let measured = self.devices.iter().map(|device| device.distances(baseline, &others));
        let distances = measured.collect::<Result<_, _>>().map_err(failed)?;
        let column = |&stream: &Option<usize>| others.iter().position(|&other| Some(other) == stream);
        self.measured.push(Measured { columns: self.streams.iter().map(column).collect(), distances });
        self.devices.iter().try_for_each(|device| device.backend.synchronize()).map_err(failed)?;
        self.outcome.timings.divergence += measuring.elapsed();
        Ok(())
    }

    /// Reads what was measured after every stage.
    pub(super) fn read_divergence(&mut self) -> Result<(), ModelError> {
        let reading = Instant::now();
        for Measured { columns, distances } in std::mem::take(&mut self.measured) {
            for (device, distances) in self.devices.iter().zip(distances) {
                let width = usize::try_from(distances.size().last().copied().unwrap_or(1)).unwrap_or(1).max(1);
                let read = Vec::<f64>::try_from(&distances.f_flatten(0, -1)?)?;
                for (&number, squares) in device.numbers.iter().zip(read.chunks(width)) {
                    let of_column = |column: usize| squares.get(column).copied().unwrap_or_default();
                    let variants = vec![Vec::new(); columns.len()];
                    let of_chunk = self.outcome.divergence.entry(number).or_insert(variants);
                    for (steps, column) in of_chunk.iter_mut().zip(&columns) {
                        let squared_distance = column.map_or(0.0, |column| of_column(1 + column));
                        steps.push(Divergence { squared_distance, squared_norm: of_column(0) });
                    }
                }
            }
        }
        self.outcome.timings.divergence += reading.elapsed();
        Ok(())
    }
}
