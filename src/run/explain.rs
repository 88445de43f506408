//! Which group of parameters costs what: a strategy with the rule of one group only, without it, and with scaled biases.

use super::caller::Caller;
use super::clock::Clock;
use super::error::RunError;
use super::execute::execute;
use super::inputs::Inputs;
use super::job::Job;
use super::journal_files::EXPLANATION_JOURNAL;
use super::models::ModelSet;
use super::open;
use super::records::Records;
use super::request::Request;
use crate::checkpoint::{ModelSource, STORED_ONCE};
use crate::config::Residual;
use crate::error::{Error, ErrorKind, Result};
use crate::merge::{Factor, Strategy, bias_scales, only, without};
use crate::partition::Kind;
use crate::report::{
    self, DivergenceCurve, Effect, Explanation, FactorEffect, OutputDir, ScaleEffect, StrategyEffect, TerminalStyle,
};
use crate::samples::Sample;
use crate::stats;

const EXPLAINED: [&str; 4] = ["zeroth", "mean", "merge20b", "reduce-aware"];

/// Evaluates every group of parameters by itself, for the strategies named or those that lose something by design. The
/// explanation is written into the output directory, if there is one.
///
/// # Errors
/// As [`super::compare`].
pub fn explain(request: &Request, caller: &dyn Caller) -> Result<(Explanation, Option<OutputDir>)> {
    let clock = Clock::start();
    let output = request.output.output_dir.as_deref().map(report::prepare_output).transpose()?;
    let mut options = request.strategies.clone();
    if options.strategies.is_empty() {
        options.strategies = EXPLAINED.map(str::to_owned).into();
    }
    let opened = open::checkpoint(request, options.resolve()?, caller)?;
    if opened.checkpoint.stored_once() {
        let path = request.checkpoint.display();
        return Err(Error::usage(format!("{path}: nothing to explain: {STORED_ONCE}")));
    }
    let mut inputs = Inputs::prepare(&*opened.checkpoint, request, opened.calibrates, clock, caller)?;
    let mut models = ModelSet::new(&*opened.checkpoint, &request.checkpoint);
    let plan = Plan::new(&*opened.checkpoint, opened.strategies, &mut models);
    let job = Job::new(models, EXPLANATION_JOURNAL, request);
    let records = execute(&job, &mut inputs, caller)?;
    let explanation = plan.explain(&*opened.checkpoint, &records, job.models.variants.len())?;
    if let Some(output) = &output {
        report::write_explanation(&explanation, output)?;
        let text = report::render_explanation(&explanation, TerminalStyle { width: 100, styled: false });
        report::write_atomically(&output.path().join("explanation.txt"), text.as_bytes())?;
    }
    Ok((explanation, output))
}

/// Where every model is among those of the run; the baseline is the first.
struct Plan {
    strategies: Vec<Planned>,
    /// Factor of the row-parallel biases, and place.
    scales: Vec<(f64, usize)>,
}

struct Planned {
    strategy: Strategy,
    whole: usize,
    factors: Vec<PlannedFactor>,
}

struct PlannedFactor {
    factor: Factor,
    /// The place of the merge in which this group alone follows the strategy.
    alone: usize,
    /// The place of the merge in which this group alone does not.
    without: usize,
}

impl Plan {
    fn new(checkpoint: &dyn ModelSource, strategies: Vec<Strategy>, models: &mut ModelSet<'_>) -> Self {
        let architecture = checkpoint.architecture();
        let strategies = strategies
            .into_iter()
            .map(|strategy| {
                let whole = models.add_merge(strategy.clone());
                let factors = Factor::of(architecture).into_iter().map(|factor| PlannedFactor {
                    factor,
                    alone: models.add_merge(only(&strategy, factor)),
                    without: models.add_merge(without(&strategy, factor)),
                });
                let factors = factors.collect();
                Planned { strategy, whole, factors }
            })
            .collect();
        let has_biases = architecture.attention_output_bias || architecture.mlp_bias;
        let scales = if has_biases { bias_scales(checkpoint.tp_size()) } else { Vec::new() };
        let scales = scales.into_iter().map(|(scale, strategy)| (scale, models.add_merge(strategy))).collect();
        Self { strategies, scales }
    }

    fn explain(&self, checkpoint: &dyn ModelSource, records: &Records, model_count: usize) -> Result<Explanation> {
        let samples = (0..model_count)
            .map(|model| records.samples(model).map_err(|message| RunError::Overflow { message }))
            .collect::<Result<Vec<_>, _>>()?;
        let baseline = &samples[0];
        let effects = samples.iter().map(|variant| effect(baseline, variant)).collect::<Result<Vec<_>>>()?;
        let architecture = checkpoint.architecture();
        let models = records.models.as_ref().ok_or(RunError::NothingComputed)?;
        let divergence = records.divergence();
        let root = |planned: &Planned| models.same_as[planned.whole].unwrap_or(planned.whole);
        let mut strategies: Vec<StrategyEffect> = Vec::new();
        let mut roots: Vec<usize> = Vec::new();
        for planned in &self.strategies {
            if let Some(known) = roots.iter().position(|&known| known == root(planned)) {
                strategies[known].also.push(planned.strategy.name.clone());
                continue;
            }
            roots.push(root(planned));
            let whole = effects[planned.whole];
            let factors = planned.factors.iter().map(|planned| FactorEffect {
                factor: planned.factor.name().to_owned(),
                alone: effects[planned.alone],
                without: effects[planned.without],
                share_pct: if planned.factor.can_be_kept() {
                    share(&whole, &effects[planned.without])
                } else {
                    share_alone(&whole, &effects[planned.alone])
                },
            });
            strategies.push(StrategyEffect {
                strategy: planned.strategy.name.clone(),
                bias_rule: bias_rule(checkpoint, &planned.strategy),
                miscounts: models.models[planned.whole].miscounts.clone(),
                whole,
                factors: factors.collect(),
                also: Vec::new(),
            });
        }
        let curve = |planned: &Planned| DivergenceCurve {
            strategy: planned.strategy.name.clone(),
            relative: divergence[planned.whole].clone(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of passages")]
        let accuracy = baseline.iter().filter(|sample| sample.is_greedy).count() as f64 / baseline.len().max(1) as f64;
        let explanation = Explanation {
            schema_version: report::SCHEMA_VERSION.to_owned(),
            checkpoint: models.checkpoint.clone(),
            task: records.task_info(),
            run: records.run_info(),
            baseline_perplexity: effects[0].perplexity,
            baseline_acc: accuracy,
            biases_before_reduce: architecture.residual == Residual::Parallel,
            strategies,
            bias_scales: self.scales.iter().map(|&(scale, at)| ScaleEffect { scale, effect: effects[at] }).collect(),
            divergence: self.strategies.iter().map(curve).collect(),
            findings: Vec::new(),
        };
        Ok(explanation.with_findings())
    }
}

fn bias_rule(checkpoint: &dyn ModelSource, strategy: &Strategy) -> String {
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

/// Share of the mean KL that is there with this group alone, in percent, at most 100.
fn share_alone(whole: &Effect, alone: &Effect) -> f64 {
    if whole.kl_mean > 0.0 { (100.0 * alone.kl_mean / whole.kl_mean).min(100.0) } else { 0.0 }
}

fn effect(baseline: &[Sample], variant: &[Sample]) -> Result<Effect> {
    let failed = |error| Error::of(ErrorKind::Report, None, error);
    let likelihoods = |samples: &[Sample]| samples.iter().map(|sample| sample.loglikelihood).collect::<Vec<_>>();
    let (own, reference) = (likelihoods(variant), likelihoods(baseline));
    let kl: Vec<f64> = variant.iter().flat_map(|sample| &sample.tokens).filter_map(|token| token.kl).collect();
    let right = |samples: &[Sample]| samples.iter().filter(|sample| sample.is_greedy).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of passages")]
    let acc_loss = (right(baseline) as f64 - right(variant) as f64) / variant.len().max(1) as f64;
    Ok(Effect {
        perplexity: stats::perplexity(&own).map_err(failed)?,
        ln_ppl_rise: stats::mean(&reference).map_err(failed)? - stats::mean(&own).map_err(failed)?,
        acc_loss,
        kl_mean: if kl.is_empty() { 0.0 } else { stats::mean(&kl).map_err(failed)? },
    })
}
