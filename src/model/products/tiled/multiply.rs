//! `x Wᵀ` by blocks: some rows of activations are packed so that they stay in a core's second-level cache while all
//! weights go by, a panel at a time.

use super::packed::Packed;
use super::pieces::pack_rows;
use super::recycled;
use super::registers::{BLOCK, INPUTS, Rows, Tile, Tiles, X_TILES};

/// Rows of activations that are packed at once.
const ROWS_AT_ONCE: usize = 4 * BLOCK;

/// Steps of inputs that are packed at once, 768 KiB of pieces with so many rows; meanwhile sums wait in the output.
const STEPS_AT_ONCE: usize = 32;

/// Where sums begin.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// With this row, which has room for whole blocks.
    Row(&'a [f32]),
    /// With what the output holds.
    Output,
}

/// A block of sums on its way between tiles and an output that has no room for all of it.
#[repr(C, align(64))]
struct Scratch([[f32; BLOCK]; BLOCK]);

/// `output ← start + x Wᵀ`: `x` is `[rows, inputs]`, `output` is `[rows, outputs]`.
pub(super) fn multiply(tiles: &Tiles, x: &[f32], weights: &Packed, start: Start<'_>, output: &mut [f32]) {
    let (inputs, outputs) = (weights.inputs, weights.outputs);
    let pieces = weights.pieces();
    let steps = inputs.div_ceil(INPUTS);
    // Backwards there are two parts at least.
    let at_once = if weights.backwards { STEPS_AT_ONCE.min(steps.div_ceil(2)) } else { STEPS_AT_ONCE };
    let mut packed = recycled::take(ROWS_AT_ONCE / BLOCK * STEPS_AT_ONCE.min(steps) * X_TILES);
    let outputs_at_once = ROWS_AT_ONCE * outputs;
    for (x, output) in x.chunks(ROWS_AT_ONCE * inputs).zip(output.chunks_mut(outputs_at_once)) {
        for (turn, first) in first_steps(steps, at_once, weights.backwards).enumerate() {
            let last = steps.min(first + at_once);
            let range = first * INPUTS..inputs.min(last * INPUTS);
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: processors that have tiles have AVX-512, and `tiles` are there.
            unsafe {
                pack_rows(&x[range.start..], inputs, range.len(), &mut packed);
            }
            let start = if turn == 0 { start } else { Start::Output };
            let block_tiles = (last - first) * X_TILES;
            for panel in 0..outputs.div_ceil(BLOCK) {
                let weights = weights.tiles(panel, first..last);
                for (at, rows) in output.chunks_mut(BLOCK * outputs).enumerate() {
                    let x = &packed[at * block_tiles..(at + 1) * block_tiles];
                    let output = Columns { rows, outputs, first: panel * BLOCK };
                    block(tiles, pieces, (x, weights), start, output);
                }
            }
        }
    }
}

/// Where the parts of so many steps begin, in the order in which they are summed.
fn first_steps(steps: usize, at_once: usize, backwards: bool) -> impl Iterator<Item = usize> {
    let count = steps.div_ceil(at_once);
    (0..count).map(move |turn| at_once * if backwards { count - 1 - turn } else { turn })
}

/// At most [`BLOCK`] rows of `outputs` elements each, of which the columns from `first` on are meant.
struct Columns<'a> {
    rows: &'a mut [f32],
    outputs: usize,
    first: usize,
}

/// One block of sums, of `x` and `weights` in tiles.
fn block(tiles: &Tiles, pieces: usize, (x, weights): (&[Tile], &[Tile]), start: Start<'_>, output: Columns<'_>) {
    let Columns { rows, outputs, first } = output;
    let width = BLOCK.min(outputs - first);
    if width == BLOCK && rows.len() == BLOCK * outputs {
        let out = Rows { first: rows[first..].as_mut_ptr(), stride: outputs };
        let initial = match start {
            Start::Row(row) => Rows { first: row[first..first + BLOCK].as_ptr(), stride: 0 },
            Start::Output => Rows { first: out.first.cast_const(), stride: outputs },
        };
        #[expect(unsafe_code, reason = "tiles are loaded from and stored to memory")]
        // SAFETY: there are 32 whole rows, of at least 32 elements from `first` on; so many has the row to start with.
        return unsafe { tiles.block(pieces, x, weights, initial, out) };
    }
    let mut scratch = Scratch([[0.0; BLOCK]; BLOCK]);
    for (sums, row) in scratch.0.iter_mut().zip(rows.chunks(outputs)) {
        match start {
            Start::Row(row) => sums.copy_from_slice(&row[first..first + BLOCK]),
            Start::Output => sums[..width].copy_from_slice(&row[first..first + width]),
        }
    }
    let out = Rows { first: scratch.0.as_flattened_mut().as_mut_ptr(), stride: BLOCK };
    let initial = Rows { first: out.first.cast_const(), stride: BLOCK };
    #[expect(unsafe_code, reason = "tiles are loaded from and stored to memory")]
    // SAFETY: the scratch block has 32 rows of 32 elements.
    unsafe {
        tiles.block(pieces, x, weights, initial, out);
    }
    for (sums, row) in scratch.0.iter().zip(rows.chunks_mut(outputs)) {
        row[first..first + width].copy_from_slice(&sums[..width]);
    }
}
