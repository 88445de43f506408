//! How fast a device multiplies matrices: what an evaluation spends most of its time on.

use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::products::{self, Packed};
use super::threads::thread_count;
use super::{Backend, ModelError, each};
use crate::partition::PartitionError;
use crate::tensor::{DType, HostTensor};

/// Rows of the product: tokens that go through a layer together, about, and on a GPU enough of them to keep it busy.
const ROWS: i64 = 512;
const GPU_ROWS: i64 = 4096;

const WIDEST: i64 = 4096;

const LONG_ENOUGH: Duration = Duration::from_millis(300);

/// Floating-point operations per second in products `[rows, hidden] × [hidden, 4 hidden]`.
pub fn matrix_product_flops(backend: Backend, hidden_size: usize) -> Result<f64, ModelError> {
    let _no_grad = tch::no_grad_guard();
    let rows = if backend.device == Device::Cpu { ROWS } else { GPU_ROWS };
    backend.prepare()?;
    let hidden = i64::try_from(hidden_size).unwrap_or(WIDEST).clamp(1, WIDEST);
    #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
    let operations = 2.0 * (rows * hidden * 4 * hidden) as f64;
    if products::usable(backend) {
        return Ok(operations * tiled_products_per_second(backend, hidden)?);
    }
    let options = (backend.kind, backend.device);
    let left = Tensor::f_ones([rows, hidden], options)?;
    let right = Tensor::f_ones([hidden, 4 * hidden], options)?;
    let multiply = || {
        let _ = left.f_matmul(&right)?;
        backend.synchronize()
    };
    Ok(operations * calls_per_second(multiply)?)
}

/// Every thread computes alone, as in an evaluation.
fn tiled_products_per_second(backend: Backend, hidden: i64) -> Result<f64, ModelError> {
    let extent = usize::try_from(hidden).unwrap_or(1);
    let weight = HostTensor::new(DType::F16, vec![4 * extent, extent], vec![0; 8 * extent * extent]);
    let weight = weight.map_err(PartitionError::from)?;
    let Some(weight) = Packed::new(backend, &weight)? else {
        return Err(tch::TchError::Kind("no tiles for float16 matrices".to_owned()).into());
    };
    let threads = thread_count()?;
    let left = (0..threads).map(|_| Tensor::f_ones([ROWS, hidden], (backend.kind, backend.device)));
    let left = left.collect::<Result<Vec<_>, _>>()?;
    let multiply = || {
        let left = left.iter().map(Tensor::shallow_clone).collect();
        each(backend, left, |left: Tensor| weight.product(&left, None).map(drop)).map(drop)
    };
    #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
    let threads = threads as f64;
    Ok(threads * calls_per_second(multiply)?)
}

fn calls_per_second(work: impl Fn() -> Result<(), ModelError>) -> Result<f64, ModelError> {
    // The first sets up the library.
    work()?;
    let (start, mut count) = (Instant::now(), 0_u32);
    while count < 3 || (start.elapsed() < LONG_ENOUGH && count < 1000) {
        work()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64().max(1e-9))
}
