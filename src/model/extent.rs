//! Extents and numbers of elements as libtorch takes them.

/// They come from files whose sizes fit memory, far below 2^63.
pub fn to_i64(extent: usize) -> i64 {
    i64::try_from(extent).unwrap_or(i64::MAX)
}
