//! Conversion between floating-point types: each element is rounded once, to nearest with ties to even.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{DType, HostTensor, TensorError, byte_count, round_to_bf16, round_to_f16};

/// Elements that one task converts.
const BLOCK: usize = 1 << 16;

impl HostTensor {
    /// The same values in another type. A value beyond the range of `dtype` becomes infinite.
    ///
    /// # Errors
    /// One of the types is an integer type.
    pub fn cast(&self, dtype: DType) -> Result<Self, TensorError> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        // Through float32 where that holds every value of the source, so that nothing is rounded twice.
        match self.dtype {
            DType::F16 => self.cast_narrow(dtype, |bytes| f16::from_le_bytes(bytes).to_f32()),
            DType::BF16 => self.cast_narrow(dtype, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            DType::F32 => self.cast_narrow(dtype, f32::from_le_bytes),
            DType::F64 => {
                let decode = f64::from_le_bytes;
                #[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
                match dtype {
                    DType::F16 => self.convert(dtype, decode, |value| round_to_f16(value).to_le_bytes()),
                    DType::BF16 => self.convert(dtype, decode, |value| round_to_bf16(value).to_le_bytes()),
                    DType::F32 => self.convert(dtype, decode, |value| (value as f32).to_le_bytes()),
                    other => Err(TensorError::NotFloat(other)),
                }
            }
            other => Err(TensorError::NotFloat(other)),
        }
    }

    fn cast_narrow<const N: usize>(
        &self,
        dtype: DType,
        decode: impl Fn([u8; N]) -> f32 + Sync,
    ) -> Result<Self, TensorError> {
        match dtype {
            DType::F16 => self.convert(dtype, decode, |value| f16::from_f32(value).to_le_bytes()),
            DType::BF16 => self.convert(dtype, decode, |value| bf16::from_f32(value).to_le_bytes()),
            DType::F32 => self.convert(dtype, decode, f32::to_le_bytes),
            DType::F64 => self.convert(dtype, decode, |value| f64::from(value).to_le_bytes()),
            other => Err(TensorError::NotFloat(other)),
        }
    }

    fn convert<V, const N: usize, const M: usize>(
        &self,
        dtype: DType,
        decode: impl Fn([u8; N]) -> V + Sync,
        encode: impl Fn(V) -> [u8; M] + Sync,
    ) -> Result<Self, TensorError> {
        let mut bytes = vec![0_u8; byte_count(dtype, &self.shape)?];
        bytes.par_chunks_mut(BLOCK * M).zip(self.bytes().par_chunks(BLOCK * N)).for_each(|(target, source)| {
            for (target, &source) in target.as_chunks_mut::<M>().0.iter_mut().zip(source.as_chunks::<N>().0) {
                *target = encode(decode(source));
            }
        });
        Self::new(dtype, self.shape.clone(), bytes)
    }
}
