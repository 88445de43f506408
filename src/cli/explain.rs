//! `kintsugi explain`: which group of parameters costs what, and why.

use super::forward_args::ExplainArgs;
use super::screen::Screen;
use crate::error::Result;
use crate::report::{self, TerminalStyle};
use crate::run::{self, Request};

pub(super) fn run(args: ExplainArgs, screen: &Screen) -> Result<()> {
    let ExplainArgs { checkpoint, task, strategies, mut output, json, resources, reading, run_file } = args;
    let caller = screen.caller(&mut output)?;
    run_file.announce();
    let request = Request { checkpoint, task, strategies, output, resources, reading, ..Request::default() };
    let (explanation, output) = run::explain(&request, &caller)?;
    if let Some(output) = output {
        tracing::info!("explanation in {} (open report.html)", output.path().display());
    }
    if json {
        return screen.json(&explanation);
    }
    let style = TerminalStyle { width: Screen::width(), styled: false };
    screen.data(&report::render_explanation(&explanation, style))
}
