//! What a gate judges: one model beside another on the passages of one task.

use super::gates::Limits;
use super::noise::Noise;
use super::outcomes::PairedOutcomes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reference {
    /// The unmerged model of the same report, or the samples given as the baseline.
    Baseline,
    /// The model of the same name in the earlier report.
    Earlier,
}

impl Reference {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Baseline => "the baseline",
            Self::Earlier => "the earlier report",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Earlier => "earlier",
        }
    }
}

pub(crate) struct Comparison {
    pub task: String,
    pub model: String,
    pub reference: Reference,
    pub limits: Limits,
    pub outcomes: PairedOutcomes,
    pub noise: Noise,
    /// The passages, in the order of the outcomes.
    pub doc_ids: Vec<usize>,
}

/// Comparisons that are judged together, and why others are not among them.
#[derive(Default)]
#[expect(clippy::struct_field_names, reason = "it is the comparisons, with what is to be known of all of them")]
pub(crate) struct Comparisons {
    pub comparisons: Vec<Comparison>,
    pub remarks: Vec<String>,
    /// Where the passages seen are the beginning of a random order, in which the outcomes are, and an evaluation looked at them to
    /// decide whether to go on: of how many passages.
    pub seen_of: Option<usize>,
}
