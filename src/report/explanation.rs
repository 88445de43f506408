//! The result of `explain`: the loss by group of parameters, and the sentence that names the cause.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::format;
use super::info::{CheckpointInfo, RunInfo, TaskInfo};
use super::page::{Page, TerminalStyle, plain_table};
use crate::merge::Miscount;

/// Distance of a model from the unmerged one on the same passages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// Perplexity.
    pub perplexity: f64,
    /// Rise of ln perplexity against the baseline.
    pub ln_ppl_rise: f64,
    /// Accuracy lost against the baseline, as a fraction; positive is worse.
    pub acc_loss: f64,
    /// Mean KL(baseline ‖ model) at target positions, nats.
    pub kl_mean: f64,
}

/// The loss due to one group of parameters under one strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FactorEffect {
    /// The group.
    pub factor: String,
    /// The strategy's rule for this group, the lossless treatment for all others.
    pub alone: Effect,
    /// The lossless treatment for this group, the strategy's rules for all others.
    pub without: Effect,
    /// Share of the strategy's mean KL that disappears when this group is treated without loss, in percent.
    pub share_pct: f64,
}

/// The loss of a strategy, by group of parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StrategyEffect {
    /// The strategy.
    pub strategy: String,
    /// Other strategies that make the same model of this checkpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Its rule for row-parallel biases; `none` where the model has none, `several` where it depends on the layer.
    pub bias_rule: String,
    /// Parameters whose multiplicity it gets wrong.
    pub miscounts: Vec<Miscount>,
    /// The whole loss.
    pub whole: Effect,
    /// By group.
    pub factors: Vec<FactorEffect>,
}

impl StrategyEffect {
    /// All its names: `mean, reduce-aware`.
    pub(crate) fn title(&self) -> String {
        std::iter::once(&self.strategy).chain(&self.also).map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// One point of the bias-scale sweep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScaleEffect {
    /// Row-parallel biases as this multiple of their mean over ranks.
    pub scale: f64,
    /// Its loss.
    pub effect: Effect,
}

/// How far a strategy's residual stream is from the baseline's after each stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DivergenceCurve {
    /// The strategy.
    pub strategy: String,
    /// √(Σ‖x − x_baseline‖² / Σ‖x_baseline‖²) over all tokens, after the embedding and after each layer.
    pub relative: Vec<f64>,
}

/// The result of `explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Version of this format.
    pub schema_version: String,
    /// The checkpoint.
    pub checkpoint: CheckpointInfo,
    /// Task, data, tokenizer.
    pub task: TaskInfo,
    /// How it was run.
    pub run: RunInfo,
    /// Perplexity of the unmerged model.
    pub baseline_perplexity: f64,
    /// Accuracy of the unmerged model, as a fraction.
    pub baseline_acc: f64,
    /// Whether row-parallel biases are added before the all-reduce (`gpt_j_residual`).
    pub biases_before_reduce: bool,
    /// By strategy.
    pub strategies: Vec<StrategyEffect>,
    /// Row-parallel biases at multiples of their mean; empty for models without.
    pub bias_scales: Vec<ScaleEffect>,
    /// By strategy, through the layers.
    pub divergence: Vec<DivergenceCurve>,
    /// The conclusions, a sentence each.
    pub findings: Vec<String>,
}

/// A mean KL below this is rounding, not a loss worth an explanation.
pub(super) const NEGLIGIBLE_KL: f64 = 1e-6;

impl Explanation {
    /// Fills in the findings.
    pub fn with_findings(mut self) -> Self {
        self.findings = self.strategies.iter().map(|effect| self.finding(effect)).collect();
        if let Some(best) =
            self.bias_scales.iter().min_by(|left, right| left.effect.kl_mean.total_cmp(&right.effect.kl_mean))
        {
            let (multiple, count) = (best.scale, self.checkpoint.tp_size);
            #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
            let expected = if self.biases_before_reduce { count as f64 } else { 1.0 };
            let tied = self.bias_scales.iter().all(|point| point.effect.kl_mean < NEGLIGIBLE_KL);
            self.findings.push(if tied {
                "the size of the row-parallel biases makes no difference to this model".to_owned()
            } else if (multiple - expected).abs() < 1e-9 {
                format!(
                    "the sweep loses least with row-parallel biases at {multiple:.2} times their mean over {count} ranks: {}",
                    self.placement()
                )
            } else {
                format!(
                    "the sweep loses least with row-parallel biases at {multiple:.2} times their mean over {count} ranks, \
                     though {expected:.2} is expected: {}",
                    self.placement()
                )
            });
        }
        self
    }

    /// Where the model adds its row-parallel biases, and what follows for the merge.
    fn placement(&self) -> &'static str {
        if self.biases_before_reduce {
            "this model adds them before the all-reduce, so their sum over ranks is the model's bias"
        } else {
            "this model adds them after the all-reduce, so one of them is the model's bias"
        }
    }

    fn finding(&self, effect: &StrategyEffect) -> String {
        let name = &effect.title();
        let whole = &effect.whole;
        if whole.kl_mean < NEGLIGIBLE_KL {
            let kl = format::divergence(whole.kl_mean);
            return format!("`{name}` changes next to nothing (mean KL {kl} nats)");
        }
        // Of groups that contain each other the larger one comes last and must earn its place by a point.
        let culprit = effect.factors.iter().fold(None::<&FactorEffect>, |best, next| match best {
            Some(best) if next.share_pct < best.share_pct + 1.0 => Some(best),
            _ => Some(next),
        });
        let Some(culprit) = culprit else { return format!("`{name}` has nothing to attribute its change to") };
        let change = format!(
            "perplexity {} → {}, mean KL {} nats",
            format::perplexity(self.baseline_perplexity),
            format::perplexity(whole.perplexity),
            format::divergence(whole.kl_mean)
        );
        let share = culprit.share_pct.clamp(0.0, 100.0);
        let cause = format!("{share:.1} % of the change that `{name}` makes ({change}) comes from {}", culprit.factor);
        if !culprit.factor.contains("bias") {
            let of_norm = |miscount: &&Miscount| miscount.parameters.iter().any(|name| name.contains("norm"));
            return match effect.miscounts.iter().find(of_norm) {
                Some(miscount) => format!("{cause}: `{name}` makes {miscount}"),
                None => format!("{cause}, whose replicas on the ranks `{name}` merges into one"),
            };
        }
        let rule = effect.bias_rule.as_str();
        let wrong =
            effect.miscounts.iter().any(|miscount| miscount.parameters.iter().any(|name| name.ends_with("bias")));
        let taken = match rule {
            "sum" => "adds them up".to_owned(),
            "mean" => "averages them".to_owned(),
            rule if rule.starts_with("rank ") => format!("keeps those of {rule} alone"),
            "several" => "treats them differently from layer to layer".to_owned(),
            rule => format!("takes `{rule}`"),
        };
        let verdict = if wrong { format!("; `{name}` {taken}, which is wrong here") } else { String::new() };
        format!("{cause}: {}{verdict}", self.placement())
    }
}

/// The explanation as text with a final line break.
pub fn render_explanation(explanation: &Explanation, style: TerminalStyle) -> String {
    let mut page = Page::new(style);
    let checkpoint = &explanation.checkpoint;
    let passages = format::count(explanation.task.passages.effective, "passage");
    page.title(
        &format!("loss by group of parameters ({passages} of {})", explanation.task.name),
        &format!("{}, {}", checkpoint.name, format::count(checkpoint.tp_size, "rank")),
    );
    for effect in &explanation.strategies {
        page.blank();
        let header = std::iter::once(effect.title()).chain(FACTOR_HEADINGS.map(str::to_owned));
        let rows = factor_rows(effect).into_iter().map(|row| {
            let mut cells = vec![row.name.to_owned()];
            cells.extend(row.cells);
            cells
        });
        page.table(plain_table(header.collect(), rows));
    }
    if !explanation.bias_scales.is_empty() {
        page.blank();
        let header = ["row-parallel biases × mean", "perplexity", "KL mean", "accuracy lost, points"];
        let rows = explanation.bias_scales.iter().map(|point| {
            vec![
                format!("{:.3}", point.scale),
                format::perplexity(point.effect.perplexity),
                format::divergence(point.effect.kl_mean),
                format::signed_points(point.effect.acc_loss),
            ]
        });
        page.table(plain_table(header.map(str::to_owned).to_vec(), rows));
    }
    let own = explanation.strategies.iter().filter_map(|effect| {
        let curve = explanation.divergence.iter().find(|curve| curve.strategy == effect.strategy)?;
        let values: Vec<_> = curve.relative.iter().map(|&value| format::scientific(value)).collect();
        Some(format!("{}: {}", effect.title(), values.join("  ")))
    });
    page.section("relative distance of the residual stream from the baseline's: embedding, then layer by layer", own);
    page.section("findings", &explanation.findings);
    page.text
}

/// One line of a strategy's table: the group, its KL and ln perplexity alone, KL without it, share of the KL.
pub(super) struct FactorRow<'a> {
    pub name: &'a str,
    pub cells: [String; 4],
}

/// The headings of the table that [`factor_rows`] fills.
pub(super) const FACTOR_HEADINGS: [&str; 4] = ["KL alone", "ln ppl alone", "KL without", "share of KL"];

/// The whole loss of a strategy, then that of its groups.
pub(super) fn factor_rows(effect: &StrategyEffect) -> Vec<FactorRow<'_>> {
    let whole = row("all of it", &effect.whole, None, None);
    let factors = effect
        .factors
        .iter()
        .map(|factor| row(&factor.factor, &factor.alone, Some(&factor.without), Some(factor.share_pct)));
    std::iter::once(whole).chain(factors).collect()
}

fn row<'a>(name: &'a str, effect: &Effect, without: Option<&Effect>, share: Option<f64>) -> FactorRow<'a> {
    let nothing = || format::NOTHING.to_owned();
    let cells = [
        format::divergence(effect.kl_mean),
        format::signed(effect.ln_ppl_rise, 5),
        without.map_or_else(nothing, |without| format::divergence(without.kl_mean)),
        share.map_or_else(nothing, |share| format!("{} %", format::plain(share, 1))),
    ];
    FactorRow { name, cells }
}
