//! `kintsugi merge`: one merge of a checkpoint, written for gpt-neox or for transformers.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::args::{MergeArgs, ModelArgs, parse_bytes};
use super::names;
use super::output::Screen;
use crate::checkpoint::Checkpoint;
use crate::export::{Format, Measured, MergeChoice, MergeJob, MergeSummary, Progress, Record, Scores, TokenizerFiles};
use crate::merge::{Exactness, Strategy};
#[cfg(feature = "libtorch")]
use crate::partition::StageTensors;
use crate::report;
use crate::tensor::DType;

/// Arguments of `merge`.
#[derive(Debug, Clone, Args)]
pub(super) struct WriteArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Where the merge goes: a directory that is made, complete or not at all.
    #[arg(short, long, value_name = "DIR")]
    output_dir: PathBuf,
    /// A built-in strategy or a strategy file.
    #[arg(long, value_name = "NAME|FILE", default_value = "fold")]
    strategy: String,
    #[command(flatten)]
    merge: MergeArgs,
    #[cfg(feature = "libtorch")]
    #[command(flatten)]
    calibration: super::calibration::CalibrationArgs,
    /// gpt-neox's own files, or a directory for Hugging Face's transformers.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = FormatName::Neox)]
    format: FormatName,
    /// Number of ranks to write for; it must divide heads and widths.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_ranks)]
    tensor_parallel: usize,
    /// Size of a safetensors file (`--format hf`); a larger tensor has a file of its own.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "5GB")]
    max_shard_size: u64,
    /// Type of the weights: auto (as in the checkpoint), f32, bf16 or f16. In a wider type the merge itself is computed
    /// and stored wider.
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    dtype: String,
    /// Leave out the rows that only pad the vocabulary: keep N tokens, or as many as the tokenizer has.
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "clap's form of a flag that may have a value")]
    trim_vocab: Option<Option<usize>>,
    /// The tokenizer to put beside the weights: a tokenizer.json, or a name on the Hugging Face Hub
    /// (EleutherAI/gpt-neox-20b). Default: `tokenizer.json` or `20B_tokenizer.json` beside the checkpoint, or the file that
    /// its configuration names.
    #[arg(long, value_name = "FILE|NAME")]
    tokenizer: Option<PathBuf>,
    /// A report.json of `compare`: what it measured for the strategy goes into the model card.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replace an earlier merge in this place, once the new one is complete.
    #[arg(long)]
    overwrite: bool,
    /// Check everything and say what would be written, but write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Memory for weights on their way, for example 1GiB or 500MB. A parameter that is larger goes alone.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "768MiB")]
    memory_budget: u64,
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// gpt-neox.
    Neox,
    /// transformers: GPTNeoXForCausalLM or LlamaForCausalLM.
    Hf,
}

pub(super) fn run(args: &WriteArgs, screen: &Screen) -> anyhow::Result<()> {
    let mut strategies = [Strategy::resolve(&args.strategy)?];
    args.merge.apply(&mut strategies);
    let [strategy] = strategies;
    let checkpoint = args.model.open()?;
    check_strategy(&checkpoint, &strategy)?;
    let tokenizer_path = names::tokenizer_if_any(args.tokenizer.as_deref(), &checkpoint, screen)?;
    let tokenizer = tokenizer_path.as_deref().map(TokenizerFiles::read).transpose()?;
    let calibration = calibration(args, &checkpoint, &strategy, screen)?;
    let record = Record {
        command: super::settings::command_line(),
        strategy_text: Strategy::text(&args.strategy)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: Some(env!("KINTSUGI_GIT_COMMIT")).filter(|commit| !commit.is_empty()).map(str::to_owned),
        measured: args.report.as_deref().map(|path| measured(path, &strategy.name)).transpose()?,
    };
    let job = MergeJob {
        checkpoint: &checkpoint,
        choice: MergeChoice {
            strategy: &strategy,
            dtype: dtype(&args.dtype),
            vocab_size: vocab_size(args, tokenizer.as_ref())?,
            calibrated: calibration.is_some(),
        },
        format: format(args)?,
        tokenizer: tokenizer.as_ref(),
        directory: &args.output_dir,
        overwrite: args.overwrite,
        memory_budget: args.memory_budget,
        record: &record,
    };
    let preview = job.preview()?;
    tell(&strategy, &preview.exactness);
    if args.dry_run {
        let mut text = String::new();
        for file in &preview.files {
            let _ = writeln!(text, "{}", args.output_dir.join(file).display());
        }
        return screen.data(&text);
    }
    let bar = screen.merge_bar();
    let written = run_job(&job, calibration.as_ref(), &bar);
    bar.finish();
    let MergeSummary { directory, .. } = written?;
    screen.data(&format!("{}\n", directory.display()))
}

#[cfg(feature = "libtorch")]
type Calibration = super::calibration::Calibration;

#[cfg(feature = "libtorch")]
fn calibration(
    args: &WriteArgs,
    checkpoint: &Checkpoint,
    strategy: &Strategy,
    screen: &Screen,
) -> anyhow::Result<Option<Calibration>> {
    args.calibration.prepare(checkpoint, strategy, args.tokenizer.as_deref(), screen)
}

#[cfg(feature = "libtorch")]
fn run_job(
    job: &MergeJob<'_>,
    calibration: Option<&Calibration>,
    progress: &dyn Progress,
) -> anyhow::Result<MergeSummary> {
    let Some(calibration) = calibration else { return Ok(job.run(None, progress)?) };
    let architecture = job.checkpoint.architecture();
    let (backend, passages) = (calibration.backend, &calibration.passages);
    let mut merge = crate::eval::CalibratedMerge::new(architecture, job.choice.strategy, backend, passages)?;
    let mut supply = |stage: &StageTensors, exactness: &mut Exactness| Ok(merge.stage(stage, exactness)?);
    Ok(job.run(Some(&mut supply), progress)?)
}

/// Without libtorch there is no forward pass to calibrate with.
#[cfg(not(feature = "libtorch"))]
enum Calibration {}

#[cfg(not(feature = "libtorch"))]
fn calibration(
    _: &WriteArgs,
    checkpoint: &Checkpoint,
    strategy: &Strategy,
    _: &Screen,
) -> anyhow::Result<Option<Calibration>> {
    if strategy.calibrate && checkpoint.architecture().streams_can_differ() {
        bail!("{} needs a forward pass, and this build has none (feature libtorch)", strategy.name);
    }
    Ok(None)
}

#[cfg(not(feature = "libtorch"))]
fn run_job(job: &MergeJob<'_>, _: Option<&Calibration>, progress: &dyn Progress) -> anyhow::Result<MergeSummary> {
    Ok(job.run(None, progress)?)
}

/// Says what the merge keeps, or what it loses.
fn tell(strategy: &Strategy, exactness: &Exactness) {
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

/// The strategy must have a rule that fits for every replicated parameter, before anything is read.
fn check_strategy(checkpoint: &Checkpoint, strategy: &Strategy) -> anyhow::Result<()> {
    let parameters: Vec<_> = checkpoint
        .stage_ids()
        .into_iter()
        .flat_map(|id| checkpoint.stage_params(id).into_iter().map(move |(_, entry)| (id, entry)))
        .filter(|(_, entry)| entry.row.kind.is_replicated())
        .collect();
    let named = parameters.iter().map(|(id, entry)| (*id, entry.name.as_str(), entry.row.kind));
    Ok(strategy.check(named, checkpoint.tp_size())?)
}

fn parse_ranks(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&ranks| ranks > 0).ok_or_else(|| "expected a number of ranks, at least 1".to_owned())
}

fn format(args: &WriteArgs) -> anyhow::Result<Format> {
    match args.format {
        FormatName::Neox => Ok(Format::Neox { tp_size: args.tensor_parallel }),
        FormatName::Hf if args.tensor_parallel == 1 => Ok(Format::HuggingFace { max_shard_bytes: args.max_shard_size }),
        FormatName::Hf => bail!("--tensor-parallel: transformers divides a model itself; only --format neox has ranks"),
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
fn vocab_size(args: &WriteArgs, tokenizer: Option<&TokenizerFiles>) -> anyhow::Result<Option<usize>> {
    Ok(match args.trim_vocab {
        None => None,
        Some(Some(count)) => Some(count),
        Some(None) => {
            let tokenizer =
                tokenizer.context("--trim-vocab: no tokenizer beside the checkpoint; give --tokenizer FILE")?;
            Some(tokenizer.token_count())
        }
    })
}

/// What a report says of a strategy.
fn measured(path: &std::path::Path, strategy: &str) -> anyhow::Result<Measured> {
    let report = report::read_json(path)?;
    let scores = |row: &report::ModelRow| Scores { perplexity: row.perplexity, acc: row.acc };
    let variant = report.variants.iter().find(|variant| variant.model.name == strategy).with_context(|| {
        let known: Vec<_> = report.variants.iter().map(|variant| variant.model.name.as_str()).collect();
        format!("{}: says nothing of `{strategy}`, only of {}", path.display(), known.join(", "))
    })?;
    Ok(Measured {
        task: report.task.name.clone(),
        passages: report.task.passages.effective,
        baseline: scores(&report.baseline),
        merged: scores(&variant.model),
        kl_mean: variant.fidelity.as_ref().map(|fidelity| fidelity.kl_mean),
    })
}
