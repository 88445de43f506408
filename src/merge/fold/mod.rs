//! Folding: each rank's norm gain γ_r and bias β_r go into that rank's own rows of the layers that read the norm, so
//! that one common gain γ and bias β reproduce what every rank computed with its own.
//!
//! With the common normalised input x̂, rank r computes `W_r(γ_r⊙x̂ + β_r) + c_r`. For any γ without zeros and any β,
//! `W'_r = W_r·diag(γ_r/γ)` and `c'_r = c_r + W_r β_r − W'_r β` give the same. A layer without bias after a LayerNorm has
//! no c to absorb β_r; but there Σx̂ = 0, so adding `u_r(1/γ)ᵀ` to W'_r is invisible to x̂ and adds `u_r·Σ(β/γ)`:
//! `u_r = (W_r β_r − W_r·diag(γ_r/γ) β) / Σ(β/γ)`. RMS norms have no β. Arithmetic in float64, one rounding.

mod choice;
mod column_parallel;
mod folded;
mod operands;
mod row_parallel_head;
mod vectors;

pub(super) use column_parallel::fold;
pub use folded::FoldSummary;
pub(super) use folded::Folded;
pub(super) use operands::{joined, rank_of_rows};
pub(super) use vectors::{dot, dot_ratio};
