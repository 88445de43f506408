//! What a run has come to.

use super::records::Records;
use crate::error::Result;
use crate::report::{self, OutputDir, Report, RunShard};

/// A run all of whose passages, or those of its run shard, are evaluated.
pub struct Finished {
    records: Records,
    output: Option<OutputDir>,
}

impl Finished {
    pub(super) fn new(records: Records, output: Option<OutputDir>) -> Self {
        Self { records, output }
    }

    /// The run shard whose journal is written, where other processes evaluate the rest and [`super::combine`] makes the
    /// report.
    pub fn run_shard(&self) -> Option<RunShard> {
        self.records.run.shard.filter(|_| self.output.is_some())
    }

    /// Where its files are.
    pub fn output(&self) -> Option<&OutputDir> {
        self.output.as_ref()
    }

    /// Makes the report, and writes it with its page, plots and samples into the output directory unless this is a run shard.
    ///
    /// # Errors
    /// Nothing was computed, numbers of the baseline overflow, or a file cannot be written.
    pub fn write_report(&self) -> Result<Report> {
        let input = self.records.report_input()?;
        let report = Report::new(&input)?;
        if let (Some(output), None) = (&self.output, self.run_shard()) {
            report::write_all(&report, &input, &self.records.texts(), output)?;
        }
        Ok(report)
    }
}
