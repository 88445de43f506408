//! The one copying primitive: ranges of tensors, laid one behind another along a dimension. Joining shards, splitting
//! a tensor and regrouping blocks are all lists of [`Piece`]s.

use std::ops::Range;

use super::{HostTensor, TensorError, byte_count};

/// A range of a tensor along the dimension that is being concatenated.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// Where the elements come from.
    pub tensor: &'a HostTensor,
    /// Which of them, along the dimension.
    pub range: Range<usize>,
}

/// Copies the pieces one behind another along `dim`. All other extents must agree.
///
/// # Errors
/// No pieces, a range outside its tensor, or tensors that differ in type or in another extent.
pub fn concatenate(dim: usize, pieces: &[Piece<'_>]) -> Result<HostTensor, TensorError> {
    let first = pieces.first().ok_or(TensorError::Empty)?.tensor;
    let mut shape = first.shape.clone();
    let mut extent = 0_usize;
    for Piece { tensor, range } in pieces {
        let fits = tensor.shape.get(dim).is_some_and(|&extent| range.start <= range.end && range.end <= extent);
        if !fits {
            let shape = tensor.shape.clone();
            return Err(TensorError::OutOfRange { dim, start: range.start, end: range.end, shape });
        }
        let others_agree = tensor.shape.len() == shape.len()
            && tensor.shape.iter().zip(&shape).enumerate().all(|(at, (left, right))| at == dim || left == right);
        if tensor.dtype != first.dtype || !others_agree {
            first.check_same_form(tensor)?;
        }
        extent = extent.checked_add(range.len()).ok_or_else(|| TensorError::TooLarge(shape.clone()))?;
    }
    if let [Piece { tensor, range }] = pieces
        && range.len() == tensor.shape[dim]
    {
        return Ok((*tensor).clone());
    }
    shape[dim] = extent;
    let outer: usize = shape[..dim].iter().product();
    let inner_bytes = shape[dim + 1..].iter().product::<usize>() * first.dtype.size();
    let count = byte_count(first.dtype, &shape)?;
    // Joined tensors live with the memory of those that they are made of.
    let pool = first.block.pool.clone();
    let mut bytes = pool.as_ref().map_or_else(|| Vec::with_capacity(count), |pool| pool.take_empty(count));
    for row in 0..outer {
        for Piece { tensor, range } in pieces {
            let start = (row * tensor.shape[dim] + range.start) * inner_bytes;
            bytes.extend_from_slice(&tensor.bytes()[start..start + range.len() * inner_bytes]);
        }
    }
    HostTensor::of_pool(first.dtype, shape, bytes, pool)
}
