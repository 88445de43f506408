//! A tensor's place in a file.

use crate::tensor::DType;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub storage: String,
    pub first: u64,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub strides: Vec<u64>,
}

impl Place {
    /// Whether its elements follow one another, row-major.
    pub(super) fn is_run(&self) -> bool {
        let mut step = 1_u64;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let follows = size == 1 || stride == step;
            step = step.saturating_mul(size as u64);
            follows
        })
    }

    /// Elements from the first to the last; `None` for one that has none, or more than can be counted.
    pub(super) fn extent(&self) -> Option<u64> {
        self.shape.iter().zip(&self.strides).try_fold(1_u64, |extent, (&size, stride)| {
            extent.checked_add((size as u64).checked_sub(1)?.checked_mul(*stride)?)
        })
    }
}

/// A tensor's place, if its sizes are plausible.
pub(super) fn place(dtype: DType, storage: &str, first: u64, sizes: &[u64], strides: &[u64]) -> Option<Place> {
    let shape = sizes.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<_>>()?;
    let (storage, strides) = (storage.to_owned(), strides.to_vec());
    (sizes.len() == strides.len()).then_some(Place { storage, first, dtype, shape, strides })
}
