//! Matrices with rows and columns exchanged.

use super::{HostTensor, TensorError};

impl HostTensor {
    /// The transposed matrix. Copies bytes; no arithmetic.
    ///
    /// # Errors
    /// The tensor is no matrix.
    pub fn transposed(&self) -> Result<Self, TensorError> {
        let &[rows, columns] = self.shape() else { return Err(TensorError::NotAMatrix(self.shape().to_vec())) };
        let bytes = match self.dtype().size() {
            1 => exchanged::<1>(self.bytes(), rows, columns),
            2 => exchanged::<2>(self.bytes(), rows, columns),
            4 => exchanged::<4>(self.bytes(), rows, columns),
            _ => exchanged::<8>(self.bytes(), rows, columns),
        };
        Self::new(self.dtype(), vec![columns, rows], bytes)
    }
}

fn exchanged<const SIZE: usize>(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    /// Rows and columns of the blocks that are copied one after the other, so that both sides stay in the cache.
    const BLOCK: usize = 32;
    let elements = bytes.as_chunks::<SIZE>().0;
    let mut target = vec![[0_u8; SIZE]; elements.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..columns).step_by(BLOCK) {
            for row in top..rows.min(top + BLOCK) {
                for column in left..columns.min(left + BLOCK) {
                    target[column * rows + row] = elements[row * columns + column];
                }
            }
        }
    }
    target.into_flattened()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use crate::tensor::{DType, HostTensor, TensorError};

    #[test]
    fn rows_become_columns() {
        let bytes = |count: usize| (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>();
        for (dtype, size) in [(DType::U8, 1), (DType::BF16, 2), (DType::F32, 4), (DType::F64, 8)] {
            for (rows, columns) in [(1, 1), (2, 3), (1, 40), (33, 65), (0, 4)] {
                let tensor = HostTensor::new(dtype, vec![rows, columns], bytes(rows * columns * size)).unwrap();
                let turned = tensor.transposed().unwrap();
                assert_eq!(turned.shape(), [columns, rows]);
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                    let (from, to) = ((row * columns + column) * size, (column * rows + row) * size);
                    assert_eq!(tensor.bytes()[from..from + size], turned.bytes()[to..to + size]);
                }
                assert!(turned.transposed().unwrap().same_bits(&tensor));
            }
        }
        let vector = HostTensor::new(DType::U8, vec![3], bytes(3)).unwrap();
        assert!(matches!(vector.transposed(), Err(TensorError::NotAMatrix(_))));
    }
}
