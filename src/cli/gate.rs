//! `kintsugi gate`: within, beyond or undecided, for CI.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::screen::Screen;
use crate::error::{Error, Result};
use crate::gate::{Assumed, Evidence, compare_samples, plan, plan_assumed, render, render_plan, to_json, to_junit};
use crate::limits::{Comparisons, Criterion, Gates, Limits, Nats, Outcome, Percent, Points, judge};
use crate::report::{TerminalStyle, write_atomically};

#[derive(Debug, Clone, Args)]
pub(super) struct GateArgs {
    /// The report.json, or the output directory with it; the samples must be beside it
    #[arg(required_unless_present_any = ["baseline", "passages"], conflicts_with_all = ["baseline", "passages"])]
    report: Option<PathBuf>,
    /// Most accuracy that a merge may lose, in percentage points: 0.5pp
    #[arg(long, value_name = "POINTS")]
    max_acc_loss: Option<Points>,
    /// Most that a merge may raise perplexity, in per cent: 1%
    #[arg(long, value_name = "PERCENT")]
    max_ppl_increase: Option<Percent>,
    /// Largest mean KL divergence from the unmerged model at the target positions, in nats: 0.001
    #[arg(long, value_name = "NATS")]
    max_kl: Option<Nats>,
    /// Smallest share of passages with the same top token at every target position: 99%
    #[arg(long, value_name = "PERCENT")]
    min_same_top: Option<Percent>,
    /// Fail if a single passage changes its outcome
    #[arg(long)]
    expect_exact: bool,
    /// Exit with 0 instead of 3 where a limit is neither proven nor exceeded
    #[arg(long)]
    allow_undecided: bool,
    /// Also compare every model, the unmerged one included, with its row in an earlier report
    #[arg(long, value_name = "REPORT", conflicts_with = "baseline")]
    against: Option<PathBuf>,
    /// Samples of lm-evaluation-harness to compare with, instead of a report (repeatable: one for each task)
    ///
    /// A samples_*.jsonl of --log_samples, or a folder with them, of any backend and any log-likelihood task.
    #[arg(long, value_name = "SAMPLES", requires = "models")]
    baseline: Vec<PathBuf>,
    /// Probability of a false verdict [default: the file's, 0.05]
    ///
    /// Of *within*, for each limit; of *beyond*, for all limits together.
    #[arg(long, value_name = "P")]
    significance: Option<f64>,
    /// Check only this model, whatever the limits say of it (repeatable) [default: all that they do not skip]
    ///
    /// With --baseline: the samples of a model, NAME=SAMPLES or SAMPLES alone.
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
    /// How to print the checks; JSON has all digits
    #[arg(long, value_enum, default_value_t = Format::Terminal)]
    format: Format,
    /// Judge nothing: say which losses the passages can show, and how many prove each limit
    #[arg(long, conflicts_with_all = ["junit", "against", "allow_undecided"])]
    plan: bool,
    /// With --plan and no report: the number of passages to plan for
    #[arg(long, value_name = "N", requires = "plan", value_parser = clap::value_parser!(u32).range(1..))]
    passages: Option<u32>,
    /// With --passages: share of the passages that only one of the two models answers: 4%
    #[arg(long, value_name = "PERCENT", requires = "passages")]
    discordant: Option<Percent>,
    /// With --passages: standard deviation over passages of the log-likelihood difference, in nats
    #[arg(long, value_name = "NATS", requires = "passages")]
    spread: Option<Nats>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table, or sentences where it does not fit.
    Terminal,
    /// JSON with all digits.
    Json,
}

impl GateArgs {
    fn given(&self) -> Limits {
        Limits {
            max_acc_loss: self.max_acc_loss.map(Into::into),
            max_ppl_increase: self.max_ppl_increase.map(Into::into),
            max_kl: self.max_kl.map(Into::into),
            min_same_top: self.min_same_top.map(Into::into),
            expect_exact: self.expect_exact,
            ..Limits::default()
        }
    }

    fn limits(&self) -> Result<Gates> {
        let given = self.given();
        let mut gates = match &self.gates {
            Some(path) => Gates::read(path)?,
            // The built-in limits for single models are for the built-in strategies.
            None if given == Limits::default() && self.report.is_none() => Gates::built_in()?.for_any_model(),
            None if given == Limits::default() => Gates::built_in()?,
            None => Gates::default(),
        };
        gates.override_with(given)?;
        if let Some(significance) = self.significance {
            gates = gates.with_significance(significance, "--significance")?;
        }
        Ok(gates)
    }

    fn comparisons(&self, gates: &Gates) -> Result<Comparisons> {
        let Some(report) = &self.report else {
            let models: Vec<_> = self.models.iter().map(|model| named_samples(model)).collect();
            return Ok(compare_samples(&self.baseline, &by_name(models), gates)?);
        };
        let report = Evidence::open(report)?;
        let earlier = self.against.as_deref().map(Evidence::open).transpose()?;
        Ok(report.compare(earlier.as_ref(), gates, &self.models)?)
    }

    /// The criteria whose limits were given as options.
    fn given_criteria(&self) -> Vec<Criterion> {
        let given = [
            (self.max_kl.is_some(), Criterion::KlDivergence),
            (self.max_ppl_increase.is_some(), Criterion::PerplexityIncrease),
            (self.min_same_top.is_some(), Criterion::TopTokenChange),
            (self.max_acc_loss.is_some(), Criterion::AccuracyLoss),
        ];
        given.into_iter().filter(|(given, _)| *given).map(|(_, criterion)| criterion).collect()
    }
}

/// `NAME=SAMPLES`; without a name that of the folder or file, as the harness names folders after models.
fn named_samples(argument: &str) -> (String, PathBuf) {
    if let Some((name, path)) = argument.split_once('=')
        && !name.is_empty()
        && !name.contains(std::path::is_separator)
    {
        return (name.to_owned(), PathBuf::from(path));
    }
    let path = PathBuf::from(argument);
    let own = if path.is_dir() { path.file_name() } else { path.parent().and_then(|folder| folder.file_name()) };
    let name = own.or(path.file_stem()).map_or_else(|| argument.to_owned(), |name| name.to_string_lossy().into_owned());
    (name, path)
}

/// Samples of one name are of one model.
fn by_name(samples: Vec<(String, PathBuf)>) -> Vec<(String, Vec<PathBuf>)> {
    let mut models: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for (name, path) in samples {
        match models.iter_mut().find(|(known, _)| *known == name) {
            Some((_, paths)) => paths.push(path),
            None => models.push((name, vec![path])),
        }
    }
    models
}

/// Returns the exit code: 0 all that counts is within, 1 something is beyond, 3 something is undecided.
pub(super) fn run(args: &GateArgs, screen: &Screen) -> Result<u8> {
    let gates = args.limits()?;
    let style = TerminalStyle { width: Screen::line_width(), styled: Screen::styled() };
    if args.plan {
        let rows = match args.passages {
            Some(passages) => {
                let (discordant, spread) = (args.discordant.map(Percent::fraction), args.spread.map(Nats::nats));
                plan_assumed(Assumed { passages, discordant, spread }, &gates)
            }
            None => plan(&args.comparisons(&gates)?, gates.significance)?,
        };
        if rows.is_empty() {
            return Err(Error::usage("nothing to plan: no limit, or no rate for one")
                .with_hint("--discordant plans for accuracy, --spread for perplexity"));
        }
        screen.data(&render_plan(&rows, gates.significance, style))?;
        return Ok(0);
    }
    let judgement = judge(args.comparisons(&gates)?, gates.significance, &args.given_criteria())?;
    if let Some(path) = &args.junit {
        write_atomically(path, to_junit(&judgement, args.allow_undecided)?.as_bytes())?;
    }
    screen.data(&match args.format {
        Format::Terminal => render(&judgement, args.allow_undecided, style),
        Format::Json => to_json(&judgement)?,
    })?;
    Ok(match judgement.outcome() {
        Outcome::Passed => 0,
        Outcome::Failed => 1,
        Outcome::Undecided if args.allow_undecided => 0,
        Outcome::Undecided => 3,
    })
}
