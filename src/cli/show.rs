//! What the commands that make a report show at their end.

use super::screen::Screen;
use crate::error::Result;
use crate::report::{self, RunShard, TerminalStyle};
use crate::run::Finished;

/// Makes and prints the report of a run, then logs where its files are; of a run shard, how to join it with the others.
pub(super) fn show_finished(finished: &Finished, screen: &Screen) -> Result<()> {
    let folder = finished.output().map(|output| output.path().display());
    if let (Some(RunShard { index, count }), Some(folder)) = (finished.run_shard(), &folder) {
        tracing::info!("shard {index}/{count} is done; when all are: kintsugi combine {folder} -o {folder}");
        return Ok(());
    }
    let report = finished.write_report()?;
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_terminal(&report, style))?;
    if let Some(folder) = folder {
        tracing::info!("report in {folder} (open report.html)");
    }
    Ok(())
}
