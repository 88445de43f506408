//! The terminal: data on stdout, everything else on stderr, bars only on a terminal, no colour that carries meaning.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::error::{Error, Result};

/// How much is logged on stderr.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Verbosity {
    /// Only print errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "General")]
    quiet: bool,
    /// Verbose (-vv: trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "General")]
    verbose: u8,
    /// Print help: -h in short, --help in full
    #[arg(short, long, global = true, action = clap::ArgAction::Help, help_heading = "General")]
    help: Option<bool>,
}

/// The terminal, or the files and pipes in its place.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    bars: MultiProgress,
    quiet: bool,
    /// The command line that repeats what is run.
    command_line: Vec<String>,
}

impl Screen {
    /// Sets up logging; `KINTSUGI_LOG` overrides the flags with a tracing filter.
    pub(super) fn new(verbosity: Verbosity, command_line: Vec<String>) -> Self {
        let level = match (verbosity.quiet, verbosity.verbose) {
            (true, _) => "error",
            (false, 0) => "kintsugi=info,warn",
            (false, 1) => "kintsugi=debug,warn",
            (false, _) => "trace",
        };
        let filter = EnvFilter::try_from_env("KINTSUGI_LOG").unwrap_or_else(|_| EnvFilter::new(level));
        let bars = MultiProgress::new();
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // A second subscriber in one process (tests) leaves the first in place.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(AboveBars(bars.clone()))
            .with_ansi(colour)
            .without_time()
            .with_target(false)
            .try_init();
        Self { bars, quiet: verbosity.quiet, command_line }
    }

    /// The command line that repeats what is run.
    pub(super) fn command_line(&self) -> &[String] {
        &self.command_line
    }

    pub(super) fn data(&self, text: &str) -> Result<()> {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()
        })?;
        Ok(())
    }

    pub(super) fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        self.data(&format!("{}\n", serde_json::to_string_pretty(value)?))
    }

    /// Writes an error with its causes and hint to stderr.
    pub(super) fn error(&self, error: &Error) {
        let text = format!("error: {error:?}\n");
        // There is nowhere left to report that stderr is gone.
        let _ = self.bars.suspend(|| io::stderr().lock().write_all(printable(&text).as_bytes()));
    }

    /// Columns of the terminal on stdout, 100 if it is none.
    pub(super) fn width() -> usize {
        Self::columns().unwrap_or(100)
    }

    /// Columns of the terminal on stdout, and no limit if it is none: for tables that are kept in logs and searched by line.
    pub(super) fn line_width() -> usize {
        Self::columns().unwrap_or(usize::MAX)
    }

    /// `COLUMNS`, else those of the terminal on stdout.
    fn columns() -> Option<usize> {
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        columns.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns)))
    }

    pub(super) fn styled() -> bool {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    pub(super) fn merge_bar(&self) -> Bar {
        self.bar()
    }

    pub(super) fn download_bar(&self) -> DownloadBar<'_> {
        DownloadBar { screen: self, bar: None }
    }

    pub(super) fn bar(&self) -> Bar {
        if self.quiet || !io::stderr().is_terminal() {
            return Bar(ProgressBar::hidden());
        }
        let bar = self.bars.add(ProgressBar::new(0));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }
}

/// Text without control characters: file and tensor names are quoted as they are in the files of others.
fn printable(text: &str) -> String {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// Log lines go above the bars instead of through them.
#[derive(Debug, Clone)]
struct AboveBars(MultiProgress);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Shows the progress of a download, once there is one.
pub(super) struct DownloadBar<'a> {
    screen: &'a Screen,
    bar: Option<Bar>,
}

impl crate::hub::Progress for DownloadBar<'_> {
    fn start(&mut self, bytes: u64) {
        let Bar(bar) = self.bar.get_or_insert_with(|| self.screen.bar());
        bar.set_length(bytes);
        bar.set_position(0);
        let template = "downloading {bar:24} {bytes} of {total_bytes} · {bytes_per_sec} · {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(Bar(bar)) = &self.bar {
            bar.inc(bytes);
        }
    }
}

/// Shows the progress of a merge or an evaluation; gone when dropped.
pub(super) struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl crate::export::Progress for Bar {
    fn start(&self, total: u64) {
        self.0.set_length(total);
        if let Ok(style) = ProgressStyle::with_template("merging {bar:24} {percent:>3}% · {eta} left") {
            self.0.set_style(style);
        }
    }

    fn advance(&self, work: u64) {
        self.0.inc(work);
    }
}

#[cfg(feature = "libtorch")]
impl crate::eval::Observer for Bar {
    fn start(&self, work: crate::eval::Work) {
        self.0.set_length(work.total);
        let template = "{msg:24} {bar:24} {percent:>3}% of {passages} · {speed} · {eta} left";
        let Ok(style) = ProgressStyle::with_template(template) else { return };
        let passages = move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{} passages", work.passages);
        };
        // Tokens that have gone through the whole of every variant.
        #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
        let share = work.tokens as f64 / work.total.max(1) as f64;
        let speed = move |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{:.0} tokens/s", state.per_sec() * share);
        };
        self.0.set_style(style.with_key("passages", passages).with_key("speed", speed));
    }

    fn stage(&self, id: crate::partition::StageId, slice: usize, slice_count: usize) {
        let message = if slice_count > 1 { format!("{id} (slice {slice}/{slice_count})") } else { id.to_string() };
        self.0.set_message(message);
    }

    fn advance(&self, work: u64) {
        self.0.inc(work);
    }
}
