//! Random numbers that depend on the seed, the tensor's name and the element's place alone: not on threads, not on the
//! number of ranks, and for a larger tensor of the same name the first elements are the same.

use bytemuck::cast_slice_mut;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rand::rngs::ChaCha12Rng;
use rand::{Rng as _, SeedableRng as _};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::tensor::{DType, HostTensor, TensorError};

/// Elements that one stream of random bits makes; small enough for its buffers to stay in a core's cache.
pub(in crate::export) const BLOCK: usize = 1 << 14;

/// Elements that are converted at once.
const RUN: usize = 1 << 10;

/// Random numbers for one tensor.
#[derive(Clone, Copy)]
pub(in crate::export) struct Normals([u8; 32]);

impl Normals {
    /// The numbers that belong to a seed and a name.
    pub(in crate::export) fn new(seed: u64, name: &str) -> Self {
        Self(Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into())
    }

    /// Numbers of mean 0 and standard deviation `deviation`, for the elements of one block. Each is the sum of four
    /// uniform 16-bit integers: a normal distribution to within 0.01 of its distribution function, cut off at 3.46
    /// deviations, and far cheaper than an exact one.
    pub(in crate::export) fn fill(self, block: usize, deviation: f32, values: &mut [f32]) {
        // The sum of four uniform integers below 2^16 has this mean and, to 1 in 2^32, this standard deviation.
        const MEAN: f32 = 131_070.0;
        const DEVIATION: f32 = 37_837.23;
        let mut random = ChaCha12Rng::from_seed(self.0);
        random.set_stream(block as u64);
        let scale = deviation / DEVIATION;
        let mut words = [0_u64; RUN];
        for run in values.chunks_mut(RUN) {
            let words = &mut words[..run.len()];
            random.fill_bytes(cast_slice_mut(words));
            for (value, &word) in run.iter_mut().zip(&*words) {
                *value = (sum_of_quarters(u64::from_le(word)) - MEAN) * scale;
            }
        }
    }
}

/// The sum of the four 16-bit quarters of a word, at most 2^18 and so exact in float32.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the sum has 18 bits")]
fn sum_of_quarters(word: u64) -> f32 {
    const EVEN: u64 = 0x0000_ffff_0000_ffff;
    let pairs = (word & EVEN) + ((word >> 16) & EVEN);
    ((pairs as u32) + ((pairs >> 32) as u32)).cast_signed() as f32
}

/// A tensor whose values `fill(block, values)` makes block by block, on all cores, each rounded to `dtype` once.
pub(in crate::export) fn tensor(
    dtype: DType,
    shape: Vec<usize>,
    fill: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<HostTensor, TensorError> {
    let mut bytes = vec![0_u8; crate::tensor::byte_count(dtype, &shape)?];
    let size = dtype.size();
    bytes.par_chunks_mut(BLOCK * size).enumerate().try_for_each_init(
        || vec![0.0_f32; BLOCK],
        |values, (block, bytes)| {
            let values = &mut values[..bytes.len() / size];
            fill(block, values);
            round(dtype, values, bytes)
        },
    )?;
    HostTensor::new(dtype, shape, bytes)
}

/// Little-endian elements of `dtype`, to nearest with ties to even.
fn round(dtype: DType, values: &[f32], bytes: &mut [u8]) -> Result<(), TensorError> {
    match dtype {
        DType::F32 => bytes.copy_from_slice(bytemuck::cast_slice(values)),
        DType::F16 => round_to_half::<f16>(values, bytes),
        DType::BF16 => round_to_half::<bf16>(values, bytes),
        other => return Err(TensorError::NotFloat(other)),
    }
    Ok(())
}

fn round_to_half<T: bytemuck::Pod>(values: &[f32], bytes: &mut [u8])
where
    [T]: HalfFloatSliceExt,
{
    let mut rounded = [T::zeroed(); RUN];
    for (values, bytes) in values.chunks(RUN).zip(bytes.chunks_mut(RUN * size_of::<T>())) {
        let rounded = &mut rounded[..values.len()];
        rounded.convert_from_f32_slice(values);
        bytes.copy_from_slice(bytemuck::cast_slice(rounded));
    }
}
