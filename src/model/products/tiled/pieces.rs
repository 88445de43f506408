//! Floats as sums of bfloat16. Three pieces of eight significant bits hold the 24 of a float32 exactly, two the 11 of a
//! float16. Products of pieces are exact in float32, so only their additions round, as in any product of float32.

#![expect(clippy::inline_always, reason = "what stays a call inside a loop keeps it from becoming vector instructions")]

use half::bf16;

use super::registers::{INPUTS, ROWS, Tile};

/// The largest piece of a float, as bits, and what is left of it. Of infinities and NaNs nothing is left.
#[inline(always)]
pub(super) fn split(value: f32) -> (u16, f32) {
    let bits = value.to_bits();
    let upper = f32::from_bits(bits & 0xffff_0000);
    // A NaN whose lower bits alone say so must not become an infinity.
    let quiet = if value.is_nan() { 0x40 } else { 0 };
    ((bits >> 16) as u16 | quiet, if value.is_finite() { value - upper } else { 0.0 })
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
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pack_rows<T: Activations>(rows: &[T], (stride, inputs): (usize, usize), zero: T, tiles: &mut [Tile]) {
    let count = if inputs == 0 { 0 } else { rows.len().saturating_sub(inputs) / stride.max(1) + 1 };
    let steps = inputs.div_ceil(INPUTS);
    let block_tiles = steps * T::PIECES * 2;
    let first_of = |row: usize| row / (2 * ROWS) * block_tiles + row % (2 * ROWS) / ROWS;
    for row in 0..count.next_multiple_of(2 * ROWS) {
        let values = rows.get(row * stride..).filter(|_| row < count).map(|rest| &rest[..inputs]);
        let place = row % ROWS * INPUTS;
        for step in 0..steps {
            let padded;
            let pieces = match values.map(|values| &values[step * INPUTS..]) {
                None => [[0; INPUTS]; 3],
                Some(values) => T::pieces(match values.first_chunk() {
                    Some(whole) => whole,
                    None => {
                        padded = std::array::from_fn(|at| values.get(at).copied().unwrap_or(zero));
                        &padded
                    }
                }),
            };
            let first = first_of(row) + step * T::PIECES * 2;
            for (piece, bits) in pieces.iter().take(T::PIECES).enumerate() {
                tiles[first + 2 * piece].0[place..place + INPUTS].copy_from_slice(bits);
            }
        }
    }
}
