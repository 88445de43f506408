//! `kintsugi verify`: a merge checked against its certificate.

use std::path::PathBuf;

use clap::Args;

use super::screen::Screen;
use crate::error::Result;
use crate::report::read_certificate;
use crate::run::ReadingOptions;
use crate::verify::{Outcome, check_merge, outcome, render};

#[derive(Debug, Clone, Args)]
pub(super) struct VerifyArgs {
    /// What `report --format certificate` has written
    certificate: PathBuf,
    /// The directory of the merge
    merge: PathBuf,
    /// Also repeat the measurement: evaluate this checkpoint and the merge on the certificate's passages
    ///
    /// Save directory (its `latest` is followed) or `global_stepN` directory.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
    #[cfg(feature = "libtorch")]
    #[command(flatten)]
    measurement: measurement::MeasurementOptions,
    #[command(flatten)]
    reading: ReadingOptions,
}

/// Returns the exit code: 0 all is as certified, 1 something is not, 2 something could not be told.
pub(super) fn run(args: &VerifyArgs, screen: &Screen) -> Result<u8> {
    let certificate = read_certificate(&args.certificate)?;
    let measured = args.checkpoint.is_some();
    let mut checks = check_merge(&certificate, &args.merge, &args.reading.open_options(), measured);
    if !args.json {
        screen.data(&render(&checks))?;
    }
    if measured {
        let of_measurement = measure(args, &certificate, screen)?;
        if !args.json {
            screen.data(&render(&of_measurement))?;
        }
        checks.extend(of_measurement);
    }
    if args.json {
        screen.json(&checks)?;
    }
    Ok(match outcome(&checks) {
        Outcome::Ok => 0,
        Outcome::Failed => 1,
        Outcome::Unknown => 2,
    })
}

#[cfg(feature = "libtorch")]
use measurement::measure;

#[cfg(not(feature = "libtorch"))]
fn measure(_: &VerifyArgs, _: &crate::report::Certificate, _: &Screen) -> Result<Vec<crate::verify::Check>> {
    Err(crate::error::Error::usage("--checkpoint needs a forward pass, and this build has none (feature libtorch)"))
}

#[cfg(feature = "libtorch")]
mod measurement {
    use std::path::PathBuf;

    use clap::Args;

    use super::super::caller::Process;
    use super::super::screen::Screen;
    use super::VerifyArgs;
    use crate::error::{Error, Result};
    use crate::eval::SpecialTokens;
    use crate::report::Certificate;
    use crate::run::{
        self, NamedPath, OutputOptions, Request, ResourceOptions, StatisticsOptions, StrategyOptions, TaskOptions,
    };
    use crate::verify::{Check, check_measurement};

    /// How a measurement is repeated.
    #[derive(Debug, Clone, Args)]
    #[command(next_help_heading = "Measurement")]
    pub(super) struct MeasurementOptions {
        /// Built-in task, or a task file [default: the certificate's]
        #[arg(long, value_name = "NAME|FILE", requires = "checkpoint")]
        task: Option<String>,
        /// Passages [default: as for `compare`]
        #[arg(long, value_name = "FILE", requires = "checkpoint")]
        data: Option<PathBuf>,
        /// A tokenizer.json, or a name on the Hugging Face Hub [default: as for `compare`]
        #[arg(long, value_name = "FILE|NAME", requires = "checkpoint")]
        tokenizer: Option<PathBuf>,
        /// Longest input in tokens, where `compare` was given one
        #[arg(long, value_name = "TOKENS", requires = "checkpoint")]
        max_length: Option<usize>,
        #[command(flatten)]
        resources: ResourceOptions,
    }

    pub(super) fn measure(args: &VerifyArgs, certificate: &Certificate, screen: &Screen) -> Result<Vec<Check>> {
        let MeasurementOptions { task, data, tokenizer, max_length, resources } = args.measurement.clone();
        if certificate.stopping_rule.is_some() {
            return Err(Error::usage(
                "--checkpoint: the certified run stopped when its limits were decided, which is not repeated here",
            )
            .with_hint("compare --until-decided --candidate NAME=DIR measures it again; give the --seed of that run"));
        }
        let begins = certificate.task.tokenizer.special_tokens.starts_with("bos");
        let request = Request {
            checkpoint: args.checkpoint.clone().unwrap_or_default(),
            task: TaskOptions {
                task: task.unwrap_or_else(|| certificate.task.name.clone()),
                data,
                tokenizer,
                max_length,
                add_special_tokens: if begins { SpecialTokens::Yes } else { SpecialTokens::No },
                limit: certificate.partial.then_some(certificate.task.passages.effective),
                ..TaskOptions::default()
            },
            strategies: StrategyOptions::default(),
            candidates: vec![NamedPath::new(&certificate.model.name, &args.merge)],
            output: OutputOptions::default(),
            resources,
            statistics: StatisticsOptions { no_noise_floor: true, ..StatisticsOptions::default() },
            reading: args.reading.clone(),
        };
        let report = run::compare_candidates(&request, &Process::alone(screen))?.write_report()?;
        Ok(check_measurement(certificate, &report))
    }
}
