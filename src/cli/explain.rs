//! `kintsugi explain`: which group of parameters costs what, and why.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::args::{EvaluationArgs, MergeArgs, ModelArgs};
use super::evaluation::{open_checkpoint, prepare};
use super::job::{Job, model_record};
use super::output::Screen;
use super::recording;
use crate::checkpoint::Checkpoint;
use crate::config::Residual;
use crate::eval::{SliceOutcome, Variant};
use crate::merge::{Factor, Strategy, bias_scales, only, without};
use crate::partition::Kind;
use crate::report::{
    self, DivergenceCurve, Effect, Explanation, FactorEffect, ModelRecord, ModelRole, OutputDir, Records, ReportError,
    ScaleEffect, StrategyEffect, TerminalStyle,
};
use crate::samples::Sample;
use crate::stats::{self, PairedBootstrap};

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// A built-in strategy or a strategy file to explain (repeatable). Default: zeroth, mean, merge20b, reduce-aware.
    #[arg(long, value_name = "NAME|FILE")]
    strategy: Vec<String>,
    #[command(flatten)]
    merge: MergeArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write explanation.json, explanation.txt and report.html into this folder; together with `compare`'s report where that
    /// is there.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

const EXPLAINED: [&str; 4] = ["zeroth", "mean", "merge20b", "reduce-aware"];

pub(super) fn run(args: &ExplainArgs, screen: &Screen) -> anyhow::Result<()> {
    let names: Vec<&str> =
        if args.strategy.is_empty() { EXPLAINED.to_vec() } else { args.strategy.iter().map(String::as_str).collect() };
    let mut strategies = names.into_iter().map(Strategy::resolve).collect::<Result<Vec<_>, _>>()?;
    args.merge.apply(&mut strategies);
    let output = args.output_dir.as_deref().map(report::prepare_output).transpose()?;
    let (checkpoint, setting) = open_checkpoint(&args.model, &args.evaluation, &strategies)?;
    let mut prepared = prepare(&checkpoint, &args.evaluation, setting, screen)?;
    let plan = Plan::new(&checkpoint, strategies);
    let job = Job {
        model: &checkpoint,
        given: &args.model.checkpoint,
        variants: &plan.variants,
        describe: &|slice| plan.describe(slice),
        journal: "explanation-journal.jsonl",
        bootstrap: PairedBootstrap::default(),
    };
    let folder = output.as_ref().map(OutputDir::path);
    let records = recording::evaluate(&job, &mut prepared, &args.evaluation, folder, screen)?;
    let samples = (0..plan.variants.len())
        .map(|model| records.samples(model).map_err(|message| ReportError::Overflow { message }))
        .collect::<Result<Vec<_>, _>>()?;
    let effects =
        samples.iter().map(|of_variant| effect(&samples[0], of_variant)).collect::<anyhow::Result<Vec<_>>>()?;
    let explanation = plan.explain(&checkpoint, &records, &effects, &samples[0])?;
    let json = format!("{}\n", serde_json::to_string_pretty(&explanation)?);
    let text = report::render_explanation(&explanation, TerminalStyle { width: Screen::width(), styled: false });
    if let Some(output) = &output {
        report::write_explanation(&explanation, output)?;
        report::write_atomically(&output.path().join("explanation.txt"), text.as_bytes())?;
        tracing::info!("explanation in {} (open report.html)", output.path().display());
    }
    screen.data(if args.json { &json } else { &text })
}

/// All variants of one pass, and where each stands.
struct Plan {
    variants: Vec<Variant>,
    strategies: Vec<Planned>,
    scales: Vec<(f64, usize)>,
}

struct Planned {
    strategy: Strategy,
    whole: usize,
    factors: Vec<(Factor, usize, usize)>,
}

impl Plan {
    fn new(checkpoint: &Checkpoint, strategies: Vec<Strategy>) -> Self {
        let architecture = checkpoint.architecture();
        let mut variants = vec![Variant::baseline()];
        let mut add = |strategy: Strategy| {
            variants.push(Variant::merged(strategy));
            variants.len() - 1
        };
        let strategies = strategies
            .into_iter()
            .map(|strategy| {
                let whole = add(strategy.clone());
                let factors = Factor::of(architecture)
                    .into_iter()
                    .map(|factor| (factor, add(only(&strategy, factor)), add(without(&strategy, factor))))
                    .collect();
                Planned { strategy, whole, factors }
            })
            .collect();
        let scales = if architecture.attention_bias || architecture.mlp_bias {
            bias_scales(checkpoint.tp_size()).into_iter().map(|(scale, strategy)| (scale, add(strategy))).collect()
        } else {
            Vec::new()
        };
        Self { variants, strategies, scales }
    }

    /// What the first slice tells about every model.
    fn describe(&self, slice: &SliceOutcome) -> Vec<ModelRecord> {
        let record = |(at, variant): (usize, &Variant)| {
            let role = if at == 0 { ModelRole::Baseline } else { ModelRole::Variant };
            ModelRecord {
                miscounts: slice.exactness[at].miscounts(),
                ..model_record(&variant.name, role, String::new(), String::new())
            }
        };
        self.variants.iter().enumerate().map(record).collect()
    }

    fn explain(
        &self,
        checkpoint: &Checkpoint,
        records: &Records,
        effects: &[Effect],
        baseline: &[Sample],
    ) -> anyhow::Result<Explanation> {
        let architecture = checkpoint.architecture();
        let models = records.models.as_ref().ok_or(ReportError::NothingComputed)?;
        let divergence = records.divergence();
        let strategies = self.strategies.iter().map(|planned| {
            let whole = effects[planned.whole];
            let factors = planned.factors.iter().map(|&(factor, alone, without)| FactorEffect {
                factor: factor.name().to_owned(),
                alone: effects[alone],
                without: effects[without],
                share_pct: share(&whole, &effects[without]),
            });
            StrategyEffect {
                strategy: planned.strategy.name.clone(),
                bias_rule: bias_rule(checkpoint, &planned.strategy),
                miscounts: models.models[planned.whole].miscounts.clone(),
                whole,
                factors: factors.collect(),
            }
        });
        let curve = |planned: &Planned| DivergenceCurve {
            strategy: planned.strategy.name.clone(),
            relative: divergence[planned.whole].clone(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of documents")]
        let accuracy = baseline.iter().filter(|sample| sample.is_greedy).count() as f64 / baseline.len().max(1) as f64;
        let explanation = Explanation {
            schema_version: report::SCHEMA_VERSION.to_owned(),
            checkpoint: models.checkpoint.clone(),
            task: records.task_info(),
            run: records.run_info(),
            baseline_perplexity: effects[0].perplexity,
            baseline_acc: accuracy,
            biases_before_reduce: architecture.residual == Residual::Parallel,
            strategies: strategies.collect(),
            bias_scales: self.scales.iter().map(|&(scale, at)| ScaleEffect { scale, effect: effects[at] }).collect(),
            divergence: self.strategies.iter().map(curve).collect(),
            findings: Vec::new(),
        };
        Ok(explanation.with_findings())
    }
}

/// The strategy's rule for row-parallel biases in a word or two.
fn bias_rule(checkpoint: &Checkpoint, strategy: &Strategy) -> String {
    let mut rules: Vec<String> = Vec::new();
    for id in checkpoint.stage_ids() {
        for (_, entry) in checkpoint.stage_params(id) {
            let kind = entry.row.kind;
            if let (Kind::RowParallelBias, Ok(rule)) = (kind, strategy.rule(id, &entry.name, kind)) {
                let rule = rule.resolve(kind, checkpoint.architecture().residual).to_string();
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    match rules.len() {
        0 => "none".to_owned(),
        1 => rules.remove(0),
        _ => "several".to_owned(),
    }
}

/// Share of the mean KL that is gone without a group, in percent.
fn share(whole: &Effect, without: &Effect) -> f64 {
    if whole.kl_mean > 0.0 { 100.0 * (1.0 - without.kl_mean / whole.kl_mean) } else { 0.0 }
}

fn effect(baseline: &[Sample], variant: &[Sample]) -> anyhow::Result<Effect> {
    let likelihoods = |samples: &[Sample]| samples.iter().map(|sample| sample.loglikelihood).collect::<Vec<_>>();
    let (own, reference) = (likelihoods(variant), likelihoods(baseline));
    let kl: Vec<f64> = variant.iter().flat_map(|sample| &sample.tokens).filter_map(|token| token.kl).collect();
    let right = |samples: &[Sample]| samples.iter().filter(|sample| sample.is_greedy).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of documents")]
    let acc_loss = (right(baseline) as f64 - right(variant) as f64) / variant.len().max(1) as f64;
    Ok(Effect {
        perplexity: stats::perplexity(&own).context("perplexity")?,
        ln_ppl_rise: stats::mean(&reference)? - stats::mean(&own)?,
        acc_loss,
        kl_mean: if kl.is_empty() { 0.0 } else { stats::mean(&kl)? },
    })
}
