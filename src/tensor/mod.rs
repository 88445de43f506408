//! Host tensors: element type, shape and bytes, with the arithmetic that merging needs. Independent of libtorch, files
//! and models. Arithmetic is done in float64 and rounded to the storage type once; see [`mean`] and its siblings.

mod agreement;
mod arith;
mod cast;
mod difference;
mod dtype;
mod error;
mod host_tensor;
mod join;
mod pool;
mod row_agreement;
mod row_order;
mod rows;
#[cfg(test)]
mod tests;
mod transpose;

pub use agreement::{Agreement, agreement, multiple};
pub use arith::{Arithmetic, geometric_mean, mean, median, round, scale, sum};
pub use difference::{Difference, difference};
pub use dtype::{DType, round_to_bf16, round_to_f16};
pub use error::TensorError;
pub use host_tensor::HostTensor;
pub(crate) use host_tensor::{byte_count, first_non_finite, to_f64};
pub use join::{Piece, concatenate};
pub use pool::Pool;
pub use row_agreement::{differs_by_rank_one, rows_agree, rows_like};
pub use rows::round_all;
