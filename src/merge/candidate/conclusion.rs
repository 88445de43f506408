//! From what was found of every parameter to what the candidate is.

use std::collections::BTreeMap;

use super::diagnosis::Diagnosis;
use super::parameter::{Found, factor};
use super::reference::Fingerprints;
use super::way::{Follows, Way};
use super::words::{CandidateException, Said, grouped, of_layers};
use crate::config::Residual;
use crate::merge::{MergeError, Miscount, Rule, Strategy};
use crate::partition::{Kind, Role, StageId};
use crate::tensor::DType;

/// What a candidate is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conclusion {
    /// The strategy that explains most of its parameters: a built-in one, `rank N` (that rank's copies throughout) or
    /// `unmerged` (each rank keeps its own).
    pub strategy: String,
    /// Strategies that make the same of this checkpoint.
    pub same_as: Vec<String>,
    /// Parameters that are the strategy's; with its layers each counts by itself.
    pub explained: usize,
    /// All of them.
    pub parameters: usize,
    /// The type that the whole candidate was rounded to, where that is coarser than the checkpoint's.
    pub rounding: Option<DType>,
    /// Whether it is the strategy's bit for bit, but for such rounding.
    pub same_bits: bool,
    /// Parameters of which it has another multiple than the model, by rule.
    pub miscounts: Vec<(String, Miscount)>,
    /// Parameters that are not the strategy's.
    pub exceptions: Vec<CandidateException>,
}

/// What was found in all stages.
pub(super) struct Evidence<'a> {
    pub hypotheses: &'a [Hypothesis],
    pub found: &'a [Found],
    pub layers: &'a BTreeMap<usize, Fingerprints>,
    pub ranks: usize,
    pub residual: Residual,
    pub streams_can_differ: bool,
}

/// A strategy that a candidate may follow.
#[derive(Debug, Clone)]
pub(super) struct Hypothesis {
    name: String,
    /// None: each rank keeps its own.
    strategy: Option<Strategy>,
}

/// The built-in strategies, the one that loses least first; where several make the same, the first has its name.
const PREFERRED: [&str; 5] = ["fold", "reduce-aware", "mean", "merge20b", "zeroth"];

/// A strategy whose biases depend on passages, so that no values show it: fold's, but for them.
pub(super) const CALIBRATED: &str = "fold-calibrated";

/// No strategy: the candidate has ranks, and each its own replicas.
pub(super) const UNMERGED: &str = "unmerged";

impl Hypothesis {
    /// In order of preference.
    ///
    /// # Errors
    /// None, unless a built-in strategy is broken (a test keeps them whole).
    pub(super) fn all(ranks: usize) -> Result<Vec<Self>, MergeError> {
        let of = |strategy: Strategy| Self { name: strategy.name.clone(), strategy: Some(strategy) };
        let mut all = vec![Self { name: UNMERGED.to_owned(), strategy: None }];
        for name in PREFERRED {
            all.push(of(Strategy::resolve(name)?));
        }
        for rank in 1..ranks {
            let mut strategy = Strategy::resolve("zeroth")?;
            strategy.name = format!("rank {rank}");
            strategy.rules.values_mut().for_each(|rule| *rule = Rule::Rank(rank));
            all.push(of(strategy));
        }
        Ok(all)
    }

    /// The agreement with what the strategy makes of a parameter; `None` where it is something else.
    fn explains(&self, found: &Found, residual: Residual) -> Option<Follows> {
        let wanted = match &self.strategy {
            None if found.kind.is_replicated() => Way::Kept,
            None => Way::Shards,
            Some(strategy) if found.kind.is_replicated() => {
                let rule = strategy.rule(found.stage, &found.name, found.kind).ok()?;
                match rule.for_role(found.role).resolve(found.kind, residual) {
                    Rule::Fold if found.foldable => Way::Folded,
                    // Replicas that agree.
                    Rule::Fold => Way::Rule(Rule::Rank(0)),
                    rule => Way::Rule(rule),
                }
            }
            Some(strategy) => {
                let folds = strategy.rules.get(&Kind::NormGain) == Some(&Rule::Fold);
                if folds && found.foldable { Way::Folded } else { Way::Shards }
            }
        };
        found.follows.iter().find(|follows| follows.way == wanted).copied()
    }
}

pub(super) fn conclude(evidence: &Evidence<'_>) -> Conclusion {
    // A model of several ranks that keeps their replicas is theirs before it is any merge.
    let keeps = evidence.found.iter().any(|found| found.follows.iter().any(|follows| follows.way == Way::Kept));
    let hypotheses = &evidence.hypotheses[usize::from(!keeps).min(evidence.hypotheses.len())..];
    let score = |hypothesis: &Hypothesis| {
        let explained = evidence.found.iter().filter_map(|found| hypothesis.explains(found, evidence.residual));
        explained.fold((0, 0), |(all, nearest), follows| (all + 1, nearest + usize::from(follows.agreement.nearest)))
    };
    let scores: Vec<(usize, usize)> = hypotheses.iter().map(score).collect();
    // The first of the best.
    let best = scores.iter().copied().max().unwrap_or_default();
    let Some(at) = scores.iter().position(|score| *score == best) else { return Conclusion::default() };
    let chosen = &hypotheses[at];
    let merges = chosen.strategy.is_some();
    let others = hypotheses.iter().zip(&scores).skip(at + 1).filter(|(_, score)| merges && **score == best);
    let explains = |hypothesis: &Hypothesis, found: &Found| hypothesis.explains(found, evidence.residual).is_some();
    let same =
        |other: &Hypothesis| evidence.found.iter().all(|found| explains(other, found) == explains(chosen, found));
    let same_as = others.filter(|(other, _)| same(other)).map(|(other, _)| other.name.clone()).collect();

    let rounding = common_rounding(evidence, chosen);
    let mut conclusion = Conclusion {
        strategy: chosen.name.clone(),
        same_as,
        explained: best.0,
        parameters: evidence.found.len(),
        rounding,
        same_bits: best.0 == best.1,
        ..Conclusion::default()
    };
    let mut said: Vec<(&Found, Diagnosis)> = Vec::new();
    for found in evidence.found {
        let what = match chosen.explains(found, evidence.residual) {
            Some(Follows { way, agreement }) => {
                // Arithmetic may be rounded to the checkpoint's type; what is copied need not be.
                let own = if way == Way::Shards { DType::F32 } else { found.dtype };
                let tolerated = rounding.map_or(own, |rounding| rounding.coarser(own));
                agreement
                    .rounding
                    .filter(|dtype| dtype.is_coarser_than(tolerated))
                    .map(|dtype| Diagnosis::Rounded { dtype, nearest: agreement.nearest })
            }
            None => Some(instead(evidence, chosen, found)),
        };
        said.extend(what.map(|what| (found, what)));
    }
    if chosen.name == "fold" && calibrated(evidence, &mut said) {
        CALIBRATED.clone_into(&mut conclusion.strategy);
        conclusion.same_as.clear();
        conclusion.explained = conclusion.parameters - said.len();
    }
    conclusion.miscounts = miscounts(evidence);
    said.retain(|(found, _)| wrong_multiple(evidence, found).is_none());
    conclusion.exceptions = exceptions(evidence, &said);
    conclusion
}

/// The coarsest type that half of the elements or more were rounded to.
fn common_rounding(evidence: &Evidence<'_>, chosen: &Hypothesis) -> Option<DType> {
    let mut elements: BTreeMap<Option<DType>, usize> = BTreeMap::new();
    let mut total = 0;
    for found in evidence.found {
        let Some(follows) = chosen.explains(found, evidence.residual) else { continue };
        total += found.elements;
        *elements.entry(follows.agreement.rounding).or_default() += found.elements;
    }
    let mut rounded = 0;
    for dtype in [DType::BF16, DType::F16] {
        rounded += elements.get(&Some(dtype)).copied().unwrap_or(0);
        if 2 * rounded >= total && rounded > 0 {
            return Some(dtype);
        }
    }
    None
}

/// What a parameter is that is not the strategy's.
fn instead(evidence: &Evidence<'_>, chosen: &Hypothesis, found: &Found) -> Diagnosis {
    if let Some(follows) = found.follows.first() {
        return Diagnosis::Is(follows.way);
    }
    let Some(suspicion) = &found.suspicion else { return Diagnosis::Missing };
    if let Some((diagnosis, _)) = &suspicion.proven {
        return diagnosis.clone();
    }
    if let Some(layer) = other_layer(evidence, found) {
        return Diagnosis::OfLayer(layer);
    }
    let folds = chosen.strategy.as_ref().is_some_and(|strategy| strategy.name == "fold");
    let of_way = |way: Way| suspicion.distances.iter().find(|(of, _)| *of == way);
    let nearest = suspicion.distances.iter().min_by(|(_, one), (_, other)| one.relative.total_cmp(&other.relative));
    let distance = Some(Way::Folded).filter(|_| folds).and_then(of_way).or(nearest);
    distance.map_or(Diagnosis::SameRows, |(_, distance)| Diagnosis::Differs(*distance))
}

/// The one other layer whose parameter this is.
fn other_layer(evidence: &Evidence<'_>, found: &Found) -> Option<usize> {
    let StageId::Layer(own) = found.stage else { return None };
    let (fingerprint, dtype) = found.suspicion.as_ref()?.fingerprint?;
    let is_of = |fingerprints: &Fingerprints| {
        let known = fingerprints.get(&found.role)?;
        Some(known.iter().any(|(_, known)| known.agrees(&fingerprint, dtype)))
    };
    let mut alike = evidence.layers.iter().filter(|(_, known)| is_of(known) == Some(true)).map(|(&layer, _)| layer);
    match (alike.next(), alike.next()) {
        (Some(layer), None) if layer != own => Some(layer),
        _ => None,
    }
}

/// Whether what is left of fold are the biases that calibration corrects, in most layers; they are then taken away.
fn calibrated(evidence: &Evidence<'_>, said: &mut Vec<(&Found, Diagnosis)>) -> bool {
    let is_bias = |found: &Found| matches!(found.role, Role::QkvBias | Role::MlpInputBias);
    let corrected = |(found, what): &(&Found, Diagnosis)| match what {
        Diagnosis::Differs(_) | Diagnosis::Rounded { .. } => is_bias(found),
        what => *what == Diagnosis::Constant,
    };
    let all = evidence.found.iter().filter(|found| is_bias(found)).count();
    let count = said.iter().filter(|said| corrected(said)).count();
    let calibrated = evidence.streams_can_differ && count > 1 && 2 * count > all;
    if calibrated {
        said.retain(|said| !corrected(said));
    }
    calibrated
}

/// The way of a parameter that is another multiple than the model's, and the factor.
fn wrong_multiple(evidence: &Evidence<'_>, found: &Found) -> Option<(Way, f64)> {
    let of = |follows: &Follows| factor(follows.way, found.kind, evidence.residual, evidence.ranks);
    let is_one = |factor: f64| (factor - 1.0).abs() < f64::EPSILON;
    let first = found.follows.first()?;
    found.follows.iter().all(|follows| !is_one(of(follows))).then(|| (first.way, of(first)))
}

fn miscounts(evidence: &Evidence<'_>) -> Vec<(String, Miscount)> {
    let before = evidence.residual == Residual::Parallel;
    let wrong = |found: &Found| wrong_multiple(evidence, found);
    let mut miscounts: Vec<(String, Miscount)> = Vec::new();
    let mut names: Vec<(&str, Kind)> = Vec::new();
    for found in evidence.found.iter().filter(|found| wrong(found).is_some()) {
        if !names.contains(&(&found.name, found.kind)) {
            names.push((&found.name, found.kind));
        }
    }
    for (name, kind) in names {
        let of_name = || evidence.found.iter().filter(|found| found.name == name);
        let Some((way, factor)) = of_name().find_map(wrong) else { continue };
        let place = match (kind, before) {
            (Kind::RowParallelBias, true) => "every rank adds its own before the all-reduce",
            (Kind::RowParallelBias, false) => "the model adds them once, after the all-reduce",
            _ => "the model uses them once",
        };
        let sentence = format!("its {} are {}, although {place}", plural(kind), plural_way(way));
        let in_layer = |found: &Found| if let StageId::Layer(layer) = found.stage { Some(layer) } else { None };
        let layers: Vec<_> = of_name().filter(|found| wrong(found).is_some()).filter_map(in_layer).collect();
        let everywhere = of_name().all(|found| wrong(found).is_some());
        let parameter = if everywhere { name.to_owned() } else { format!("{name} of {}", of_layers(&layers)) };
        match miscounts.iter_mut().find(|(known, _)| *known == sentence) {
            Some((_, miscount)) => miscount.parameters.push(parameter),
            None => miscounts.push((sentence, Miscount { factor, parameters: vec![parameter] })),
        }
    }
    miscounts
}

fn exceptions(evidence: &Evidence<'_>, said: &[(&Found, Diagnosis)]) -> Vec<CandidateException> {
    // A rule that keeps what the model has is no mistake where a whole kind of parameter follows it.
    let is_rule = |what: &Diagnosis| matches!(what, Diagnosis::Is(Way::Rule(_)));
    let harmless = |found: &Found, what: &Diagnosis| {
        let alike = || said.iter().filter(|(other, other_what)| other.name == found.name && other_what == what);
        let all = evidence.found.iter().filter(|other| other.name == found.name).count();
        is_rule(what) && !found.foldable && alike().count() == all
    };
    let described = said.iter().map(|(found, what)| Said {
        stage: found.stage,
        name: if found.stage == StageId::Output && found.name.contains("word_embeddings") {
            format!("the output head ({})", found.name)
        } else {
            found.name.clone()
        },
        what: what.clone(),
        suspect: !harmless(found, what),
    });
    grouped(described.collect())
}

fn plural_way(way: Way) -> String {
    match way {
        Way::Rule(Rule::Rank(tp_rank)) => format!("the copy on rank {tp_rank} of the ranks'"),
        other => other.to_string(),
    }
}

/// The parameters of a kind in a sentence.
fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::RowParallelBias => "row-parallel biases",
        Kind::NormGain => "norm gains",
        Kind::NormBias => "norm biases",
        Kind::LearnedPositions => "learned positions",
        _ => "parameters",
    }
}
