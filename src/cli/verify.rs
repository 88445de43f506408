//! `kintsugi verify`: a merge checked against its certificate.

use std::path::PathBuf;

use clap::Args;

use super::forward_args::MeasurementOptions;
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
    /// Save directory (its `latest` is followed) or `global_stepN` directory. Where the certified run stopped as soon as its limits
    /// were decided, all passages are evaluated.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    measurement: MeasurementOptions,
    #[command(flatten)]
    reading: ReadingOptions,
}

/// Returns the exit code: 0 all is as certified, 1 something is not, 2 something could not be told.
pub(super) fn run(args: &VerifyArgs, screen: &Screen) -> Result<u8> {
    let certificate = read_certificate(&args.certificate)?;
    let measured = args.checkpoint.is_some();
    #[cfg(not(feature = "libtorch"))]
    if measured {
        return Err(super::hand_over::exec("--checkpoint"));
    }
    let checks = check_merge(&certificate, &args.merge, &args.reading.open_options(), measured);
    if !args.json {
        screen.data(&render(&checks))?;
    }
    #[cfg(feature = "libtorch")]
    let checks = if measured {
        let of_measurement = measurement::measure(args, &certificate, screen)?;
        if !args.json {
            screen.data(&render(&of_measurement))?;
        }
        [checks, of_measurement].concat()
    } else {
        checks
    };
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
mod measurement {
    use super::super::caller::Process;
    use super::super::forward_args::MeasurementOptions;
    use super::super::screen::Screen;
    use super::VerifyArgs;
    use crate::error::Result;
    use crate::options::SpecialTokens;
    use crate::report::Certificate;
    use crate::run::{self, NamedPath, OutputOptions, Request, StatisticsOptions, StrategyOptions, TaskOptions};
    use crate::verify::{Check, check_measurement};

    pub(super) fn measure(args: &VerifyArgs, certificate: &Certificate, screen: &Screen) -> Result<Vec<Check>> {
        let MeasurementOptions { task, data, tokenizer, max_length, resources } = args.measurement.clone();
        let begins = certificate.task.tokenizer.special_tokens.starts_with("bos");
        let request = Request {
            checkpoint: args.checkpoint.clone().unwrap_or_default(),
            task: TaskOptions {
                task: task.unwrap_or_else(|| certificate.task.name.clone()),
                data,
                tokenizer,
                max_length,
                add_special_tokens: if begins { SpecialTokens::Yes } else { SpecialTokens::No },
                // Those that a run saw that stopped are not the first.
                limit: (certificate.partial && certificate.stopping_rule.is_none())
                    .then_some(certificate.task.passages.effective),
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
