//! How fast a device multiplies matrices: what an evaluation spends most of its time on.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::{Backend, ModelError};

/// Rows of the product: tokens that go through a layer together, about.
const ROWS: i64 = 512;

/// The widest product tried.
const WIDEST: i64 = 4096;

/// A measurement takes about this long.
const LONG_ENOUGH: Duration = Duration::from_millis(300);

/// Floating-point operations per second in products `[rows, hidden] × [hidden, 4 hidden]`.
///
/// # Errors
/// The device has no memory left, or no such product.
pub fn matrix_product_flops(backend: Backend, hidden_size: usize) -> Result<f64, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let hidden = i64::try_from(hidden_size).unwrap_or(WIDEST).clamp(1, WIDEST);
    let options = (backend.kind, backend.device);
    let left = Tensor::f_ones([ROWS, hidden], options)?;
    let right = Tensor::f_ones([hidden, 4 * hidden], options)?;
    let wait = || {
        if let Device::Cuda(index) = backend.device {
            tch::Cuda::synchronize(i64::try_from(index).unwrap_or(0));
        }
    };
    // The first sets up the library.
    let _ = left.f_matmul(&right)?;
    wait();
    let (start, mut count) = (Instant::now(), 0_u32);
    while count < 3 || (start.elapsed() < LONG_ENOUGH && count < 1000) {
        let _ = left.f_matmul(&right)?;
        wait();
        count += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
    let operations = 2.0 * (ROWS * hidden * 4 * hidden) as f64 * f64::from(count);
    Ok(operations / start.elapsed().as_secs_f64().max(1e-9))
}
