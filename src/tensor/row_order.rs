//! The rows of a tensor in another order.

use std::sync::Arc;

use super::{HostTensor, TensorError};

impl HostTensor {
    /// The same rows (elements of a vector) in another order: row `i` of the result is row `order[i]`. In place where nothing else
    /// shares the bytes, with one row beside the tensor.
    ///
    /// # Errors
    /// `order` does not have every row once.
    pub fn in_row_order(mut self, order: &[usize]) -> Result<Self, TensorError> {
        let count = self.shape.first().copied().unwrap_or(0);
        let mut left = vec![true; count];
        let fits = |row: &usize| left.get_mut(*row).is_some_and(std::mem::take);
        if order.len() != count || !order.iter().all(fits) {
            return Err(TensorError::RowOrder { shape: self.shape });
        }
        let row_bytes = self.bytes().len() / count.max(1);
        let reorder = |bytes: &mut [u8]| {
            let (mut first_row, mut placed) = (vec![0; row_bytes], vec![false; count]);
            for first in 0..count {
                if std::mem::replace(&mut placed[first], true) || order[first] == first {
                    continue;
                }
                first_row.copy_from_slice(&bytes[first * row_bytes..(first + 1) * row_bytes]);
                let mut row = first;
                while order[row] != first {
                    let from = order[row];
                    bytes.copy_within(from * row_bytes..(from + 1) * row_bytes, row * row_bytes);
                    placed[from] = true;
                    row = from;
                }
                bytes[row * row_bytes..(row + 1) * row_bytes].copy_from_slice(&first_row);
            }
        };
        if let Some(block) = Arc::get_mut(&mut self.block) {
            reorder(block.change());
            return Ok(self);
        }
        let pool = self.block.pool.clone();
        let mut bytes = pool.as_ref().map_or_else(Vec::new, |pool| pool.take_empty(self.bytes().len()));
        bytes.extend_from_slice(self.bytes());
        reorder(&mut bytes);
        Self::of_pool(self.dtype, self.shape, bytes, pool)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_goes_where_the_order_says(
            order in (0..40_usize).prop_flat_map(|count| Just((0..count).collect::<Vec<_>>()).prop_shuffle()), width in 0..3_usize,
        ) {
            let bytes: Vec<u8> = (0..order.len()).flat_map(|row| vec![u8::try_from(row).unwrap(); width]).collect();
            let tensor = HostTensor::new(DType::U8, vec![order.len(), width], bytes.clone()).unwrap();
            let expected: Vec<u8> = order.iter().flat_map(|&row| vec![u8::try_from(row).unwrap(); width]).collect();
            // Others that share the bytes keep them.
            let copied = tensor.clone().in_row_order(&order).unwrap();
            prop_assert_eq!((copied.bytes(), tensor.bytes()), (expected.as_slice(), bytes.as_slice()));
            let place = tensor.bytes().as_ptr();
            let moved = tensor.in_row_order(&order).unwrap();
            prop_assert_eq!((moved.bytes(), moved.bytes().as_ptr()), (expected.as_slice(), place), "in place");
        }
    }

    #[test]
    fn an_order_has_every_row_once() {
        let tensor = HostTensor::new(DType::U8, vec![3], vec![0, 1, 2]).unwrap();
        for order in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3], &[0, 1, 2, 0]] {
            assert!(matches!(tensor.clone().in_row_order(order), Err(TensorError::RowOrder { .. })), "{order:?}");
        }
    }
}
