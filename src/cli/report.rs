//! `kintsugi report`: a finished run shown again, from its files alone.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::screen::Screen;
use crate::error::{Error, Result};
use crate::report::{self, Certificate, Report, ReportFiles, Results, TerminalStyle, Tool};
use crate::run::versions;

#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    /// The --output-dir of a run, or its report.json
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
    /// Format [default: by the ending of --output, else terminal]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write into this file instead of stdout; for lm-eval, into this folder
    ///
    /// Default for lm-eval: lm-eval beside the report.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The merge that a certificate is of [default: the only one]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// The renderings of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for a terminal.
    Terminal,
    /// A page that needs nothing else.
    Html,
    /// Markdown for a pull request or a model card.
    Markdown,
    /// JSON by configs/report.schema.json.
    Json,
    /// JSON for `kintsugi verify`: digests and proven bounds of one merge.
    Certificate,
    /// The same as a section for a model card.
    CertificateMarkdown,
    /// lm-evaluation-harness's results_*.json and samples_*.jsonl, a folder for each model.
    LmEval,
}

impl Format {
    fn of_file(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "html" | "htm" => Some(Self::Html),
            "md" | "markdown" => Some(Self::Markdown),
            "json" => Some(Self::Json),
            "txt" => Some(Self::Terminal),
            _ => None,
        }
    }
}

pub(super) fn run(args: &ReportArgs, screen: &Screen) -> Result<()> {
    let asked = args.format.or_else(|| args.output.as_deref().and_then(Format::of_file));
    if let (None, Some(output)) = (asked, &args.output) {
        let output = output.display();
        return Err(Error::usage(format!("{output}: its ending is none of .html, .md, .json and .txt: give --format")));
    }
    let format = asked.unwrap_or(Format::Terminal);
    if args.model.is_some() && !matches!(format, Format::Certificate | Format::CertificateMarkdown) {
        return Err(Error::usage("--model: only a certificate is of one merge").with_hint("add --format certificate"));
    }
    let results = Results::read(&args.path)?;
    let files = results.files();
    if format == Format::LmEval {
        return write_lm_eval(args, &files);
    }
    let text = render(format, &files, args)?;
    match &args.output {
        Some(path) => Ok(report::write_atomically(path, text.as_bytes())?),
        None => screen.data(&text),
    }
}

fn render(format: Format, files: &ReportFiles<'_>, args: &ReportArgs) -> Result<String> {
    let comparison = || -> Result<&Report> {
        let none = || Error::usage(format!("{}: an explanation, but no report.json", args.path.display()));
        files.report.ok_or_else(none)
    };
    let is_shown = args.output.is_none();
    let style = TerminalStyle { width: Screen::width(), styled: is_shown && Screen::styled() };
    Ok(match (format, files.report, files.explanation) {
        (Format::Html, ..) => report::render_html(files)?,
        (Format::Terminal, None, Some(explanation)) => report::render_explanation(explanation, style),
        (Format::Markdown, ..) => report::render_markdown(comparison()?),
        (Format::Json, ..) => report::to_json(comparison()?)?,
        (Format::Certificate, ..) => certificate(comparison()?, args)?.to_json()?,
        (Format::CertificateMarkdown, ..) => certificate(comparison()?, args)?.to_markdown(),
        _ => report::render_terminal(comparison()?, style),
    })
}

fn certificate(report: &Report, args: &ReportArgs) -> Result<Certificate> {
    let tool = Tool { name: "kintsugi".to_owned(), version: versions().kintsugi };
    Ok(Certificate::new(report, tool, args.model.as_deref())?)
}

fn write_lm_eval(args: &ReportArgs, files: &ReportFiles<'_>) -> Result<()> {
    let beside = if args.path.is_dir() { Some(args.path.as_path()) } else { args.path.parent() };
    let folder = args.output.clone().unwrap_or_else(|| beside.unwrap_or(Path::new(".")).join("lm-eval"));
    let written = report::write_lm_eval(files, &folder)?;
    tracing::info!("{} files in {}", written.len(), folder.display());
    Ok(())
}
