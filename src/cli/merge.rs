//! `kintsugi merge`: one merge of a checkpoint, written for gpt-neox or for transformers.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::screen::Screen;
use crate::checkpoint::{ModelSource, open_model};
use crate::error::{Error, Result};
use crate::export::{Format, Measured, MergeChoice, MergeJob, MergeSummary, Progress, Record, Scores, TokenizerFiles};
use crate::merge::{Exactness, Strategy, check_strategies};
#[cfg(feature = "libtorch")]
use crate::partition::StageTensors;
use crate::report;
use crate::run::{CalibrationOptions, ReadingOptions, model_path, parse_bytes, tokenizer_if_any, versions};
use crate::tensor::DType;

/// Arguments of `merge`.
#[derive(Debug, Clone, Args)]
pub(super) struct WriteArgs {
    /// A checkpoint (save directory, whose `latest` is followed, or `global_stepN` directory), a Hugging Face directory, or a name on the Hub (EleutherAI/pythia-160m)
    checkpoint: PathBuf,
    /// Write the merge into this new directory
    ///
    /// It is complete or not there at all.
    #[arg(help_heading = "Output", short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// A built-in strategy or a strategy file
    #[arg(help_heading = "Strategies", long, value_name = "NAME|FILE", default_value = "fold")]
    strategy: String,
    /// Merge even where no one-rank model equals the unmerged one (qk_layernorm)
    #[arg(help_heading = "Strategies", long)]
    allow_inexact: bool,
    /// Format of the merge: gpt-neox's own, or a directory for transformers
    #[arg(help_heading = "Output", long, value_name = "FORMAT", value_enum, default_value_t = FormatName::Neox)]
    format: FormatName,
    /// Number of ranks to write for; it must divide heads and widths
    #[arg(help_heading = "Output", long, value_name = "N", default_value_t = 1, value_parser = parse_ranks)]
    tensor_parallel: usize,
    /// Size of a safetensors file (`--format hf`); a larger tensor has a file of its own
    #[arg(help_heading = "Output", long, value_name = "SIZE", value_parser = parse_bytes, default_value = "5GB")]
    max_shard_size: u64,
    /// Type of the weights: auto (as in the checkpoint), f32, bf16 or f16
    ///
    /// In a wider type the merge itself is computed and stored wider.
    #[arg(help_heading = "Output", long, value_name = "TYPE", default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    dtype: String,
    /// Leave out the rows that only pad the vocabulary: keep N tokens, or as many as the tokenizer has
    #[arg(help_heading = "Output", long, value_name = "N", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "clap's form of a flag that may have a value")]
    trim_vocab: Option<Option<usize>>,
    /// Pad the vocabulary with rows of zeros to a multiple of N times the ranks (`--format neox`)
    ///
    /// gpt-neox calls N `make_vocab_size_divisible_by`, 128 by default. The logits of such rows are 0 and take part in the
    /// softmax. Default: 1 for a model that was not gpt-neox's, which adds no more rows than the ranks need; none for a
    /// checkpoint of gpt-neox, which is padded already.
    #[arg(help_heading = "Output", long, value_name = "N", value_parser = parse_count)]
    pad_vocab: Option<usize>,
    /// Tokenizer to copy: a tokenizer.json, a vocab.json with its merges.txt beside it, or a name on the Hugging Face Hub (EleutherAI/gpt-neox-20b)
    ///
    /// Default: the file that the checkpoint's configuration names, else `tokenizer.json` or `20B_tokenizer.json` beside it.
    #[arg(help_heading = "Output", long, value_name = "FILE|NAME")]
    tokenizer: Option<PathBuf>,
    /// A report.json of `compare`, whose numbers for the strategy go into the model card
    #[arg(help_heading = "Output", long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replace an earlier merge in this place, once the new one is complete
    #[arg(help_heading = "Output", long)]
    overwrite: bool,
    /// Check everything and list what would be written, but write nothing
    #[arg(help_heading = "Output", long)]
    dry_run: bool,
    /// Memory for weights in transit, for example 1GiB or 500MB; a larger parameter is processed alone
    #[arg(help_heading = "Resources", long, value_name = "BYTES", value_parser = parse_bytes, default_value = "768MiB")]
    memory_budget: u64,
    #[command(flatten)]
    calibration: CalibrationOptions,
    #[command(flatten)]
    reading: ReadingOptions,
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// gpt-neox.
    Neox,
    /// transformers: its GPT-NeoX, Llama, Mistral, Qwen2, Qwen3 or GPT-2, whichever is the same function.
    Hf,
}

pub(super) fn run(args: &WriteArgs, screen: &Screen) -> Result<()> {
    let mut strategy = Strategy::resolve(&args.strategy)?;
    strategy.allow_inexact |= args.allow_inexact;
    let path = model_path(&args.checkpoint, &mut screen.download_bar())?;
    let source = &*open_model(&path, &args.reading.open_options())?;
    check_strategies(source, std::slice::from_ref(&strategy))?;
    let tokenizer = tokenizer_if_any(args.tokenizer.as_deref(), source, &mut screen.download_bar())?
        .map(|place| TokenizerFiles::read(&place.path, place.merges.as_deref()))
        .transpose()?;
    let calibration = calibration(args, source, &strategy, screen)?;
    let versions = versions();
    let record = Record {
        command: screen.command_line().to_vec(),
        strategy_text: Strategy::text(&args.strategy)?,
        version: versions.kintsugi,
        commit: versions.git_commit,
        measured: args.report.as_deref().map(|path| measured(path, &strategy.name)).transpose()?,
    };
    let job = MergeJob {
        source,
        choice: MergeChoice {
            strategy: &strategy,
            dtype: dtype(&args.dtype),
            vocab_size: vocab_size(args, tokenizer.as_ref())?,
            vocab_multiple: vocab_multiple(args, source)?,
            calibrated: calibration.is_some(),
        },
        format: format(args)?,
        drift: None,
        tokenizer: tokenizer.as_ref(),
        directory: &args.output_dir,
        overwrite: args.overwrite,
        memory_budget: args.memory_budget,
        record: &record,
    };
    let preview = job.preview()?;
    preview.notes.iter().for_each(|note| tracing::warn!("{note}"));
    log_exactness(&strategy, &preview.exactness);
    if args.dry_run {
        let mut text = String::new();
        for file in &preview.files {
            let _ = writeln!(text, "{}", args.output_dir.join(file).display());
        }
        return screen.data(&text);
    }
    let bar = screen.merge_bar();
    let MergeSummary { directory, .. } = run_job(&job, calibration.as_ref(), &bar)?;
    drop(bar);
    screen.data(&format!("{}\n", directory.display()))
}

#[cfg(feature = "libtorch")]
type Calibration = crate::run::Calibration;

#[cfg(feature = "libtorch")]
fn calibration(
    args: &WriteArgs,
    source: &dyn ModelSource,
    strategy: &Strategy,
    screen: &Screen,
) -> Result<Option<Calibration>> {
    use super::caller::Process;
    args.calibration.prepare(source, strategy, args.tokenizer.as_deref(), &Process::alone(screen))
}

#[cfg(feature = "libtorch")]
fn run_job(job: &MergeJob<'_>, calibration: Option<&Calibration>, progress: &dyn Progress) -> Result<MergeSummary> {
    let Some(calibration) = calibration else { return Ok(job.run(None, progress)?) };
    let architecture = job.source.architecture();
    let (device, passages) = (calibration.device, &calibration.passages);
    let mut merge = crate::eval::CalibratedMerge::new(architecture, job.choice.strategy, device, passages)?;
    let mut supply = |stage: &StageTensors, exactness: &mut Exactness| Ok(merge.stage(stage, exactness)?);
    Ok(job.run(Some(&mut supply), progress)?)
}

/// Without libtorch there is no forward pass to calibrate with.
#[cfg(not(feature = "libtorch"))]
enum Calibration {}

#[cfg(not(feature = "libtorch"))]
fn calibration(
    _: &WriteArgs,
    source: &dyn ModelSource,
    strategy: &Strategy,
    _: &Screen,
) -> Result<Option<Calibration>> {
    if strategy.calibrate && source.architecture().streams_can_differ() {
        return Err(super::hand_over::exec(&format!("the strategy {}", strategy.name)));
    }
    Ok(None)
}

#[cfg(not(feature = "libtorch"))]
fn run_job(job: &MergeJob<'_>, _: Option<&Calibration>, progress: &dyn Progress) -> Result<MergeSummary> {
    Ok(job.run(None, progress)?)
}

/// Logs what the merge keeps, or what it loses.
fn log_exactness(strategy: &Strategy, exactness: &Exactness) {
    for miscount in exactness.miscounts() {
        tracing::warn!("{} makes {miscount}", strategy.name);
    }
    if exactness.is_exact() {
        tracing::info!("{}: the merge is the unmerged model, up to rounding", strategy.name);
    } else {
        for line in exactness.because() {
            tracing::info!("{}: not exact: {line}", strategy.name);
        }
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a number, at least 1".to_owned())
}

fn parse_ranks(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&ranks| ranks > 0).ok_or_else(|| "expected a number of ranks, at least 1".to_owned())
}

fn format(args: &WriteArgs) -> Result<Format> {
    match args.format {
        FormatName::Neox => Ok(Format::Neox { tp_size: args.tensor_parallel }),
        FormatName::Hf if args.tensor_parallel == 1 => Ok(Format::HuggingFace { max_shard_bytes: args.max_shard_size }),
        FormatName::Hf => {
            Err(Error::usage("--tensor-parallel: transformers divides a model itself; only --format neox has ranks"))
        }
    }
}

fn dtype(word: &str) -> Option<DType> {
    match word {
        "f32" => Some(DType::F32),
        "bf16" => Some(DType::BF16),
        "f16" => Some(DType::F16),
        _ => None,
    }
}

/// Rows of the vocabulary to keep; none: all.
fn vocab_size(args: &WriteArgs, tokenizer: Option<&TokenizerFiles>) -> Result<Option<usize>> {
    Ok(match args.trim_vocab {
        None => None,
        Some(Some(count)) => Some(count),
        Some(None) => {
            let none = || Error::usage("--trim-vocab: no tokenizer beside the checkpoint; give --tokenizer FILE");
            Some(tokenizer.ok_or_else(none)?.token_count())
        }
    })
}

/// What the vocabulary is padded to a multiple of, for each rank; none: it stays as it is.
fn vocab_multiple(args: &WriteArgs, source: &dyn ModelSource) -> Result<Option<usize>> {
    match (args.pad_vocab, args.format) {
        (Some(_), FormatName::Hf) => {
            Err(Error::usage("--pad-vocab: only --format neox pads the vocabulary for its ranks"))
        }
        (None, FormatName::Neox) if source.as_neox().is_none() => Ok(Some(1)),
        (given, _) => Ok(given),
    }
}

/// The numbers of a report for a strategy.
fn measured(path: &std::path::Path, strategy: &str) -> Result<Measured> {
    let report = report::read_json(path)?;
    let scores = |row: &report::ModelRow| Scores { perplexity: row.perplexity, acc: row.acc };
    let variant = report.variants.iter().find(|variant| variant.model.is_called(strategy)).ok_or_else(|| {
        let known: Vec<_> = report.variants.iter().map(|variant| variant.model.title()).collect();
        Error::usage(format!("{}: no row `{strategy}`, only {}", path.display(), known.join(", ")))
    })?;
    Ok(Measured {
        task: report.task.name.clone(),
        passages: report.task.passages.effective,
        baseline: scores(&report.baseline),
        merged: scores(&variant.model),
        kl_mean: variant.fidelity.as_ref().map(|fidelity| fidelity.kl_mean),
    })
}
