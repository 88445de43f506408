//! How far the variants' residual streams are from the baseline's, stage by stage.

use std::collections::{BTreeMap, BTreeSet};

use tch::Tensor;

use crate::eval::device_run::DeviceRun;
use crate::eval::outcome::Divergence;
use crate::eval::variant::Variant;
use crate::model::ModelError;

/// What was measured and is not read yet, which would make a GPU wait.
#[derive(Default)]
pub(super) struct Distances(Vec<AfterStage>);

struct AfterStage {
    /// Each variant's column after the first of a device's distances; `None` for those in the baseline's stream.
    columns: Vec<Option<usize>>,
    /// As [`DeviceRun::distances`] gives them, by device.
    distances: Vec<Tensor>,
}

impl Distances {
    /// Measures how far every variant's stream is from the baseline's in every chunk.
    pub(super) fn measure(
        &mut self,
        variants: &[Variant],
        streams: &[Option<usize>],
        devices: &[DeviceRun],
    ) -> Result<(), ModelError> {
        let Some(Some(baseline)) = streams.first().copied() else { return Ok(()) };
        // The noise floor has not all passages.
        let compared = variants.iter().zip(streams).filter(|(variant, _)| !variant.rechunked);
        let others = compared.filter_map(|(_, stream)| *stream).filter(|&stream| stream != baseline);
        let others: Vec<_> = others.collect::<BTreeSet<_>>().into_iter().collect();
        let distances = devices.iter().map(|device| device.distances(baseline, &others)).collect::<Result<_, _>>()?;
        let column = |&stream: &Option<usize>| others.iter().position(|&other| Some(other) == stream);
        self.0.push(AfterStage { columns: streams.iter().map(column).collect(), distances });
        Ok(())
    }

    /// Reads what was measured: by chunk, variant and stage.
    pub(super) fn read(self, devices: &[DeviceRun]) -> Result<BTreeMap<usize, Vec<Vec<Divergence>>>, ModelError> {
        let mut by_chunk = BTreeMap::new();
        for AfterStage { columns, distances } in self.0 {
            for (device, distances) in devices.iter().zip(distances) {
                let width = usize::try_from(distances.size().last().copied().unwrap_or(1)).unwrap_or(1).max(1);
                let read = Vec::<f64>::try_from(&distances.f_flatten(0, -1)?)?;
                for (&number, squares) in device.numbers.iter().zip(read.chunks(width)) {
                    let of_column = |column: usize| squares.get(column).copied().unwrap_or_default();
                    let of_chunk = by_chunk.entry(number).or_insert_with(|| vec![Vec::new(); columns.len()]);
                    for (steps, column) in of_chunk.iter_mut().zip(&columns) {
                        let squared_distance = column.map_or(0.0, |column| of_column(1 + column));
                        steps.push(Divergence { squared_distance, squared_norm: of_column(0) });
                    }
                }
            }
        }
        Ok(by_chunk)
    }
}
