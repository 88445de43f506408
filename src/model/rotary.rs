//! Rotary embedding in gpt-neox's half-rotation form, and the fixed sinusoidal positions that are made of the same
//! angles (`megatron/model/positional_embeddings.py`).

use tch::{Kind, Tensor};

use super::extent::to_i64;
use super::{Backend, Chunk, ModelError, kernels};
use crate::config::{Architecture, Positions, Precision, RotaryScaling, RotaryTables};

/// Cosines and sines for every position, `[positions, dims / 2]`, made by the quirk `rotary-tables` and cast to the
/// compute type. By default they are made in float32 (float64 for float64 models), as gpt-neox does since 3bfedf47.
#[derive(Debug)]
pub struct RotaryTable {
    cos: Tensor,
    sin: Tensor,
    dims: i64,
}

/// Which values are rounded to the files' type on the way to cosines and sines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Nothing,
    /// Positions, frequencies, their products, cosines and sines.
    Everything(Kind),
    /// The products, cosines and sines.
    Angles(Kind),
}

impl Rounding {
    /// In float32 files nothing is rounded to less than the model computes with.
    fn new(everything: bool, storage: Precision) -> Self {
        let kind = match storage {
            Precision::Fp16 => Kind::Half,
            Precision::Bf16 => Kind::BFloat16,
            Precision::Fp32 => return Self::Nothing,
        };
        if everything { Self::Everything(kind) } else { Self::Angles(kind) }
    }
}

/// Cosines and sines of position · frequency, `[positions, dims / 2]`, in at least float32. The frequencies are
/// base^(−2i / dims), and scaled where they are.
fn cosines_and_sines(
    (dims, base, scaling): (i64, f64, Option<RotaryScaling>),
    positions: i64,
    backend: Backend,
    rounding: Rounding,
) -> Result<(Tensor, Tensor), ModelError> {
    let wide = if backend.kind == Kind::Double && rounding == Rounding::Nothing { Kind::Double } else { Kind::Float };
    let on_device = (wide, backend.device);
    let rounded = |tensor: Tensor, kind: Kind| tensor.f_to_kind(kind)?.f_to_kind(wide);
    let exponents = Tensor::f_arange_start_step(0, dims, 2, on_device)?.f_div_scalar(dims)?;
    let mut frequencies = Tensor::f_pow_scalar(base, &exponents)?.f_reciprocal()?;
    if let Some(scaling) = scaling {
        frequencies = scaled(&frequencies, scaling)?;
    }
    let mut steps = Tensor::f_arange(positions, on_device)?;
    if let Rounding::Everything(kind) = rounding {
        (frequencies, steps) = (rounded(frequencies, kind)?, rounded(steps, kind)?);
    }
    let mut angles = steps.f_outer(&frequencies)?;
    let (Rounding::Everything(kind) | Rounding::Angles(kind)) = rounding else {
        return Ok((angles.f_cos()?, angles.f_sin()?));
    };
    angles = rounded(angles, kind)?;
    Ok((rounded(angles.f_cos()?, kind)?, rounded(angles.f_sin()?, kind)?))
}

/// The frequencies as transformers scales them (`modeling_rope_utils.py`, `_compute_llama3_parameters` and
/// `_compute_linear_scaling_rope_parameters`).
fn scaled(frequencies: &Tensor, scaling: RotaryScaling) -> Result<Tensor, ModelError> {
    let (factor, low, high, positions) = match scaling {
        RotaryScaling::Linear { factor } => return Ok(frequencies.f_div_scalar(factor)?),
        RotaryScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
            (factor, low_freq_factor, high_freq_factor, original_positions)
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of positions")]
    let positions = positions as f64;
    let wavelengths = frequencies.f_reciprocal()?.f_mul_scalar(std::f64::consts::TAU)?;
    let slow = wavelengths.f_gt(positions / low)?;
    let fast = wavelengths.f_lt(positions / high)?;
    let divided = frequencies.f_div_scalar(factor)?;
    // How near to the fast ones, 0 to 1.
    let share = wavelengths.f_reciprocal()?.f_mul_scalar(positions)?.f_sub_scalar(low)?.f_div_scalar(high - low)?;
    let rest = share.f_neg()?.f_add_scalar(1)?;
    let between = rest.f_mul(frequencies)?.f_div_scalar(factor)?.f_add(&share.f_mul(frequencies)?)?;
    Ok(divided.f_where_self(&slow, &frequencies.f_where_self(&fast, &between)?)?)
}

/// Sines, then cosines, of every position, `[positions, hidden]`. The frequencies are a buffer, so they are in the
/// files' type whatever the version of gpt-neox.
pub(super) fn sinusoidal(architecture: &Architecture, backend: Backend, positions: i64) -> Result<Tensor, ModelError> {
    let rounding = Rounding::new(true, architecture.storage);
    let (cos, sin) =
        cosines_and_sines((to_i64(architecture.hidden_size), 10_000.0, None), positions, backend, rounding)?;
    Ok(Tensor::f_cat(&[sin, cos], -1)?.f_to_kind(backend.kind)?)
}

impl RotaryTable {
    /// A table for `positions` positions; `None` for models without rotary embedding.
    pub fn new(architecture: &Architecture, backend: Backend, positions: usize) -> Result<Option<Self>, ModelError> {
        let Positions::Rotary { dims, base, scaling } = architecture.positions else { return Ok(None) };
        let dims = to_i64(dims);
        let rounding = match architecture.rotary_tables {
            RotaryTables::Float32 => Rounding::Nothing,
            RotaryTables::Storage => Rounding::new(true, architecture.storage),
            RotaryTables::RoundedAngles => Rounding::new(false, architecture.storage),
        };
        let (cos, sin) = cosines_and_sines((dims, base, scaling), to_i64(positions), backend, rounding)?;
        Ok(Some(Self { cos: cos.f_to_kind(backend.kind)?, sin: sin.f_to_kind(backend.kind)?, dims }))
    }

    /// The rows for a chunk's positions, `[tokens, 1, dims / 2]`.
    pub(super) fn rows(&self, chunk: &Chunk) -> Result<Self, ModelError> {
        let pick = |table: &Tensor| table.f_index_select(0, &chunk.positions)?.f_unsqueeze(1);
        Ok(Self { cos: pick(&self.cos)?, sin: pick(&self.sin)?, dims: self.dims })
    }

    /// Rotates the first `dims` elements of every head in place: `(x1, x2) → (x1 cos − x2 sin, x2 cos + x1 sin)`.
    /// `heads` is `[tokens, heads, head size]`; the table is a chunk's.
    pub(super) fn apply(&self, heads: &Tensor) -> Result<(), ModelError> {
        if kernels::rotate(heads, &self.cos, &self.sin) {
            return Ok(());
        }
        let half = self.dims / 2;
        let (mut first, mut second) = (heads.f_narrow(-1, 0, half)?, heads.f_narrow(-1, half, half)?);
        let rotated_first = first.f_mul(&self.cos)?.f_sub_(&second.f_mul(&self.sin)?)?;
        let rotated_second = second.f_mul(&self.cos)?.f_add_(&first.f_mul(&self.sin)?)?;
        first.f_copy_(&rotated_first)?;
        second.f_copy_(&rotated_second)?;
        Ok(())
    }
}
