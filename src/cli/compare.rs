//! `kintsugi compare`: the main job.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::args::{EvaluationArgs, MergeArgs, ModelArgs, ReadingArgs};
use super::candidates::{Candidate, CandidateArgs};
use super::evaluation::{self, Prepared, Setting, open_any, open_checkpoint, prepare};
use super::output::Screen;
use super::{drift, dry_run};
use crate::checkpoint::ModelSource;
use crate::eval::{EvalError, Evaluation, Variant, evaluate, samples};
use crate::merge::{Exactness, Strategy};
use crate::model::DeviceChoice;
use crate::report::{self, Exact, Outcome, OutputDir, Report, ReportError, ReportInput, TerminalStyle};
use crate::samples::{RollingText, Sample};
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
    #[command(flatten)]
    merge: MergeArgs,
    #[command(flatten)]
    candidates: CandidateArgs,
    /// Write report.html, report.md, report.json, plots, samples and lm-eval files into this folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Check everything (names, shapes, passages, tokenizer, device, memory, disk) and say what would be read, computed and
    /// written, but compute nothing.
    #[arg(long)]
    dry_run: bool,
    /// Leave out the baseline's second run in chunks of another size, below whose differences all is noise.
    #[arg(long)]
    no_noise_floor: bool,
    /// Resamples of the paired bootstrap.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    bootstrap_replicates: u32,
    /// Seed of the paired bootstrap.
    #[arg(long, value_name = "SEED", default_value_t = PairedBootstrap::default().seed)]
    seed: u64,
}

impl CompareArgs {
    /// All built-in strategies, everything else at its default.
    pub(super) fn new(model: ModelArgs, evaluation: EvaluationArgs, output_dir: Option<PathBuf>) -> Self {
        let PairedBootstrap { replicate_count, seed, .. } = PairedBootstrap::default();
        Self {
            model,
            evaluation,
            strategy: Vec::new(),
            merge: MergeArgs::default(),
            candidates: CandidateArgs::default(),
            output_dir,
            dry_run: false,
            no_noise_floor: false,
            bootstrap_replicates: u32::try_from(replicate_count).unwrap_or(u32::MAX),
            seed,
        }
    }
}

/// What is evaluated.
struct Job<'a> {
    model: &'a dyn ModelSource,
    strategies: &'a [Strategy],
    candidates: &'a [Candidate],
}

/// Evaluates one model alone, whatever it is.
pub(super) fn run_alone(
    (path, reading): (PathBuf, &ReadingArgs),
    evaluation: EvaluationArgs,
    output_dir: Option<PathBuf>,
    screen: &Screen,
) -> anyhow::Result<()> {
    let args = CompareArgs { no_noise_floor: true, ..CompareArgs::new(ModelArgs::at(path), evaluation, output_dir) };
    let output = args.prepare_output()?;
    let (model, setting) = open_any(&args.model.checkpoint, reading, &args.evaluation)?;
    let job = Job { model: &*model, strategies: &[], candidates: &[] };
    let report = compare(&args, &job, setting, output.as_ref(), screen)?;
    report.map_or(Ok(()), |report| show(&report, screen))
}

pub(super) fn run(args: &CompareArgs, screen: &Screen) -> anyhow::Result<()> {
    let report = evaluate_all(args, screen)?;
    report.map_or(Ok(()), |report| show(&report, screen))
}

/// What a caller of the library asks for.
pub(crate) struct Asked {
    pub checkpoint: PathBuf,
    pub task: String,
    pub data: Option<PathBuf>,
    pub tokenizer: Option<PathBuf>,
    pub strategies: Vec<String>,
    pub device: DeviceChoice,
    pub limit: Option<u64>,
    pub output_dir: Option<PathBuf>,
}

/// `compare`, with nothing shown.
pub(crate) fn compare_quietly(asked: Asked) -> anyhow::Result<Report> {
    let evaluation = EvaluationArgs {
        data: asked.data,
        tokenizer: asked.tokenizer,
        device: asked.device,
        limit: asked.limit,
        ..EvaluationArgs::for_task(asked.task)
    };
    let args = CompareArgs::new(ModelArgs::at(asked.checkpoint), evaluation, asked.output_dir);
    let report = evaluate_all(&CompareArgs { strategy: asked.strategies, ..args }, &Screen::silent())?;
    report.context("nothing was evaluated")
}

fn evaluate_all(args: &CompareArgs, screen: &Screen) -> anyhow::Result<Option<Report>> {
    let mut strategies = Strategy::asked_for(&args.strategy)?;
    args.merge.apply(&mut strategies);
    let output = args.prepare_output()?;
    let (checkpoint, setting) = open_checkpoint(&args.model, &args.evaluation, &strategies)?;
    let candidates = args.candidates.open(&args.model.reading, &strategies)?;
    let job = Job { model: &checkpoint, strategies: &strategies, candidates: &candidates };
    compare(args, &job, setting, output.as_ref(), screen)
}

impl CompareArgs {
    fn prepare_output(&self) -> Result<Option<OutputDir>, ReportError> {
        if self.dry_run {
            return Ok(None);
        }
        self.output_dir.as_deref().map(report::prepare_output).transpose()
    }
}

fn compare(
    args: &CompareArgs,
    job: &Job<'_>,
    setting: Setting,
    output: Option<&OutputDir>,
    screen: &Screen,
) -> anyhow::Result<Option<Report>> {
    let mut prepared = prepare(job.model, &args.evaluation, setting, screen)?;
    let mut variants = vec![Variant::baseline()];
    variants.extend(job.strategies.iter().cloned().map(Variant::merged));
    variants.extend(job.candidates.iter().map(Candidate::variant));
    if !args.no_noise_floor {
        variants.push(Variant::noise_floor());
    }
    let passages = std::mem::take(&mut prepared.passages);
    if args.dry_run {
        dry_run::show(
            (job.model, &args.model.checkpoint),
            &variants,
            passages,
            (&prepared, args.output_dir.as_deref()),
            screen,
        )?;
        return Ok(None);
    }
    let bar = screen.evaluation_bar();
    let evaluation = evaluate(job.model, &variants, passages, &prepared.options, &bar);
    bar.finish();
    let evaluation = evaluation?;
    let mut samples = samples::samples(&evaluation, &variants, &prepared.data.documents, &prepared.pairs);
    samples.iter_mut().flatten().for_each(|samples| prepared.tokenizer.name_candidates(samples));
    let input = report_input(args, job, &prepared, &evaluation, samples)?;
    let report = Report::new(&input)?;
    if let Some(output) = output {
        let documents = evaluation::document_texts(&prepared.data.documents);
        report::write_all(&report, input.outcomes(), &documents, output)?;
        tracing::info!("report in {}", output.path().display());
    }
    Ok(Some(report))
}

fn show(report: &Report, screen: &Screen) -> anyhow::Result<()> {
    let style = TerminalStyle { width: Screen::width(), styled: Screen::styled() };
    screen.data(&report::render_terminal(report, style))
}

/// Everything the report is made of.
fn report_input(
    args: &CompareArgs,
    job: &Job<'_>,
    prepared: &Prepared,
    evaluation: &Evaluation,
    samples: Vec<Result<Vec<Sample>, EvalError>>,
) -> anyhow::Result<ReportInput> {
    let mut samples = samples.into_iter();
    let model = job.model;
    let baseline = Outcome {
        name: "baseline".to_owned(),
        description: match model.tp_size() {
            1 => format!("The model as it is: {}.", model.describe()),
            ranks => format!("The checkpoint as trained: {ranks} ranks, each with its own replicas."),
        },
        source: String::new(),
        samples: samples.next().transpose()?.unwrap_or_default(),
        exact: None,
        candidate: None,
    };
    let mut findings = findings(job.strategies, &evaluation.exactness[1..]);
    let mut described: Vec<Outcome> = Vec::new();
    for (strategy, exactness) in job.strategies.iter().zip(evaluation.exactness.iter().skip(1)) {
        described.push(Outcome {
            name: strategy.name.clone(),
            description: strategy.description.clone(),
            source: strategy.source.clone(),
            samples: Vec::new(),
            exact: Some(Exact { exact: exactness.is_exact(), because: exactness.because() }),
            candidate: None,
        });
    }
    for (at, candidate) in
        job.candidates.iter().enumerate().map(|(at, candidate)| (job.strategies.len() + at + 1, candidate))
    {
        findings.extend(candidate.findings(model.architecture(), evaluation, at));
        described.push(Outcome {
            name: candidate.name.clone(),
            description: format!("Made elsewhere: {}.", candidate.model.describe()),
            source: candidate.path.display().to_string(),
            samples: Vec::new(),
            exact: None,
            candidate: Some(candidate.info(model.architecture(), evaluation, at)),
        });
    }
    // What is wrong comes first, whoever made it.
    findings.sort_by_key(|finding| !finding.starts_with("WARNING"));
    let names: Vec<String> = described.iter().map(|outcome| outcome.name.clone()).collect();
    let mut variants = Vec::new();
    for (outcome, samples) in described.into_iter().zip(samples.by_ref()) {
        match samples {
            Ok(samples) => variants.push(Outcome { samples, ..outcome }),
            Err(error) => {
                tracing::warn!("left out of the report: {error}");
                findings.insert(0, format!("WARNING: {} is left out: {error}", outcome.name));
            }
        }
    }
    findings.extend(
        prepared
            .rolling
            .map(|text| per_word(text, baseline.samples.len(), std::iter::once(&baseline).chain(&variants))),
    );
    let noise_floor = samples.next().transpose()?.map(|samples| Outcome {
        name: "noise floor".to_owned(),
        description: "the baseline again, in chunks of another size".to_owned(),
        source: String::new(),
        samples,
        exact: None,
        candidate: None,
    });
    let divergence = names
        .iter()
        .zip(evaluation.divergence.iter().skip(1))
        .filter(|(name, _)| variants.iter().any(|outcome| outcome.name == **name))
        .map(|(name, steps)| evaluation::divergence_curve(name, steps))
        .collect();
    Ok(ReportInput {
        run: evaluation::run_info(&args.evaluation, prepared, evaluation),
        checkpoint: evaluation::checkpoint_info(model, &args.model.checkpoint, evaluation),
        task: prepared.task_info(),
        baseline,
        variants,
        noise_floor,
        divergence,
        drift: drift::of_model(model)?,
        findings,
        bootstrap: PairedBootstrap {
            replicate_count: args.bootstrap_replicates as usize,
            seed: args.seed,
            ..PairedBootstrap::default()
        },
    })
}

/// What perplexities of whole texts are divided by, and the models' bits per byte.
fn per_word<'a>(text: RollingText, windows: usize, outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let RollingText { documents, words, bytes, tokens } = text;
    let texts = if documents == 1 { "one text".to_owned() } else { format!("{documents} texts") };
    let mut line = format!(
        "{texts} of {words} words, {bytes} bytes and {tokens} tokens in {windows} windows, which count as documents: perplexity is \
         per word, accuracy per token; bits per byte:"
    );
    for (at, outcome) in outcomes.enumerate() {
        let loglikelihood: f64 = outcome.samples.iter().map(|sample| sample.loglikelihood).sum();
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(line, "{comma} {} {:.6}", outcome.name, text.bits_per_byte(loglikelihood));
    }
    line
}

/// Wrong rules, loudly, and what folding did to the weights.
fn findings(strategies: &[Strategy], exactness: &[Exactness]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut findings: Vec<(Vec<&str>, String)> = Vec::new();
    for (strategy, exactness) in strategies.iter().zip(exactness) {
        for miscount in exactness.miscounts() {
            warnings.push(format!("WARNING: {} makes {miscount}", strategy.name));
        }
        let Some(folding) = exactness.folding() else { continue };
        let mut text = format!("largest change of a weight {:.2e}", folding.max_weight_change);
        if folding.max_rank_one > 0.0 {
            let _ = write!(text, ", largest element of a rank-one term {:.2e}", folding.max_rank_one);
        }
        if folding.unties_head {
            text.push_str("; the tied head becomes a matrix of its own");
        }
        match findings.iter_mut().find(|(_, other)| *other == text) {
            Some((names, _)) => names.push(&strategy.name),
            None => findings.push((vec![&strategy.name], text)),
        }
    }
    let folds = findings.into_iter().map(|(names, text)| format!("{}: norms folded; {text}", names.join(" and ")));
    warnings.into_iter().chain(folds).collect()
}
