//! The command line: one file per subcommand, which parses its arguments, calls a module below and shows what that returns.
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 a gate failed or a merge is not as certified, 2 could not finish, 3 a gate
//! is undecided, 130 and 143 stopped by SIGINT and SIGTERM with all finished slices kept; a broken pipe is 0.

#[cfg(feature = "libtorch")]
mod caller;
mod combine;
#[cfg(feature = "libtorch")]
mod compare;
#[cfg(feature = "libtorch")]
mod demo;
mod detached_value;
mod diff;
mod doctor;
#[cfg(feature = "libtorch")]
mod dry_run;
#[cfg(feature = "libtorch")]
mod eval;
mod examples;
#[cfg(feature = "libtorch")]
mod explain;
mod forward_args;
mod gate;
#[cfg(not(feature = "libtorch"))]
mod hand_over;
mod inspect;
#[cfg(feature = "libtorch")]
mod interrupt;
#[cfg(feature = "libtorch")]
mod launcher;
mod merge;
mod report;
mod run_file;
mod screen;
mod show;
mod synth;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::detached_value::DetachedValue;
use crate::error::ErrorKind;

/// What `--version` says of the build.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("KINTSUGI_GIT_COMMIT"),
    "\nfeatures: ",
    env!("KINTSUGI_FEATURES"),
    "\nlibtorch: ",
    env!("KINTSUGI_LIBTORCH_VERSION"),
    "\ntorch needed: ",
    env!("KINTSUGI_LIBTORCH_NEEDED")
);

/// Merge tensor-parallel checkpoints of GPT-NeoX and Megatron-LM and measure what each merge strategy costs against the unmerged model.
#[derive(Debug, Parser)]
#[command(name = "kintsugi", version, long_version = LONG_VERSION, max_term_width = 100, arg_required_else_help = true, disable_help_flag = true)]
pub struct Cli {
    #[command(flatten)]
    verbosity: screen::Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evaluate the unmerged model and every merge of it, and report what each merge loses
    #[command(after_help = examples::COMPARE)]
    Compare(Box<forward_args::CompareArgs>),
    /// Evaluate one model alone: an unmerged checkpoint, a merged one, or a Hugging Face directory
    #[command(after_help = examples::EVAL)]
    Eval(Box<forward_args::EvalArgs>),
    /// Find which parameters cost what: factor analysis, bias-scale sweep, divergence through the layers
    #[command(after_help = examples::EXPLAIN)]
    Explain(Box<forward_args::ExplainArgs>),
    /// Run `compare` on the bundled checkpoint, or on a model from the Hub that is split among ranks
    #[command(after_help = examples::DEMO)]
    Demo(forward_args::DemoArgs),
    /// Write one merge of a checkpoint, for gpt-neox (any number of ranks) or transformers
    #[command(after_help = examples::MERGE)]
    Merge(Box<merge::WriteArgs>),
    /// Show what is in a checkpoint, how far its replicas have drifted, and which merges lose nothing
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::InspectArgs),
    /// Join the shards of a run that several processes have evaluated into one report
    #[command(after_help = examples::COMBINE)]
    Combine(combine::CombineArgs),
    /// Check a report, or lm-evaluation-harness's samples, against limits: exit code 0 within them, 1 beyond, 3 undecided
    #[command(after_help = examples::GATE)]
    Gate(gate::GateArgs),
    /// Compare two models tensor by tensor, across formats: unmerged, merged, Hugging Face
    #[command(after_help = examples::DIFF)]
    Diff(diff::DiffArgs),
    /// Check a merge against its certificate: exit code 0 all is as certified, 1 something is not, 2 it cannot be told
    #[command(after_help = examples::VERIFY)]
    Verify(Box<verify::VerifyArgs>),
    /// Render a finished run again: terminal, HTML, Markdown, JSON, a certificate, or lm-evaluation-harness's schema
    #[command(after_help = examples::REPORT)]
    Report(report::ReportArgs),
    /// Show what this machine can do: libtorch, devices, threads, memory
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    /// Write a checkpoint of random weights in gpt-neox's own file format, for benchmarks and tests
    #[command(after_help = examples::SYNTH)]
    Synth(synth::SynthArgs),
    /// Print a completion script for a shell
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command, into a folder
    #[command(after_help = examples::MAN)]
    Man {
        /// The folder; it is made if it is not there.
        folder: std::path::PathBuf,
    },
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command of these arguments, the program's name first. Invalid arguments and `--help` end the process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let expanded = match run_file::expand(&Cli::command(), arguments.into_iter().collect()) {
        Ok(expanded) => expanded,
        Err(error) => {
            screen::Screen::new(screen::Verbosity::default(), Vec::new()).error(&error);
            return ExitCode::from(error.exit_code());
        }
    };
    // Looked for where something failed: it takes another reading of all options.
    let detached = || DetachedValue::find(&Cli::command(), &expanded.arguments);
    let cli = Cli::try_parse_from(&expanded.arguments).unwrap_or_else(|error| match detached() {
        Some(detached) => detached.explain_parse(error).exit(),
        None => error.exit(),
    });
    let screen = screen::Screen::new(cli.verbosity, expanded.command_line);
    // Without libtorch these commands are handed over, and who gets them warns.
    if cfg!(feature = "libtorch") {
        for warning in expanded.warnings {
            tracing::warn!("{warning}");
        }
    }
    let finish = |verdict: crate::error::Result<u8>| match verdict {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error, &screen),
    };
    let outcome = match cli.command {
        Command::Gate(args) => return finish(gate::run(&args, &screen)),
        Command::Verify(args) => return finish(verify::run(&args, &screen)),
        #[cfg(feature = "libtorch")]
        Command::Compare(args) => compare::run(*args, &screen),
        #[cfg(feature = "libtorch")]
        Command::Eval(args) => eval::run(*args, &screen),
        #[cfg(feature = "libtorch")]
        Command::Explain(args) => explain::run(*args, &screen),
        #[cfg(feature = "libtorch")]
        Command::Demo(args) => demo::run(args, &screen),
        #[cfg(not(feature = "libtorch"))]
        Command::Compare(_) | Command::Eval(_) | Command::Explain(_) | Command::Demo(_) => {
            Err(hand_over::exec("this command"))
        }
        Command::Merge(args) => merge::run(&args, &screen),
        Command::Inspect(args) => inspect::run(&args, &screen),
        Command::Diff(args) => diff::run(&args, &screen),
        Command::Combine(args) => combine::run(&args, &screen),
        Command::Report(args) => report::run(&args, &screen),
        Command::Doctor(args) => doctor::run(args, &screen),
        Command::Synth(args) => synth::run(&args, &screen),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kintsugi", &mut script);
            screen.data(&String::from_utf8_lossy(&script))
        }
        Command::Man { folder } => manual(&folder),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match detached() {
            Some(detached) => failed(&detached.explain(error), &screen),
            None => failed(&error, &screen),
        },
    }
}

fn failed(error: &crate::error::Error, screen: &screen::Screen) -> ExitCode {
    if error.kind() == ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    screen.error(error);
    ExitCode::from(error.exit_code())
}

/// Writes `kintsugi.1`, `kintsugi-compare.1`, ….
fn manual(folder: &std::path::Path) -> crate::error::Result<()> {
    fs_err::create_dir_all(folder)?;
    let mut command = Cli::command();
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands().filter(|sub| sub.get_name() != "help"));
    for page in pages {
        let name = page.get_display_name().unwrap_or_else(|| page.get_name()).to_owned();
        let mut text = Vec::new();
        clap_mangen::Man::new(page.clone()).title(name.as_str()).render(&mut text)?;
        crate::files::write_atomically(&folder.join(format!("{name}.1")), &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
