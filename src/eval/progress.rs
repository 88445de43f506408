//! Reporting the progress of an evaluation.

use crate::partition::StageId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub passages: usize,
    /// The passages' input tokens.
    pub tokens: u64,
    /// Tokens × stages × variants: what [`Observer::advance`] counts.
    pub total: u64,
}

pub trait Observer: Sync {
    /// Called once, before the first stage.
    fn start(&self, _work: Work) {}
    /// A stage begins; slices are counted from 1.
    fn stage(&self, _id: StageId, _slice: usize, _slice_count: usize) {}
    /// So much of [`Work::total`] was done since the last call.
    fn advance(&self, _work: u64) {}
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Observer for Quiet {}
