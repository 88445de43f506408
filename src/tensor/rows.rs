//! Row-wise work on matrices in float64, in parallel.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{DType, HostTensor, TensorError, round_to_bf16, round_to_f16};

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
        match self.dtype {
            DType::F64 => self.map_typed(f64::from_le_bytes, f64::to_le_bytes, change),
            #[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
            DType::F32 => self.map_typed(
                |bytes| f64::from(f32::from_le_bytes(bytes)),
                |value| (value as f32).to_le_bytes(),
                change,
            ),
            DType::F16 => self.map_typed(
                |bytes| f64::from(f16::from_le_bytes(bytes)),
                |value| round_to_f16(value).to_le_bytes(),
                change,
            ),
            DType::BF16 => self.map_typed(
                |bytes| f64::from(bf16::from_le_bytes(bytes)),
                |value| round_to_bf16(value).to_le_bytes(),
                change,
            ),
            other => Err(TensorError::NotFloat(other)),
        }
    }

    fn map_typed<const N: usize, R: Send>(
        &self,
        decode: impl Fn([u8; N]) -> f64 + Sync,
        encode: impl Fn(f64) -> [u8; N] + Sync,
        change: impl Fn(usize, &mut [f64]) -> R + Sync,
    ) -> Result<(Self, Vec<R>), TensorError> {
        let row_bytes = self.shape.get(1..).map_or(1, |rest| rest.iter().product()) * N;
        if row_bytes == 0 {
            return Ok((self.clone(), Vec::new()));
        }
        let mut bytes = vec![0_u8; self.bytes.len()];
        let results = bytes
            .par_chunks_exact_mut(row_bytes)
            .zip(self.bytes.par_chunks_exact(row_bytes))
            .enumerate()
            .map_init(Vec::new, |row, (index, (target, source))| {
                row.clear();
                row.extend(source.as_chunks::<N>().0.iter().map(|&element| decode(element)));
                let result = change(index, row);
                for (target, &value) in target.as_chunks_mut::<N>().0.iter_mut().zip(row.iter()) {
                    *target = encode(value);
                }
                result
            })
            .collect();
        Ok((Self::new(self.dtype, self.shape.clone(), bytes)?, results))
    }
}
