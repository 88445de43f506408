//! `kintsugi gate`: pass or fail, for CI.

use std::path::PathBuf;

use clap::Args;

use super::screen::Screen;
use crate::error::Result;
use crate::gate::{Evidence, Gates, Limits, Percent, Points, judge, render, to_junit};
use crate::report::{TerminalStyle, write_atomically};

#[derive(Debug, Clone, Args)]
pub(super) struct GateArgs {
    /// The report.json, or the output directory with it; the samples must be beside it
    report: PathBuf,
    /// Most accuracy that a merge may lose, in percentage points: 0.5pp
    #[arg(long, value_name = "POINTS")]
    max_acc_loss: Option<Points>,
    /// Most that a merge may raise perplexity, in per cent: 1%
    #[arg(long, value_name = "PERCENT")]
    max_ppl_increase: Option<Percent>,
    /// Fail if a single passage changes its outcome
    #[arg(long)]
    expect_exact: bool,
    /// Also compare every model, the unmerged one included, with its row in an earlier report
    #[arg(long, value_name = "REPORT")]
    against: Option<PathBuf>,
    /// Probability of calling noise a loss, over all models together [default: the file's, 0.05]
    #[arg(long, value_name = "P")]
    significance: Option<f64>,
    /// Check only this model (repeatable) [default: all that the limits do not skip]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Read limits from a file such as evals/gates.yml; options win over it
    ///
    /// Without it and without options, the built-in limits apply.
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Also write the checks as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl GateArgs {
    fn limits(&self) -> Result<Gates> {
        let given = Limits {
            max_acc_loss: self.max_acc_loss,
            max_ppl_increase: self.max_ppl_increase,
            expect_exact: self.expect_exact,
            skip: false,
        };
        let mut gates = match &self.gates {
            Some(path) => Gates::read(path)?,
            None if given == Limits::default() => Gates::built_in()?,
            None => Gates::default(),
        };
        gates.override_with(given);
        if let Some(significance) = self.significance {
            gates = gates.with_significance(significance, "--significance")?;
        }
        Ok(gates)
    }
}

pub(super) fn run(args: &GateArgs, screen: &Screen) -> Result<bool> {
    let gates = args.limits()?;
    let report = Evidence::open(&args.report)?;
    let earlier = args.against.as_deref().map(Evidence::open).transpose()?;
    let judgement = judge(&report, earlier.as_ref(), &gates, &args.models)?;
    if let Some(path) = &args.junit {
        write_atomically(path, to_junit(&judgement)?.as_bytes())?;
    }
    let style = TerminalStyle { width: Screen::line_width(), styled: Screen::styled() };
    screen.data(&render(&judgement, style))?;
    Ok(judgement.passed())
}
