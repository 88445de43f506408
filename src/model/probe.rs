//! One matrix product and one attention on a device, whose results are known.

use tch::{Device, Kind, Tensor};

use super::{Backend, ModelError};

/// Whether a device computes at all: a float16 product and a causal attention, exact in that type.
///
/// # Errors
/// What libtorch reports, or that the numbers are wrong.
pub fn probe(device: Device) -> Result<(), ModelError> {
    let _no_grad = tch::no_grad_guard();
    let backend = Backend { device, kind: Kind::Half };
    backend.prepare()?;
    let (product, attention) = (product(backend)?, attention(backend)?);
    for (what, is_right) in [("a matrix product", product), ("attention", attention)] {
        if !is_right {
            let reason = format!("{what} gives wrong numbers");
            return Err(ModelError::Device { device: backend.to_string(), reason });
        }
    }
    Ok(())
}

/// A row of ones times a column of ones is their number.
fn product(backend: Backend) -> Result<bool, ModelError> {
    const WIDTH: i64 = 256;
    let ones = Tensor::f_ones([WIDTH, WIDTH], (backend.kind, backend.device))?;
    #[expect(clippy::cast_precision_loss, reason = "256")]
    let expected = Tensor::f_full([WIDTH, WIDTH], WIDTH as f64, (backend.kind, Device::Cpu))?;
    Ok(ones.f_matmul(&ones)?.f_to_device(Device::Cpu)?.f_equal(&expected)?)
}

/// With queries of zero every position attends alike to those up to it: position t of values 0, 2, 4, … gives t.
fn attention(backend: Backend) -> Result<bool, ModelError> {
    const LENGTH: i64 = 16;
    const SHAPE: [i64; 4] = [2, 4, LENGTH, 64];
    let positions =
        Tensor::f_arange(LENGTH, (backend.kind, Device::Cpu))?.f_view([1, 1, LENGTH, 1])?.f_expand(SHAPE, false)?;
    let zeros = Tensor::f_zeros(SHAPE, (backend.kind, backend.device))?;
    let values = positions.f_mul_scalar(2.0)?.f_to_device(backend.device)?;
    let found = Tensor::f_scaled_dot_product_attention(
        &zeros,
        &zeros,
        &values,
        None::<&Tensor>,
        0.0,
        true,
        None::<f64>,
        false,
    )?;
    Ok(found.f_to_device(Device::Cpu)?.f_allclose(&positions, 1e-2, 1e-2, false)?)
}

#[cfg(test)]
mod tests {
    use super::{Device, probe};

    #[test]
    fn a_cpu_computes() {
        probe(Device::Cpu).unwrap();
    }
}
