//! `kintsugi compare`: the main job.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::args::{EvaluationArgs, ModelArgs};
use super::evaluation::{self, Prepared, prepare};
use super::output::Screen;
use crate::eval::{Evaluation, Variant, Weights, evaluate, samples};
use crate::merge::{Exactness, Strategy};
use crate::model::Backend;
use crate::report::{
    self, Exact, FileDigest, Outcome, OutputDir, Report, ReportInput, RunInfo, Shard, StageSeconds, TerminalStyle,
};
use crate::stats::PairedBootstrap;

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// A built-in strategy or a strategy file (repeatable). Default: all built-in ones.
    #[arg(long, value_name = "NAME|FILE")]
    strategy: Vec<String>,
    /// Write report.json, report.md and samples/NAME.jsonl into this folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Resamples of the paired bootstrap.
    #[arg(long, value_name = "N", default_value_t = PairedBootstrap::default().replicate_count)]
    bootstrap_replicates: usize,
    /// Seed of the paired bootstrap.
    #[arg(long, value_name = "SEED", default_value_t = PairedBootstrap::default().seed)]
    seed: u64,
}

impl CompareArgs {
    /// All built-in strategies, everything else at its default.
    pub(super) fn new(model: ModelArgs, evaluation: EvaluationArgs, output_dir: Option<PathBuf>) -> Self {
        let PairedBootstrap { replicate_count, seed, .. } = PairedBootstrap::default();
        Self { model, evaluation, strategy: Vec::new(), output_dir, bootstrap_replicates: replicate_count, seed }
    }
}

pub(super) fn run(args: &CompareArgs, screen: &Screen) -> anyhow::Result<()> {
    let started = jiff::Timestamp::now();
    let clock = Instant::now();
    let strategies = Strategy::asked_for(&args.strategy)?;
    let output = args.output_dir.as_deref().map(report::prepare_output).transpose()?;
    let mut prepared = prepare(&args.model, &args.evaluation)?;
    let variants: Vec<_> = std::iter::once(Variant { name: "baseline".to_owned(), weights: Weights::Unmerged })
        .chain(
            strategies
                .iter()
                .map(|strategy| Variant { name: strategy.name.clone(), weights: Weights::Merged(strategy.clone()) }),
        )
        .collect();
    let bar = screen.evaluation_bar();
    let passages = std::mem::take(&mut prepared.passages);
    let evaluation = evaluate(&prepared.checkpoint, &variants, passages, &prepared.options, &bar);
    bar.finish();
    let evaluation = evaluation?;
    let samples = samples::samples(&evaluation, &variants, &prepared.data.documents, &prepared.pairs)?;

    let mut outcomes = samples.into_iter();
    let baseline = Outcome {
        name: "baseline".to_owned(),
        description: format!(
            "The checkpoint as trained: {} ranks, each with its own replicas.",
            prepared.checkpoint.tp_size()
        ),
        source: String::new(),
        samples: outcomes.next().unwrap_or_default(),
        exact: None,
    };
    let merged = strategies.iter().zip(outcomes).zip(evaluation.exactness.iter().skip(1));
    let variants = merged.map(|((strategy, samples), exactness)| Outcome {
        name: strategy.name.clone(),
        description: strategy.description.clone(),
        source: strategy.source.clone(),
        samples,
        exact: Some(exact(exactness)),
    });
    let input = ReportInput {
        run: run_info(args, &prepared, &evaluation, started, clock),
        checkpoint: prepared.checkpoint_info(&args.model, digests(&evaluation)),
        task: prepared.task_info(),
        baseline,
        variants: variants.collect(),
        noise_floor: None,
        findings: Vec::new(),
        bootstrap: PairedBootstrap {
            replicate_count: args.bootstrap_replicates,
            seed: args.seed,
            ..PairedBootstrap::default()
        },
    };
    let report = Report::new(&input)?;
    if let Some(output) = &output {
        write(&report, &input, output)?;
    }
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_terminal(&report, style))
}

fn write(report: &Report, input: &ReportInput, output: &OutputDir) -> anyhow::Result<()> {
    report::write_all(report, input.outcomes(), output)?;
    tracing::info!("report in {}", output.path().display());
    Ok(())
}

fn exact(exactness: &Exactness) -> Exact {
    Exact { exact: exactness.is_exact(), because: exactness.because() }
}

fn digests(evaluation: &Evaluation) -> Vec<FileDigest> {
    let convert = |digest: &crate::checkpoint::FileDigest| FileDigest {
        file: digest.file.clone(),
        sha256: digest.sha256.clone(),
        bytes: digest.bytes,
    };
    evaluation.digests.iter().map(convert).collect()
}

fn run_info(
    args: &CompareArgs,
    prepared: &Prepared,
    evaluation: &Evaluation,
    started: jiff::Timestamp,
    clock: Instant,
) -> RunInfo {
    let backends = &prepared.options.backends;
    let timings = evaluation.timings;
    let tokens = evaluation.token_count as u64;
    #[expect(clippy::cast_precision_loss, reason = "a speed for people to read")]
    let tokens_per_second = tokens as f64 / timings.compute.as_secs_f64().max(1e-9);
    RunInfo {
        argv: std::env::args().collect(),
        started,
        seconds: clock.elapsed().as_secs_f64(),
        device: backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        dtype: backends.first().map(Backend::dtype_name).unwrap_or_default().to_owned(),
        threads: prepared.threads,
        versions: evaluation::versions(),
        limit: args.evaluation.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        shard: args.evaluation.shard.map(|shard| Shard { index: shard.index, count: shard.count }),
        chunk_tokens: evaluation.chunk_tokens,
        slices: evaluation.slice_count,
        peak_rss_bytes: evaluation::peak_rss_bytes(),
        stages: Some(StageSeconds {
            read_seconds: timings.read.as_secs_f64(),
            merge_seconds: timings.merge.as_secs_f64(),
            compute_seconds: timings.compute.as_secs_f64(),
        }),
        tokens,
        tokens_per_second,
    }
}
