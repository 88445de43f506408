//! Rotary embedding in gpt-neox's half-rotation form (`megatron/model/positional_embeddings.py`).

use tch::{Kind, Tensor};

use super::weights::to_i64;
use super::{Backend, Chunk, ModelError};
use crate::config::{Architecture, Positions};

/// Cosines and sines for every position, `[positions, dims / 2]`, made in float32 (float64 for float64 models) and cast
/// to the compute type, as gpt-neox does since 3bfedf47.
#[derive(Debug)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
    dims: i64,
}

/// The rows of the table that a chunk needs, `[tokens, 1, dims / 2]`.
#[derive(Debug)]
pub(super) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    dims: i64,
}

impl RotaryTable {
    /// A table for `positions` positions; `None` for models without rotary embedding.
    ///
    /// # Errors
    /// No memory for it.
    pub fn new(architecture: &Architecture, backend: Backend, positions: usize) -> Result<Option<Self>, ModelError> {
        let Positions::Rotary { dims, base } = architecture.positions else { return Ok(None) };
        let dims = to_i64(dims);
        let wide = if backend.kind == Kind::Double { Kind::Double } else { Kind::Float };
        let on_device = (wide, backend.device);
        let exponents = Tensor::f_arange_start_step(0, dims, 2, on_device)?.f_div_scalar(dims)?;
        let frequencies = exponents.f_neg()?.f_mul_scalar(base.ln())?.f_exp()?;
        let angles = Tensor::f_arange(to_i64(positions), on_device)?.f_outer(&frequencies)?;
        let (cos, sin) = (angles.f_cos()?.f_to_kind(backend.kind)?, angles.f_sin()?.f_to_kind(backend.kind)?);
        Ok(Some(Self { cos, sin, dims }))
    }

    pub(super) fn rows(&self, chunk: &Chunk) -> Result<Rotation, ModelError> {
        let pick = |table: &Tensor| table.f_index_select(0, &chunk.positions)?.f_unsqueeze(1);
        Ok(Rotation { cos: pick(&self.cos)?, sin: pick(&self.sin)?, dims: self.dims })
    }
}

impl Rotation {
    /// Rotates the first `dims` elements of every head in place: `(x1, x2) → (x1 cos − x2 sin, x2 cos + x1 sin)`.
    /// `heads` is `[tokens, heads, head size]`.
    pub(super) fn apply(&self, heads: &Tensor) -> Result<(), ModelError> {
        let half = self.dims / 2;
        let (mut first, mut second) = (heads.f_narrow(-1, 0, half)?, heads.f_narrow(-1, half, half)?);
        let rotated_first = first.f_mul(&self.cos)?.f_sub_(&second.f_mul(&self.sin)?)?;
        let rotated_second = second.f_mul(&self.cos)?.f_add_(&first.f_mul(&self.sin)?)?;
        first.f_copy_(&rotated_first)?;
        second.f_copy_(&rotated_second)?;
        Ok(())
    }
}
