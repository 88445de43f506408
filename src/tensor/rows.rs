//! Row-wise work on matrices in float64, in parallel.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::dtype::round_to_odd_f32;
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
        match self.dtype {
            DType::F64 => self.map_typed::<f64, 8, R>(change),
            DType::F32 => self.map_typed::<f32, 4, R>(change),
            DType::F16 => self.map_typed::<f16, 2, R>(change),
            DType::BF16 => self.map_typed::<bf16, 2, R>(change),
            other => Err(TensorError::NotFloat(other)),
        }
    }

    fn map_typed<T: Element<N>, const N: usize, R: Send>(
        &self,
        change: impl Fn(usize, &mut [f64]) -> R + Sync,
    ) -> Result<(Self, Vec<R>), TensorError> {
        let row_bytes = self.shape.get(1..).map_or(1, |rest| rest.iter().product()) * N;
        if row_bytes == 0 {
            return Ok((self.clone(), Vec::new()));
        }
        let mut bytes = vec![0_u8; self.bytes().len()];
        let results = bytes
            .par_chunks_exact_mut(row_bytes)
            .zip(self.bytes().par_chunks_exact(row_bytes))
            .enumerate()
            .map_init(Row::<T>::default, |row, (index, (target, source))| {
                row.elements.clear();
                row.elements.extend(source.as_chunks::<N>().0.iter().map(|&bytes| T::from_bytes(bytes)));
                T::decode(row);
                let result = change(index, &mut row.values);
                T::encode(row);
                for (target, element) in target.as_chunks_mut::<N>().0.iter_mut().zip(&row.elements) {
                    *target = element.to_bytes();
                }
                result
            })
            .collect();
        Ok((Self::new(self.dtype, self.shape.clone(), bytes)?, results))
    }
}

/// Rounds each value to the nearest that `dtype` can hold, ties to even; as [`super::round`], for many values at once.
pub fn round_all(values: &mut [f64], dtype: DType) {
    fn through<T: Element<N>, const N: usize>(values: &mut [f64]) {
        let elements = vec![T::from_bytes([0; N]); values.len()];
        let mut row = Row { elements, singles: Vec::new(), values: values.to_vec() };
        T::encode(&mut row);
        T::decode(&mut row);
        values.copy_from_slice(&row.values);
    }
    match dtype {
        DType::F32 => through::<f32, 4>(values),
        DType::F16 => through::<f16, 2>(values),
        DType::BF16 => through::<bf16, 2>(values),
        _ => {}
    }
}

/// One row as it is stored, in float32 on the way, and in float64.
struct Row<T> {
    elements: Vec<T>,
    singles: Vec<f32>,
    values: Vec<f64>,
}

impl<T> Default for Row<T> {
    fn default() -> Self {
        Self { elements: Vec::new(), singles: Vec::new(), values: Vec::new() }
    }
}

impl<T> Row<T> {
    /// The values in float32, such that a further rounding is the only one (see [`round_to_odd_f32`]).
    fn values_to_singles(&mut self) {
        self.singles.clear();
        self.singles.extend(self.values.iter().map(|&value| round_to_odd_f32(value)));
    }

    fn singles_to_values(&mut self) {
        self.values.clear();
        self.values.extend(self.singles.iter().map(|&value| f64::from(value)));
    }
}

/// A stored type; whole rows are converted at once, so that the processor's vector instructions are used.
trait Element<const N: usize>: Copy + Send + Sync {
    fn from_bytes(bytes: [u8; N]) -> Self;
    fn to_bytes(self) -> [u8; N];
    /// `elements` to `values`.
    fn decode(row: &mut Row<Self>);
    /// `values` to `elements`, which are as many.
    fn encode(row: &mut Row<Self>);
}

impl Element<8> for f64 {
    fn from_bytes(bytes: [u8; 8]) -> Self {
        Self::from_le_bytes(bytes)
    }

    fn to_bytes(self) -> [u8; 8] {
        self.to_le_bytes()
    }

    fn decode(row: &mut Row<Self>) {
        row.values.clone_from(&row.elements);
    }

    fn encode(row: &mut Row<Self>) {
        row.elements.clone_from(&row.values);
    }
}

impl Element<4> for f32 {
    fn from_bytes(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }

    fn to_bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn decode(row: &mut Row<Self>) {
        row.values.clear();
        row.values.extend(row.elements.iter().map(|&value| f64::from(value)));
    }

    #[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
    fn encode(row: &mut Row<Self>) {
        row.elements.clear();
        row.elements.extend(row.values.iter().map(|&value| value as Self));
    }
}

macro_rules! half_width {
    ($($type:ty),+) => {$(
        impl Element<2> for $type {
            fn from_bytes(bytes: [u8; 2]) -> Self {
                Self::from_le_bytes(bytes)
            }

            fn to_bytes(self) -> [u8; 2] {
                self.to_le_bytes()
            }

            fn decode(row: &mut Row<Self>) {
                row.singles.resize(row.elements.len(), 0.0);
                row.elements.convert_to_f32_slice(&mut row.singles);
                row.singles_to_values();
            }

            fn encode(row: &mut Row<Self>) {
                row.values_to_singles();
                row.elements.convert_from_f32_slice(&row.singles);
            }
        }
    )+};
}

half_width!(f16, bf16);
