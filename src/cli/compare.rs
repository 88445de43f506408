//! `kintsugi compare`: the main job.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::args::{EvaluationArgs, MergeArgs, ModelArgs, ReadingArgs, Shard};
use super::candidates::{Candidate, CandidateArgs};
use super::combine::{report_of, show};
use super::dry_run;
use super::evaluation::{Setting, open_any, open_checkpoint, prepare};
use super::job::{Job, model_record};
use super::output::Screen;
use super::recording;
use crate::checkpoint::ModelSource;
use crate::eval::{SliceOutcome, Variant};
use crate::merge::Strategy;
use crate::model::DeviceChoice;
use crate::report::{self, Exact, ModelRecord, ModelRole, OutputDir, Report, ReportError};
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

/// What is compared.
struct Comparison<'a> {
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
    let comparison = Comparison { model: &*model, strategies: &[], candidates: &[] };
    let report = compare(&args, &comparison, setting, output.as_ref(), screen)?;
    report.map_or(Ok(()), |report| show(&report, output.as_ref(), screen))
}

pub(super) fn run(args: &CompareArgs, screen: &Screen) -> anyhow::Result<()> {
    let output = args.prepare_output()?;
    let report = evaluate_all(args, output.as_ref(), screen)?;
    report.map_or(Ok(()), |report| show(&report, output.as_ref(), screen))
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
        // Whoever calls gets the report of everything, whatever started the process.
        shard: Some(Shard { index: 1, count: 1 }),
        ..EvaluationArgs::for_task(asked.task)
    };
    let args = CompareArgs::new(ModelArgs::at(asked.checkpoint), evaluation, asked.output_dir);
    let args = CompareArgs { strategy: asked.strategies, ..args };
    let output = args.prepare_output()?;
    let report = evaluate_all(&args, output.as_ref(), &Screen::silent())?;
    report.context("nothing was evaluated")
}

fn evaluate_all(args: &CompareArgs, output: Option<&OutputDir>, screen: &Screen) -> anyhow::Result<Option<Report>> {
    let mut strategies = Strategy::asked_for(&args.strategy)?;
    args.merge.apply(&mut strategies);
    let (checkpoint, setting) = open_checkpoint(&args.model, &args.evaluation, &strategies)?;
    let candidates = args.candidates.open(&args.model.reading, &strategies)?;
    let comparison = Comparison { model: &checkpoint, strategies: &strategies, candidates: &candidates };
    compare(args, &comparison, setting, output, screen)
}

impl CompareArgs {
    fn prepare_output(&self) -> Result<Option<OutputDir>, ReportError> {
        if self.dry_run {
            return Ok(None);
        }
        self.output_dir.as_deref().map(report::prepare_output).transpose()
    }
}

/// No report comes of a dry run, nor of a shard, whose report is made when it is joined with the others.
fn compare(
    args: &CompareArgs,
    comparison: &Comparison<'_>,
    setting: Setting,
    output: Option<&OutputDir>,
    screen: &Screen,
) -> anyhow::Result<Option<Report>> {
    let mut prepared = prepare(comparison.model, &args.evaluation, setting, screen)?;
    let mut variants = vec![Variant::baseline()];
    variants.extend(comparison.strategies.iter().cloned().map(Variant::merged));
    variants.extend(comparison.candidates.iter().map(Candidate::variant));
    if !args.no_noise_floor {
        variants.push(Variant::noise_floor());
    }
    if args.dry_run {
        let output_dir = args.output_dir.as_deref();
        let models = (comparison.model, args.model.checkpoint.as_path());
        dry_run::show(models, &variants, (&prepared, output_dir), screen)?;
        return Ok(None);
    }
    let bootstrap = PairedBootstrap {
        replicate_count: args.bootstrap_replicates as usize,
        seed: args.seed,
        ..PairedBootstrap::default()
    };
    let job = Job {
        model: comparison.model,
        given: &args.model.checkpoint,
        variants: &variants,
        describe: &|slice| comparison.describe(&variants, slice),
        journal: recording::JOURNAL,
        bootstrap,
    };
    let folder = output.map(OutputDir::path);
    let records = recording::evaluate(&job, &mut prepared, &args.evaluation, folder, screen)?;
    if let (Some(shard), Some(folder)) = (prepared.shard, folder) {
        tracing::info!(
            "shard {}/{} is done; when all are: kintsugi combine {2} -o {2}",
            shard.index,
            shard.count,
            folder.display()
        );
        return Ok(None);
    }
    Ok(Some(report_of(&records, bootstrap, output)?))
}

impl Comparison<'_> {
    /// What the first slice tells about every model.
    fn describe(&self, variants: &[Variant], slice: &SliceOutcome) -> Vec<ModelRecord> {
        let (model, architecture) = (self.model, self.model.architecture());
        let record = |(at, variant): (usize, &Variant)| {
            let (role, description, source) = match (at, variant.rechunked) {
                (0, _) => (ModelRole::Baseline, baseline_description(model), String::new()),
                (_, true) => {
                    let description = "the baseline again, summed in another order".to_owned();
                    (ModelRole::NoiseFloor, description, String::new())
                }
                _ => (ModelRole::Variant, String::new(), String::new()),
            };
            let blank = model_record(&variant.name, role, description, source);
            let others = self.strategies.len();
            match (at.checked_sub(1), role) {
                (Some(place), ModelRole::Variant) if place < others => {
                    let (strategy, exactness) = (&self.strategies[place], &slice.exactness[at]);
                    ModelRecord {
                        description: strategy.description.clone(),
                        source: strategy.source.clone(),
                        exact: Some(Exact { exact: exactness.is_exact(), because: exactness.because() }),
                        miscounts: exactness.miscounts(),
                        folding: exactness.folding(),
                        ..blank
                    }
                }
                (Some(place), ModelRole::Variant) => {
                    let candidate = &self.candidates[place - others];
                    ModelRecord {
                        description: format!("Made elsewhere: {}.", candidate.model.describe()),
                        source: candidate.path.display().to_string(),
                        candidate: Some(candidate.info(architecture, slice, at)),
                        findings: candidate.findings(architecture, slice, at),
                        ..blank
                    }
                }
                _ => blank,
            }
        };
        variants.iter().enumerate().map(record).collect()
    }
}

fn baseline_description(model: &dyn ModelSource) -> String {
    match model.tp_size() {
        1 => format!("The model as it is: {}.", model.describe()),
        ranks => format!("The checkpoint as trained: {ranks} ranks, each with its own replicas."),
    }
}
