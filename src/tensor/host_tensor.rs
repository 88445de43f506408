//! Element type, shape and bytes of a tensor in host memory.

use std::borrow::Cow;
use std::sync::Arc;

use super::pool::{Block, Pool};
use super::{DType, TensorError, round_to_bf16, round_to_f16};

/// A contiguous, row-major, little-endian tensor in host memory. Cloning shares the bytes.
#[derive(Clone)]
pub struct HostTensor {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) block: Arc<Block>,
}

impl HostTensor {
    /// Takes `bytes` as they are.
    ///
    /// # Errors
    /// The byte count does not fit the shape.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self, TensorError> {
        Self::of_pool(dtype, shape, bytes, None)
    }

    /// Takes `bytes` as they are and gives them to the pool in the end.
    ///
    /// # Errors
    /// The byte count does not fit the shape.
    pub fn of_pool(
        dtype: DType,
        shape: Vec<usize>,
        bytes: Vec<u8>,
        pool: Option<Arc<Pool>>,
    ) -> Result<Self, TensorError> {
        let expected = byte_count(dtype, &shape)?;
        if bytes.len() != expected {
            return Err(TensorError::ByteCount { dtype, shape, expected, found: bytes.len() });
        }
        Ok(Self { dtype, shape, block: Arc::new(Block::new(bytes, pool)) })
    }

    /// Rounds float64 values to `dtype`, each once, to nearest with ties to even.
    ///
    /// # Errors
    /// The value count does not fit the shape, or `dtype` is an integer type.
    pub fn from_f64(dtype: DType, shape: Vec<usize>, values: &[f64]) -> Result<Self, TensorError> {
        let bytes = match dtype {
            DType::F64 => bytemuck::cast_slice(values).to_vec(),
            DType::F32 =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "the one rounding that is meant")]
                values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect()
            }
            DType::F16 => values.iter().flat_map(|&value| round_to_f16(value).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&value| round_to_bf16(value).to_le_bytes()).collect(),
            other => return Err(TensorError::NotFloat(other)),
        };
        Self::new(dtype, shape, bytes)
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major, little-endian.
    pub fn bytes(&self) -> &[u8] {
        &self.block.bytes
    }

    pub fn element_count(&self) -> usize {
        self.bytes().len() / self.dtype.size()
    }

    /// Equal for clones, different for any two tensors that do not share their bytes, alive or not.
    pub fn storage_id(&self) -> u64 {
        self.block.id
    }

    /// Same type, shape and bits.
    pub fn same_bits(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && (Arc::ptr_eq(&self.block, &other.block) || self.bytes() == other.bytes())
    }

    /// The elements in float64 (exact for every floating type).
    ///
    /// # Errors
    /// The elements are integers.
    pub fn to_f64(&self) -> Result<Vec<f64>, TensorError> {
        to_f64(self.dtype, self.bytes())
    }

    /// Row-major index of the first NaN or infinity, if there is one. Integers have none.
    pub fn first_non_finite(&self) -> Option<usize> {
        first_non_finite(self.dtype, self.bytes())
    }

    /// # Errors
    /// The other tensor has another type or shape.
    pub fn check_same_form(&self, other: &Self) -> Result<(), TensorError> {
        if self.dtype == other.dtype && self.shape == other.shape {
            return Ok(());
        }
        Err(TensorError::Mismatch {
            expected_dtype: self.dtype,
            expected_shape: self.shape.clone(),
            found_dtype: other.dtype,
            found_shape: other.shape.clone(),
        })
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "HostTensor({} {:?})", self.dtype, self.shape)
    }
}

/// Row-major index of the first NaN or infinity among elements that lie one behind another. Integers have none.
pub(crate) fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    // An all-ones exponent marks NaN and infinity; comparing bits lets the loops vectorise.
    match dtype {
        DType::F64 => first_where(&elements::<u64>(bytes), |bits| bits & (0x7ff << 52) == 0x7ff << 52),
        DType::F32 => first_where(&elements::<u32>(bytes), |bits| bits & 0x7f80_0000 == 0x7f80_0000),
        DType::F16 => first_where(&elements::<u16>(bytes), |bits| bits & 0x7c00 == 0x7c00),
        DType::BF16 => first_where(&elements::<u16>(bytes), |bits| bits & 0x7f80 == 0x7f80),
        _ => None,
    }
}

/// The elements in float64 (exact for every floating type).
pub(crate) fn to_f64(dtype: DType, bytes: &[u8]) -> Result<Vec<f64>, TensorError> {
    Ok(match dtype {
        DType::F64 => elements::<f64>(bytes).into_owned(),
        DType::F32 => elements::<f32>(bytes).iter().map(|&value| f64::from(value)).collect(),
        DType::F16 => elements::<half::f16>(bytes).iter().map(|&value| f64::from(value)).collect(),
        DType::BF16 => elements::<half::bf16>(bytes).iter().map(|&value| f64::from(value)).collect(),
        other => return Err(TensorError::NotFloat(other)),
    })
}

/// Copied only where the allocator gave an unaligned block.
pub(super) fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(slice) => Cow::Borrowed(slice),
        Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(bytes)),
    }
}

/// The first element that is found. Blocks are searched whole: a loop that may end at any element does not vectorise.
fn first_where<T: Copy>(elements: &[T], found: impl Fn(T) -> bool) -> Option<usize> {
    const BLOCK: usize = 1024;
    let block =
        elements.chunks(BLOCK).position(|block| block.iter().fold(false, |any, &element| any | found(element)))?;
    let start = block * BLOCK;
    elements[start..].iter().position(|&element| found(element)).map(|at| start + at)
}

/// Bytes that a tensor of this form takes.
pub(crate) fn byte_count(dtype: DType, shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent))
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| TensorError::TooLarge(shape.to_vec()))
}
