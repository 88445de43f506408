//! The result of folding one norm.

use serde::{Deserialize, Serialize};

use crate::partition::Role;
use crate::tensor::HostTensor;

/// How far folding changed weights.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FoldSummary {
    /// Largest |W'−W| over all readers.
    pub max_weight_change: f64,
    /// Largest |u| of the rank-one terms; 0 where none was needed.
    pub max_rank_one: f64,
    /// Whether a tied output head had to become a matrix of its own.
    pub unties_head: bool,
}

/// The parameters that folding one norm replaces, in one-rank form.
#[derive(Debug, Clone)]
pub(in crate::merge) struct Folded {
    pub params: Vec<(Role, HostTensor)>,
    pub summary: FoldSummary,
}
