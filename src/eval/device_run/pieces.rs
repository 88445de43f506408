//! The chunks of a device, and running one in parts where a GPU's memory does not suffice for the whole.

use tch::{Device, Tensor};

use super::super::packing;
use crate::model::{Chunk, Group, ModelError, Streams, to_i64};

/// A chunk with the rows of its targets.
pub(super) struct Piece {
    pub chunk: Chunk,
    /// Rows that predict a target, counted from the chunk's first, int64, on the device.
    pub targets: Tensor,
}

/// Runs a chunk, changing its rows; where a GPU's memory does not suffice, in halves, and these in halves if need be.
/// Gives what `work` gave for every part.
pub(super) fn in_parts<T>(
    rows: &mut Streams,
    chunk: &Chunk,
    work: &dyn Fn(&mut Streams, &Chunk) -> Result<T, ModelError>,
) -> Result<Vec<T>, ModelError> {
    // A CPU's allocator does not fail (the system kills the process later): no copy to go back to is kept there.
    let before = if rows.of_rank(0).device() == Device::Cpu { None } else { Some(rows.deep_copy()?) };
    let error = match work(rows, chunk) {
        Ok(done) => return Ok(vec![done]),
        Err(error) => error,
    };
    let (true, Some(before), Some(halves)) = (error.is_out_of_memory(), before, chunk.halves()?) else {
        return Err(error);
    };
    rows.copy_from(&before)?;
    let mut done = Vec::new();
    for half in halves {
        let mut rows = rows.narrow(half.start - chunk.start, half.tokens)?;
        done.extend(in_parts(&mut rows, &half, work)?);
    }
    Ok(done)
}

pub(super) fn pieces(chunks: &[packing::Chunk], positions: &Tensor) -> Result<Vec<Piece>, ModelError> {
    chunks
        .iter()
        .map(|chunk| {
            let (start, tokens) = (to_i64(chunk.rows.start), to_i64(chunk.rows.len()));
            let groups = chunk.groups.iter().map(|group| Group {
                start: to_i64(group.start),
                passages: to_i64(group.passage_count),
                length: to_i64(group.length),
            });
            let targets: Vec<_> = chunk.targets.iter().map(|target| to_i64(target.row)).collect();
            let targets = Tensor::f_from_slice(&targets)?.f_to_device(positions.device())?;
            let positions = positions.f_narrow(0, start, tokens)?;
            Ok(Piece { chunk: Chunk { start, tokens, groups: groups.collect(), positions }, targets })
        })
        .collect()
}

#[cfg(test)]
mod tests;
