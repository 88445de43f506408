//! `kintsugi combine`: the report of a run whose shards several processes have computed.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output::Screen;
use crate::report::{self, OutputDir, Record, Records, Report, ReportError, TerminalStyle};
use crate::samples::{SampleError, read_journal};
use crate::stats::PairedBootstrap;

/// Name of the journal in its folder.
pub(super) const JOURNAL: &str = "journal.jsonl";

/// Arguments of `combine`.
#[derive(Debug, Clone, Args)]
pub(super) struct CombineArgs {
    /// The folders that hold the shards' journals (OUT/shards/I-of-N), or the folder that holds these; every passage must
    /// be in exactly one of them.
    #[arg(required = true, value_name = "DIR")]
    journals: Vec<PathBuf>,
    /// Where the report goes.
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
}

pub(super) fn run(args: &CombineArgs, screen: &Screen) -> anyhow::Result<()> {
    let mut parts = Vec::new();
    for path in args.journals.iter().flat_map(|path| journals_in(path)) {
        parts.push((path.clone(), read(&path)?));
    }
    let output = report::prepare_output(&args.output_dir)?;
    let records = report::combine(parts)?;
    let (replicate_count, seed) = records.run.bootstrap;
    let bootstrap = PairedBootstrap { replicate_count, seed, ..PairedBootstrap::default() };
    show(&report_of(&records, bootstrap, Some(&output))?, Some(&output), screen)
}

/// The report of a run's records, written where there is a place for it.
pub(super) fn report_of(
    records: &Records,
    bootstrap: PairedBootstrap,
    output: Option<&OutputDir>,
) -> anyhow::Result<Report> {
    let input = records.report_input(bootstrap)?;
    let report = Report::new(&input)?;
    if let Some(output) = output {
        report::write_all(&report, &input, &records.texts(), output)?;
    }
    Ok(report)
}

/// A report on the terminal, or wherever stdout leads; then where its files are.
pub(super) fn show(report: &Report, output: Option<&OutputDir>, screen: &Screen) -> anyhow::Result<()> {
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_terminal(report, style))?;
    if let Some(output) = output {
        tracing::info!("report in {} (open report.html)", output.path().display());
    }
    Ok(())
}

/// The journals of a folder's shards, else its own.
fn journals_in(path: &Path) -> Vec<PathBuf> {
    let own = path.join(JOURNAL);
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let mut below: Vec<_> = [path.to_owned(), path.join("shards")]
        .iter()
        .filter_map(|folder| fs_err::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join(JOURNAL)).filter(|journal| journal.is_file()))
        .collect();
    below.sort();
    if below.is_empty() { vec![own] } else { below }
}

fn read(path: &Path) -> Result<Records, ReportError> {
    let contents = read_journal::<Record>(path)?;
    if contents.torn {
        tracing::warn!("{}: the last record was not finished and is passed over", path.display());
    }
    let reason = || "it does not begin with a run".to_owned();
    let form = || SampleError::JournalForm { path: path.to_owned(), reason: reason() };
    Ok(Records::read(contents.records).ok_or_else(form)?)
}
