//! Row-wise work on matrices in float64, in parallel.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::dtype::round_to_odd_f32;
use super::host_tensor::elements;
use super::{DType, HostTensor, TensorError};

impl HostTensor {
    /// Applies `change` to every row (all elements of a vector are one row each) in float64 and rounds each element to
    /// the storage type once. Also returns what `change` returns, in row order.
    ///
    /// # Errors
    /// The elements are integers.
    pub fn map_rows<R: Send>(
        &self,
        change: impl Fn(usize, &mut [f64]) -> R + Sync,
    ) -> Result<(Self, Vec<R>), TensorError> {
        if !self.dtype.is_float() {
            return Err(TensorError::NotFloat(self.dtype));
        }
        let row_bytes = self.shape.get(1..).map_or(1, |rest| rest.iter().product()) * self.dtype.size();
        if row_bytes == 0 {
            return Ok((self.clone(), Vec::new()));
        }
        let pool = self.block.pool.clone();
        let count = self.bytes().len();
        // Every byte is written.
        let mut bytes = pool.as_ref().map_or_else(|| vec![0_u8; count], |pool| pool.take(count));
        let results = bytes
            .par_chunks_exact_mut(row_bytes)
            .zip(self.bytes().par_chunks_exact(row_bytes))
            .enumerate()
            .map_init(Row::default, |row, (index, (target, source))| {
                row.decode(self.dtype, source);
                let result = change(index, &mut row.values);
                row.encode(self.dtype, target);
                result
            })
            .collect();
        Ok((Self::of_pool(self.dtype, self.shape.clone(), bytes, pool)?, results))
    }
}

/// Rounds each value to the nearest that `dtype` can represent, ties to even; as [`super::round`], for many values at once.
#[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
pub fn round_all(values: &mut [f64], dtype: DType) {
    fn through<T: bytemuck::Pod>(values: &mut [f64])
    where
        [T]: HalfFloatSliceExt,
    {
        let mut singles: Vec<f32> = values.iter().map(|&value| round_to_odd_f32(value)).collect();
        halves::<T>(&singles).convert_to_f32_slice(&mut singles);
        values.iter_mut().zip(singles).for_each(|(value, single)| *value = f64::from(single));
    }
    match dtype {
        DType::F32 => values.iter_mut().for_each(|value| *value = f64::from(*value as f32)),
        DType::F16 => through::<f16>(values),
        DType::BF16 => through::<bf16>(values),
        _ => {}
    }
}

/// Whole slices are converted at once, so that the processor's vector instructions are used.
fn halves<T: bytemuck::Pod>(singles: &[f32]) -> Vec<T>
where
    [T]: HalfFloatSliceExt,
{
    let mut halves = vec![T::zeroed(); singles.len()];
    halves.convert_from_f32_slice(singles);
    halves
}

/// One row in float64, and in float32 on the way to and from 16 bits.
#[derive(Default)]
struct Row {
    values: Vec<f64>,
    singles: Vec<f32>,
}

impl Row {
    fn decode(&mut self, dtype: DType, bytes: &[u8]) {
        self.values.clear();
        match dtype {
            DType::F16 => self.decode_halves::<f16>(bytes),
            DType::BF16 => self.decode_halves::<bf16>(bytes),
            DType::F32 => self.values.extend(elements::<f32>(bytes).iter().map(|&value| f64::from(value))),
            _ => self.values.extend_from_slice(&elements::<f64>(bytes)),
        }
    }

    fn decode_halves<T: bytemuck::Pod>(&mut self, bytes: &[u8])
    where
        [T]: HalfFloatSliceExt,
    {
        let halves = elements::<T>(bytes);
        self.singles.resize(halves.len(), 0.0);
        halves.convert_to_f32_slice(&mut self.singles);
        self.values.extend(self.singles.iter().map(|&value| f64::from(value)));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
    fn encode(&mut self, dtype: DType, bytes: &mut [u8]) {
        match dtype {
            DType::F16 => self.encode_halves::<f16>(bytes),
            DType::BF16 => self.encode_halves::<bf16>(bytes),
            DType::F32 => {
                for (bytes, &value) in bytes.as_chunks_mut().0.iter_mut().zip(&self.values) {
                    *bytes = (value as f32).to_le_bytes();
                }
            }
            _ => bytes.copy_from_slice(bytemuck::cast_slice(&self.values)),
        }
    }

    /// Through float32, such that the rounding to 16 bits is the only one (see [`round_to_odd_f32`]).
    fn encode_halves<T: bytemuck::Pod>(&mut self, bytes: &mut [u8])
    where
        [T]: HalfFloatSliceExt,
    {
        self.singles.clear();
        self.singles.extend(self.values.iter().map(|&value| round_to_odd_f32(value)));
        bytes.copy_from_slice(bytemuck::cast_slice(&halves::<T>(&self.singles)));
    }
}
