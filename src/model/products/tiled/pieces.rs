//! Floats as sums of bfloat16. Three pieces of eight significant bits hold the 24 of a float32 exactly, two the 11 of a
//! float16. Products of pieces are exact in float32, so only their additions round, as in any product of float32.

#![expect(clippy::inline_always, reason = "what stays a call inside a loop keeps it from becoming vector instructions")]

use super::registers::{BLOCK, INPUTS, ROWS, Tile};

/// The largest piece of a float, as bits, and what is left of it. Of an infinity no number is left.
#[inline(always)]
pub(super) fn split(value: f32) -> (u16, f32) {
    let bits = value.to_bits();
    ((bits >> 16) as u16, value - f32::from_bits(bits & 0xffff_0000))
}

pub(super) const PIECES: usize = 3;

/// The pieces of 32 elements, largest first.
#[inline(always)]
fn pieces_of(row: &[f32; INPUTS]) -> [[u16; INPUTS]; PIECES] {
    let mut pieces = [[0; INPUTS]; PIECES];
    for (at, &value) in row.iter().enumerate() {
        let (first, rest) = split(value);
        let (second, rest) = split(rest);
        (pieces[0][at], pieces[1][at], pieces[2][at]) = (first, second, split(rest).0);
    }
    pieces
}

/// Packs rows of `inputs` elements, `stride` apart, into tiles: by blocks of 32 rows, steps of 32 inputs, pieces, and the
/// two halves of the block. What is missing of the last block and the last step is 0. `tiles` has room for all of it.
///
/// Tile by tile: going along rows writes a line here and a line there, which all fall into few sets of the cache.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows(rows: &[f32], stride: usize, inputs: usize, tiles: &mut [Tile]) {
    let count = rows.len().saturating_sub(inputs) / stride + 1;
    let steps = inputs.div_ceil(INPUTS);
    for half in 0..2 * count.div_ceil(BLOCK) {
        let first = half / 2 * steps * PIECES * 2 + half % 2;
        for (step, tiles) in tiles[first..].chunks_mut(PIECES * 2).take(steps).enumerate() {
            let inputs = step * INPUTS..inputs.min((step + 1) * INPUTS);
            for place in 0..ROWS {
                let row = half * ROWS + place;
                let values = if row < count { &rows[row * stride..][inputs.clone()] } else { &[] };
                let pieces = if let Some(whole) = values.first_chunk() {
                    pieces_of(whole)
                } else {
                    let mut padded = [0.0; INPUTS];
                    padded[..values.len()].copy_from_slice(values);
                    pieces_of(&padded)
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
            for (tiles, piece) in tiles.chunks_exact_mut(2).zip(&pieces_of(&values)) {
                let tile = &mut tiles[output / ROWS].0;
                for (row, pair) in tile.as_chunks_mut::<INPUTS>().0.iter_mut().zip(piece.as_chunks::<2>().0) {
                    row[column..column + 2].copy_from_slice(pair);
                }
            }
        }
    }
}
