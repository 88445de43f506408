//! A weight matrix in the order in which tiles take it, and ranges of it, such as a rank's, without another copy.

use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::pieces::{pack_panel, split};
use super::recycled::{self, Recycled};
use super::registers::{self, BLOCK, INPUTS, Tile};
use crate::model::{Backend, ModelError, each};
use crate::tensor::{DType, HostTensor};

/// `[outputs, inputs]` in tiles: by panels of 32 outputs, steps of 32 inputs, pieces, and the two halves of the panel.
#[derive(Debug)]
struct Tiled {
    tiles: Recycled,
    pieces: usize,
    steps: usize,
}

/// A range of a packed matrix. Cloning shares the tiles.
#[derive(Debug, Clone)]
pub(in crate::model) struct Packed {
    tiled: Arc<Tiled>,
    first_panel: usize,
    first_step: usize,
    /// Columns of the product.
    pub(super) outputs: usize,
    /// Columns of the activations.
    pub(super) inputs: usize,
    /// Whether the last inputs come first.
    pub(super) backwards: bool,
}

impl Packed {
    /// Packs a matrix `[outputs, inputs]`, in as many pieces as its elements have. `None` if it is not a matrix of floats
    /// of at most 32 bits.
    pub(in crate::model) fn new(backend: Backend, matrix: &HostTensor) -> Result<Option<Self>, ModelError> {
        let (&[outputs, inputs], DType::F16 | DType::BF16 | DType::F32) = (matrix.shape(), matrix.dtype()) else {
            return Ok(None);
        };
        if outputs == 0 || inputs == 0 || !registers::available() {
            return Ok(None);
        }
        let steps = inputs.div_ceil(INPUTS);
        let pieces = match matrix.dtype() {
            DType::BF16 => 1,
            DType::F16 => 2,
            _ => pieces_of_f32(backend, matrix.bytes())?,
        };
        let panel_tiles = steps * pieces * 2;
        let mut tiles = recycled::take(outputs.div_ceil(BLOCK) * panel_tiles);
        let row_bytes = inputs * matrix.dtype().size();
        let panels: Vec<_> = tiles.chunks_mut(panel_tiles).zip(matrix.bytes().chunks(BLOCK * row_bytes)).collect();
        each(backend, panels, |(tiles, rows)| {
            let mut values = vec![0.0; rows.len() / matrix.dtype().size()];
            widen(matrix.dtype(), rows, &mut values);
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            // SAFETY: processors that have tiles have AVX-512, and nothing is packed where there are no tiles.
            unsafe {
                pack_panel(&values, inputs, pieces, tiles);
            }
            Ok(())
        })?;
        let tiled = Arc::new(Tiled { tiles, pieces, steps });
        Ok(Some(Self { tiled, first_panel: 0, first_step: 0, outputs, inputs, backwards: false }))
    }

    /// A range of outputs (dimension 0) or of inputs (1). `None` where tiles would have to be cut.
    pub(in crate::model) fn narrow(&self, dim: usize, range: Range<usize>) -> Option<Self> {
        let (extent, unit) = if dim == 0 { (self.outputs, BLOCK) } else { (self.inputs, INPUTS) };
        let whole = range.start.is_multiple_of(unit) && (range.end.is_multiple_of(unit) || range.end == extent);
        if !whole || range.end > extent || range.is_empty() {
            return None;
        }
        let mut part = self.clone();
        if dim == 0 {
            (part.first_panel, part.outputs) = (self.first_panel + range.start / unit, range.len());
        } else {
            (part.first_step, part.inputs) = (self.first_step + range.start / unit, range.len());
        }
        Some(part)
    }

    /// The same matrix, to be summed over in another order: what rounding alone changes can then be seen.
    pub(in crate::model) fn in_other_order(self) -> Self {
        Self { backwards: true, ..self }
    }

    pub(in crate::model) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn pieces(&self) -> usize {
        self.tiled.pieces
    }

    /// The tiles of a panel and of some steps, both counted from the range's first.
    pub(super) fn tiles(&self, panel: usize, steps: Range<usize>) -> &[Tile] {
        let step_tiles = 2 * self.tiled.pieces;
        let first = ((self.first_panel + panel) * self.tiled.steps + self.first_step) * step_tiles;
        &self.tiled.tiles[first + steps.start * step_tiles..first + steps.end * step_tiles]
    }
}

/// The most pieces that any of these elements has.
fn pieces_of_f32(backend: Backend, bytes: &[u8]) -> Result<usize, ModelError> {
    const AT_ONCE: usize = 1 << 20;
    let counts = each(backend, bytes.chunks(AT_ONCE).collect(), |bytes: &[u8]| {
        // Bits of the second and of the third piece, of all elements together.
        let (mut second, mut third) = (0.0_f32, 0.0_f32);
        for element in bytes.as_chunks().0 {
            let (_, rest) = split(f32::from_le_bytes(*element));
            second = second.max(rest.abs());
            third = third.max(split(rest).1.abs());
        }
        Ok(if third > 0.0 {
            3
        } else if second > 0.0 {
            2
        } else {
            1
        })
    })?;
    Ok(counts.into_iter().max().unwrap_or(1))
}

fn widen(dtype: DType, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        DType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).convert_to_f32_slice(values),
        DType::BF16 => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).convert_to_f32_slice(values),
        _ => {
            for (value, element) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*element);
            }
        }
    }
}
