//! Floats as sums of bfloat16. Three pieces of eight significant bits hold the 24 of a float32 exactly, two the 11 of a
//! float16. Products of pieces are exact in float32, so only their additions round, as in any product of float32.

#![expect(clippy::inline_always, reason = "what stays a call inside a loop keeps it from becoming vector instructions")]

use half::bf16;

use super::registers::{BLOCK, INPUTS, ROWS, Tile};

/// The largest piece of a float, as bits, and what is left of it. Of an infinity no number is left.
#[inline(always)]
pub(super) fn split(value: f32) -> (u16, f32) {
    let bits = value.to_bits();
    ((bits >> 16) as u16, value - f32::from_bits(bits & 0xffff_0000))
}

/// Rows of activations that are packed into tiles.
pub(super) trait Activations: Copy {
    /// Pieces of an element.
    const PIECES: usize;

    /// The pieces of 32 elements, largest first.
    fn pieces(row: &[Self; INPUTS]) -> [[u16; INPUTS]; 3];
}

impl Activations for f32 {
    const PIECES: usize = 3;

    #[inline(always)]
    fn pieces(row: &[Self; INPUTS]) -> [[u16; INPUTS]; 3] {
        let mut pieces = [[0; INPUTS]; 3];
        for (at, &value) in row.iter().enumerate() {
            let (first, rest) = split(value);
            let (second, rest) = split(rest);
            (pieces[0][at], pieces[1][at], pieces[2][at]) = (first, second, split(rest).0);
        }
        pieces
    }
}

impl Activations for bf16 {
    const PIECES: usize = 1;

    #[inline(always)]
    fn pieces(row: &[Self; INPUTS]) -> [[u16; INPUTS]; 3] {
        [row.map(Self::to_bits), [0; INPUTS], [0; INPUTS]]
    }
}

/// Packs rows of `inputs` elements, `stride` apart, into tiles: by blocks of 32 rows, steps of 32 inputs, pieces, and the
/// two halves of the block. What is missing of the last block and the last step is 0. `tiles` has room for all of it.
///
/// Tile by tile: going along rows writes a line here and a line there, which all fall into few sets of the cache.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows<T: Activations>(rows: &[T], (stride, inputs): (usize, usize), zero: T, tiles: &mut [Tile]) {
    let count = rows.len().saturating_sub(inputs) / stride + 1;
    let steps = inputs.div_ceil(INPUTS);
    for half in 0..2 * count.div_ceil(BLOCK) {
        let first = half / 2 * steps * T::PIECES * 2 + half % 2;
        for (step, tiles) in tiles[first..].chunks_mut(T::PIECES * 2).take(steps).enumerate() {
            let inputs = step * INPUTS..inputs.min((step + 1) * INPUTS);
            for place in 0..ROWS {
                let row = half * ROWS + place;
                let values = if row < count { &rows[row * stride..][inputs.clone()] } else { &[] };
                let pieces = match values.first_chunk() {
                    Some(whole) => T::pieces(whole),
                    None => {
                        let mut padded = [zero; INPUTS];
                        padded[..values.len()].copy_from_slice(values);
                        T::pieces(&padded)
                    }
                };
                for (tile, piece) in tiles.iter_mut().step_by(2).zip(&pieces) {
                    tile.0[place * INPUTS..][..INPUTS].copy_from_slice(piece);
                }
            }
        }
    }
}

/// Packs a panel of at most 32 outputs' weights, rows of `inputs` elements: by steps, pieces, and the two halves of the
/// panel, two inputs side by side. Every tile is written whole.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_panel(weights: &[f32], inputs: usize, pieces: usize, tiles: &mut [Tile]) {
    for (step, tiles) in tiles.chunks_exact_mut(2 * pieces).enumerate() {
        for output in 0..BLOCK {
            let mut values = [0.0; INPUTS];
            let start = output * inputs + step * INPUTS;
            let row = weights.get(start..(output + 1) * inputs).unwrap_or_default();
            let count = row.len().min(INPUTS);
            values[..count].copy_from_slice(&row[..count]);
            let column = 2 * (output % ROWS);
            for (tiles, piece) in tiles.chunks_exact_mut(2).zip(&f32::pieces(&values)) {
                let tile = &mut tiles[output / ROWS].0;
                for (row, pair) in tile.as_chunks_mut::<INPUTS>().0.iter_mut().zip(piece.as_chunks::<2>().0) {
                    row[column..column + 2].copy_from_slice(pair);
                }
            }
        }
    }
}
