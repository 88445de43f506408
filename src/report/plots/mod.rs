//! Plots: a file for each, as SVG and PNG, and the same SVG inside the page.

mod divergence;
mod factors;
mod forest;
mod histogram;

use std::collections::HashMap;

use super::contents::Report;
use super::explanation::Explanation;
use super::inspection::draw_drift;
use super::picture::Picture;
use crate::samples::Sample;

/// Every plot that a report has the numbers for, in the order of the page.
pub(super) struct Plots {
    pub forests: Vec<Picture>,
    pub divergence: Option<Picture>,
    pub drift: Option<Picture>,
    pub factors: Option<Picture>,
    pub histograms: Vec<Picture>,
}

impl Plots {
    pub(super) fn new(
        report: Option<&Report>,
        explanation: Option<&Explanation>,
        samples: &HashMap<&str, &[Sample]>,
    ) -> Self {
        let curves = report.map_or(&[][..], |report| &report.divergence);
        let curves = if curves.is_empty() { explanation.map_or(&[][..], |found| &found.divergence) } else { curves };
        let drifted = report.filter(|report| !report.drift.is_empty());
        Self {
            forests: report.map(forest::draw).unwrap_or_default(),
            divergence: divergence::draw(curves),
            drift: drifted.map(|report| draw_drift(&report.drift, &report.checkpoint)),
            factors: explanation.and_then(factors::draw),
            histograms: report.map(|report| histogram::draw(report, samples)).unwrap_or_default(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Picture> {
        let single = self.divergence.iter().chain(&self.drift).chain(&self.factors);
        self.forests.iter().chain(single).chain(&self.histograms)
    }
}
