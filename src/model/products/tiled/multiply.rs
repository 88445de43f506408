//! `x Wᵀ` by blocks: some rows of activations are packed so that they stay in a core's second-level cache while all
//! weights go by, a panel at a time.

use std::ops::Range;

use half::bf16;

use super::packed::Packed;
use super::pieces::{Activations, pack_rows};
use super::recycled;
use super::registers::{BLOCK, INPUTS, Pieces, Rows, Tile, Tiles};
use crate::model::kernels;

/// Rows of activations that are packed at once.
const ROWS_AT_ONCE: usize = 4 * BLOCK;

/// Steps of inputs that are packed at once, where sums can wait in the output: 768 KiB of pieces.
const STEPS_AT_ONCE: usize = 32;

/// Where sums begin.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// With this row, which has room for whole blocks.
    Row(&'a [f32]),
    /// With what the output holds.
    Output,
}

/// A block of sums on its way from tiles to an output that does not hold float32, or has no room for whole blocks.
#[repr(C, align(64))]
struct Scratch([[f32; BLOCK]; BLOCK]);

/// Elements of activations and outputs.
pub(super) trait Element: kernels::Element + Activations + Default {
    /// How pieces of activations come together with so many of weights.
    fn with_weights_of(of_weights: usize) -> Pieces;

    /// The output's own memory as float32 sums, if that is what it holds.
    fn as_sums(output: &mut [Self]) -> Option<&mut [f32]>;
}

impl Element for f32 {
    fn with_weights_of(of_weights: usize) -> Pieces {
        match of_weights {
            1 => Pieces::ThreeOne,
            2 => Pieces::ThreeTwo,
            _ => Pieces::ThreeThree,
        }
    }

    fn as_sums(output: &mut [Self]) -> Option<&mut [f32]> {
        Some(output)
    }
}

impl Element for bf16 {
    fn with_weights_of(_of_weights: usize) -> Pieces {
        Pieces::OneOne
    }

    fn as_sums(_output: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}

/// `output ← start + x Wᵀ`: `x` is `[rows, inputs]`, `output` is `[rows, outputs]`.
pub(super) fn multiply<T: Element>(tiles: &Tiles, x: &[T], weights: &Packed, start: Start<'_>, output: &mut [T]) {
    let (inputs, outputs) = (weights.inputs(), weights.outputs());
    let pieces = T::with_weights_of(weights.pieces());
    let steps = inputs.div_ceil(INPUTS);
    let at_once = if T::as_sums(&mut []).is_some() { STEPS_AT_ONCE } else { steps };
    let step_tiles = pieces.tiles().0;
    let mut packed = recycled::take(ROWS_AT_ONCE / BLOCK * at_once.min(steps) * step_tiles);
    let outputs_at_once = ROWS_AT_ONCE * outputs;
    for (x, output) in x.chunks(ROWS_AT_ONCE * inputs).zip(output.chunks_mut(outputs_at_once)) {
        for first in (0..steps).step_by(at_once) {
            let last = steps.min(first + at_once);
            let range = first * INPUTS..inputs.min(last * INPUTS);
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: processors that have tiles have AVX-512, and `tiles` are there.
            unsafe {
                pack_rows(&x[range.start..], (inputs, range.len()), T::default(), &mut packed);
            }
            let start = if first == 0 { start } else { Start::Output };
            let block_tiles = (last - first) * step_tiles;
            for panel in 0..outputs.div_ceil(BLOCK) {
                let weights = weights.tiles(panel, first..last);
                for (at, rows) in output.chunks_mut(BLOCK * outputs).enumerate() {
                    let x = &packed[at * block_tiles..(at + 1) * block_tiles];
                    block(tiles, pieces, (x, weights), start, (rows, outputs), panel * BLOCK);
                }
            }
        }
    }
}

/// One block of sums: of at most [`BLOCK`] rows, the columns from `first` on.
fn block<T: Element>(
    tiles: &Tiles,
    pieces: Pieces,
    (x, weights): (&[Tile], &[Tile]),
    start: Start<'_>,
    (rows, outputs): (&mut [T], usize),
    first: usize,
) {
    let width = BLOCK.min(outputs - first);
    if width == BLOCK
        && rows.len() == BLOCK * outputs
        && let Some(sums) = T::as_sums(rows)
    {
        let out = Rows { first: sums[first..].as_mut_ptr(), stride: outputs };
        let initial = match start {
            Start::Row(row) => Rows { first: row[first..first + BLOCK].as_ptr(), stride: 0 },
            Start::Output => Rows { first: out.first.cast_const(), stride: outputs },
        };
        #[expect(unsafe_code, reason = "tiles are loaded from and stored to memory")]
        // SAFETY: there are 32 whole rows, of at least 32 elements from `first` on; so many has the row to start with.
        return unsafe { tiles.block(pieces, x, weights, initial, out) };
    }
    let mut scratch = Scratch([[0.0; BLOCK]; BLOCK]);
    let columns = first..first + width;
    #[expect(
        unsafe_code,
        reason = "tiles are loaded from and stored to memory, by instructions not every processor has"
    )]
    // SAFETY: the scratch block has 32 rows of 32 elements; processors that have tiles have AVX-512, and `tiles` are there.
    unsafe {
        begin(&mut scratch, start, (rows, outputs), columns.clone());
        let out = Rows { first: scratch.0.as_flattened_mut().as_mut_ptr(), stride: BLOCK };
        let initial = Rows { first: out.first.cast_const(), stride: BLOCK };
        tiles.block(pieces, x, weights, initial, out);
        finish(&scratch, (rows, outputs), columns);
    }
}

/// Puts where the sums begin into the scratch block.
#[target_feature(enable = "avx512f,avx512bw")]
fn begin<T: Element>(scratch: &mut Scratch, start: Start<'_>, (rows, outputs): (&[T], usize), columns: Range<usize>) {
    for (sums, row) in scratch.0.iter_mut().zip(rows.chunks(outputs)) {
        match start {
            Start::Row(row) => sums.copy_from_slice(&row[columns.start..][..BLOCK]),
            Start::Output => {
                for (sum, &value) in sums.iter_mut().zip(&row[columns.clone()]) {
                    *sum = value.widen();
                }
            }
        }
    }
}

/// Takes the sums to the output.
#[target_feature(enable = "avx512f,avx512bw")]
fn finish<T: Element>(scratch: &Scratch, (rows, outputs): (&mut [T], usize), columns: Range<usize>) {
    for (sums, row) in scratch.0.iter().zip(rows.chunks_mut(outputs)) {
        let row = &mut row[columns.clone()];
        // Of a length known beforehand the loop becomes a few instructions.
        if let Ok(row) = <&mut [T; BLOCK]>::try_from(&mut *row) {
            for (value, &sum) in row.iter_mut().zip(sums) {
                *value = T::narrow(sum);
            }
        } else {
            for (value, &sum) in row.iter_mut().zip(sums) {
                *value = T::narrow(sum);
            }
        }
    }
}
