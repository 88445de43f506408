//! What comes out of an evaluation, slice by slice and in all.

use std::collections::BTreeMap;
use std::time::Duration;

use super::chunk_plan::ChunkPlan;
use crate::checkpoint::FileDigest;
use crate::merge::{CandidateAnalysis, Exactness};
use crate::samples::TokenScore;

/// Where the time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// Waiting for the reader thread.
    pub read: Duration,
    /// Merging on the host.
    pub merge: Duration,
    /// Copying to the device and computing.
    pub compute: Duration,
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

impl Divergence {
    /// √(Σ‖x − x_baseline‖² / Σ‖x_baseline‖²).
    #[must_use]
    pub fn relative(self) -> f64 {
        if self.squared_norm > 0.0 { (self.squared_distance / self.squared_norm).sqrt() } else { 0.0 }
    }

    /// The same over the tokens of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            squared_distance: self.squared_distance + other.squared_distance,
            squared_norm: self.squared_norm + other.squared_norm,
        }
    }
}

/// What one slice brought.
#[derive(Debug, Clone, Default)]
pub struct SliceOutcome {
    /// The plan's chunks that were computed.
    pub chunks: Vec<usize>,
    /// Their input tokens.
    pub token_count: usize,
    /// `[variants]`: by [`super::packing::Passage::index`], one score per target token.
    pub scores: Vec<BTreeMap<usize, Vec<TokenScore>>>,
    /// By chunk: `[variants][stages but the last]`; empty unless asked for.
    pub divergence: BTreeMap<usize, Vec<Vec<Divergence>>>,
    /// For each variant, what makes it another model than the unmerged one; every slice finds the same.
    pub exactness: Vec<Exactness>,
    /// Digests of the files read, if asked for; only the first slice of a process hashes them.
    pub digests: Vec<FileDigest>,
    /// The same for every candidate, by variant.
    pub candidate_digests: BTreeMap<usize, Vec<FileDigest>>,
    /// For every candidate, by variant, what was done to the checkpoint's parameters; only the first slice looks.
    pub elsewhere: BTreeMap<usize, CandidateAnalysis>,
    /// Where the time went.
    pub timings: Timings,
}

/// What came out in all.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// `[variants][passages]`, in the order given: one score per target token. The first variant is the baseline that
    /// KL is taken against.
    pub scores: Vec<Vec<Vec<TokenScore>>>,
    /// For each variant, what makes it another model than the unmerged one.
    pub exactness: Vec<Exactness>,
    /// `[variants][stages but the last]`; empty unless asked for.
    pub divergence: Vec<Vec<Divergence>>,
    /// Digests of the files read; empty unless asked for.
    pub digests: Vec<FileDigest>,
    /// The same for every candidate, by variant.
    pub candidate_digests: BTreeMap<usize, Vec<FileDigest>>,
    /// For every candidate, by variant, what was done to the checkpoint's parameters.
    pub elsewhere: BTreeMap<usize, CandidateAnalysis>,
    /// Where the time went.
    pub timings: Timings,
    /// Passes over the checkpoint.
    pub slice_count: usize,
    /// Tokens that went through a stage together.
    pub chunk_tokens: usize,
    /// Input tokens of all passages.
    pub token_count: usize,
}

impl Evaluation {
    /// Joins the slices of a whole plan.
    #[must_use]
    pub fn of(plan: &ChunkPlan, variants: usize, slices: Vec<SliceOutcome>) -> Self {
        let mut evaluation = Self {
            scores: vec![vec![Vec::new(); plan.passage_count()]; variants],
            exactness: vec![Exactness::default(); variants],
            divergence: Vec::new(),
            digests: Vec::new(),
            candidate_digests: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            timings: Timings::default(),
            slice_count: slices.len(),
            chunk_tokens: plan.chunk_tokens(),
            token_count: 0,
        };
        let mut by_chunk = BTreeMap::new();
        for (number, slice) in slices.into_iter().enumerate() {
            for (all, of_slice) in evaluation.scores.iter_mut().zip(slice.scores) {
                for (passage, scores) in of_slice {
                    all[passage] = scores;
                }
            }
            by_chunk.extend(slice.divergence);
            evaluation.token_count += slice.token_count;
            evaluation.timings.add(slice.timings);
            if number == 0 {
                evaluation.exactness = slice.exactness;
                evaluation.digests = slice.digests;
                evaluation.candidate_digests = slice.candidate_digests;
                evaluation.elsewhere = slice.elsewhere;
            }
        }
        // In the chunks' order, so that sums are the same however the chunks were divided.
        for of_chunk in by_chunk.into_values() {
            if evaluation.divergence.is_empty() {
                evaluation.divergence = of_chunk;
                continue;
            }
            for (total, more) in evaluation.divergence.iter_mut().flatten().zip(of_chunk.into_iter().flatten()) {
                *total = total.and(more);
            }
        }
        evaluation
    }
}

impl Timings {
    /// Adds further time.
    pub fn add(&mut self, more: Self) {
        self.read += more.read;
        self.merge += more.merge;
        self.compute += more.compute;
    }
}
