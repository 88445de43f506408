//! The results of a slice.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::checkpoint::FileDigest;
use crate::merge::{CandidateAnalysis, Exactness};
use crate::samples::TokenScore;

#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Waiting for the next stage.
    pub read: Duration,
    pub merge: Duration,
    /// Copying weights to GPUs while they compute.
    pub copy: Duration,
    /// Computing, and whatever copying is left to it.
    pub compute: Duration,
    /// Measuring how far residual streams are from the baseline's.
    pub divergence: Duration,
}

/// How far a residual stream is from the baseline's after a stage: over all tokens, after the last layer over those that
/// predict a target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divergence {
    /// Σ‖x − x_baseline‖² over tokens; the baseline is the mean of the ranks' streams where they differ.
    pub squared_distance: f64,
    /// Σ‖x_baseline‖² over tokens.
    pub squared_norm: f64,
}

#[derive(Debug, Clone, Default)]
pub struct SliceOutcome {
    /// The plan's numbers of those computed.
    pub chunks: Vec<usize>,
    pub token_count: usize,
    /// `[variants]`: by [`super::packing::TokenizedPassage::index`], one score per target token.
    pub scores: Vec<BTreeMap<usize, Vec<TokenScore>>>,
    /// By chunk: `[variants][stages but the last]`; empty unless asked for.
    pub divergence: BTreeMap<usize, Vec<Vec<Divergence>>>,
    /// For each variant, what makes it another model than the unmerged one; every slice finds the same.
    pub exactness: Vec<Exactness>,
    /// For each variant the first one that had its weights in every stage, itself where there is none; every slice finds the same.
    pub same_as: Vec<usize>,
    /// Digests of the files read, if asked for; only the first slice of a process hashes them.
    pub digests: Vec<FileDigest>,
    /// The same for every candidate, by variant.
    pub candidate_digests: BTreeMap<usize, Vec<FileDigest>>,
    /// For every candidate, by variant, what was done to the checkpoint's parameters; only the first slice looks.
    pub candidate_analyses: BTreeMap<usize, CandidateAnalysis>,
    pub timings: Timings,
}
