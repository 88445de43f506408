//! How a candidate was merged: which rule its replicated parameters follow, and whether its matrices are the joined
//! shards. Inferred from the values alone, stage by stage.

use std::collections::BTreeMap;

use super::layout::{ModelStage, common_rows};
use super::reduce::{reduce, rules_of};
use super::{MergeError, Miscount, Rule};
use crate::config::Residual;
use crate::partition::{Kind, Param, ParamValue, Role};
use crate::tensor::{Arithmetic, DType, Difference, HostTensor, TensorError, difference};

/// The rule that the replicated parameters of one kind follow.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicatedMatch {
    pub kind: Kind,
    /// Names of the parameters inside their layers.
    pub parameters: Vec<String>,
    /// The rule whose result is closest; the correct one where several are equally close.
    pub rule: Rule,
    /// Difference of the values from that result.
    pub difference: Difference,
    pub same_bits: bool,
    /// Whether rounding explains the difference.
    pub follows: bool,
    /// How many times the model's parameter the rule makes, but for drift.
    pub factor: f64,
}

/// The partitioned parameters of one kind beside the joined shards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JoinedMatch {
    pub kind: Kind,
    /// Difference of the values from the joined shards.
    pub difference: Difference,
    /// Whether they are the joined shards, bit for bit.
    pub same_bits: bool,
    /// Whether rounding explains the difference.
    pub follows: bool,
}

/// The comparison of a candidate with the unmerged model, over the stages so far.
#[derive(Debug, Clone, Default)]
pub struct CandidateAnalysis {
    tp_size: usize,
    biases_before_reduction: bool,
    tolerance: f64,
    replicated: BTreeMap<Kind, Replicated>,
    joined: BTreeMap<Kind, (Difference, bool)>,
}

#[derive(Debug, Clone)]
struct Replicated {
    parameters: Vec<String>,
    rules: Vec<(Rule, Difference, bool)>,
}

impl CandidateAnalysis {
    /// Adds a stage: of the unmerged model, and of the candidate.
    ///
    /// # Errors
    /// Layouts that cannot be brought into one, or replicas that do not fit together.
    pub fn add(&mut self, unmerged: ModelStage<'_>, candidate: ModelStage<'_>) -> Result<(), MergeError> {
        self.tp_size = unmerged.tensors.tp_size;
        self.biases_before_reduction = unmerged.architecture.residual == Residual::Parallel;
        let (ours, theirs) = unmerged
            .in_one_layout(candidate)
            .map_err(|source| MergeError::Layout { stage: unmerged.tensors.id, source })?;
        for (&role, param) in &ours.params {
            let Some(other) = theirs.get(role) else { continue };
            let failed = |source| MergeError::Tensor { stage: ours.id, name: param.name.clone(), source };
            match (&param.value, &other.value) {
                (ParamValue::Joined(joined), ParamValue::Joined(other)) => {
                    self.add_joined(param.kind, role, joined, other).map_err(failed)?;
                }
                (ParamValue::Replicas(replicas), ParamValue::Replicas(others)) => {
                    let other = self.as_one(param.kind, others).map_err(failed)?;
                    self.add_replicas(param, replicas, &other).map_err(failed)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The value that a model of several ranks uses: the sum where each adds its own before the all-reduce, else the mean.
    fn as_one(&self, kind: Kind, replicas: &[HostTensor]) -> Result<HostTensor, TensorError> {
        reduce(replicas, Rule::Auto.resolve(kind, self.residual()), Arithmetic::Float64)
    }

    fn residual(&self) -> Residual {
        if self.biases_before_reduction { Residual::Parallel } else { Residual::Sequential }
    }

    fn add_joined(
        &mut self,
        kind: Kind,
        role: Role,
        joined: &HostTensor,
        other: &HostTensor,
    ) -> Result<(), TensorError> {
        let (mut joined, mut other) = (joined.clone(), other.clone());
        if joined.shape() != other.shape() {
            // Padding rows of the vocabulary may have been cut off or added; anything else is no merge.
            if !matches!(role, Role::WordEmbedding | Role::HeadWeight) {
                return Ok(());
            }
            (joined, other) = common_rows(&joined, &other)?;
        }
        self.note_types(&joined, &other);
        let same_bits = joined.same_bits(&other);
        let found = if same_bits { Difference::default() } else { difference(&joined, &other)? };
        let (total, all_same) = self.joined.entry(kind).or_insert((Difference::default(), true));
        *total = total.and(found);
        *all_same &= same_bits;
        Ok(())
    }

    fn add_replicas(&mut self, param: &Param, replicas: &[HostTensor], other: &HostTensor) -> Result<(), TensorError> {
        let kind = param.kind;
        let Some(first) = replicas.first().filter(|first| first.shape() == other.shape()) else { return Ok(()) };
        if !kind.is_replicated() {
            return Ok(());
        }
        self.note_types(first, other);
        let rules = rules_of(kind, self.residual(), self.tp_size);
        let known = self.replicated.entry(kind).or_insert_with(|| Replicated {
            parameters: Vec::new(),
            rules: rules.iter().map(|&rule| (rule, Difference::default(), true)).collect(),
        });
        if !known.parameters.contains(&param.name) {
            known.parameters.push(param.name.clone());
        }
        for (rule, total, all_same) in &mut known.rules {
            let expected = reduce(replicas, *rule, Arithmetic::Float64)?;
            *total = total.and(difference(&expected, other)?);
            *all_same &= expected.same_bits(other);
        }
        Ok(())
    }

    /// Values that differ by less than a few roundings to the coarser type are taken for equal.
    fn note_types(&mut self, left: &HostTensor, right: &HostTensor) {
        let roundings = |dtype| match dtype {
            DType::F64 => 1e-12,
            DType::BF16 => 2.0_f64.powi(-6),
            DType::F16 => 2.0_f64.powi(-9),
            _ => 2.0_f64.powi(-20),
        };
        self.tolerance = self.tolerance.max(roundings(left.dtype())).max(roundings(right.dtype()));
    }

    /// One match for every kind of replicated parameter.
    pub fn replicated(&self) -> Vec<ReplicatedMatch> {
        let found = |(&kind, known): (&Kind, &Replicated)| {
            // The first of the closest: `min_by` would give the first as well, but does not promise it.
            let closest = known.rules.iter().copied().reduce(
                |best, next| {
                    if next.1.squared < best.1.squared { next } else { best }
                },
            );
            let (rule, difference, same_bits) = closest?;
            let expected = known.rules.first().map_or(1.0, |&(rule, ..)| self.multiple(rule));
            Some(ReplicatedMatch {
                kind,
                parameters: known.parameters.clone(),
                rule,
                difference,
                same_bits,
                follows: same_bits || difference.relative() <= self.tolerance,
                factor: self.multiple(rule) / expected,
            })
        };
        self.replicated.iter().filter_map(found).collect()
    }

    /// One match for every kind of partitioned parameter.
    pub fn joined(&self) -> Vec<JoinedMatch> {
        let found = |(&kind, &(difference, same_bits)): (&Kind, &(Difference, bool))| JoinedMatch {
            kind,
            difference,
            same_bits,
            follows: same_bits || difference.relative() <= self.tolerance,
        };
        self.joined.iter().map(found).collect()
    }

    /// How many times a replica the rule makes.
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    fn multiple(&self, rule: Rule) -> f64 {
        if rule == Rule::Sum { self.tp_size as f64 } else { 1.0 }
    }

    /// A sentence for each kind of parameter that the candidate makes another multiple of than the model has.
    pub fn warnings(&self) -> Vec<String> {
        let sentence = |found: ReplicatedMatch| {
            let ReplicatedMatch { kind, parameters, rule, factor, .. } = found;
            let place = match (kind, self.biases_before_reduction) {
                (Kind::RowParallelBias, true) => "every rank adds its own before the all-reduce",
                (Kind::RowParallelBias, false) => "the model adds them once, after the all-reduce",
                _ => "the model uses them once",
            };
            let miscount = Miscount { factor, parameters };
            format!("its {} are the {} of the ranks', although {place}: {miscount}", plural(kind), in_words(rule))
        };
        let miscounted = |found: &ReplicatedMatch| (found.factor - 1.0).abs() > f64::EPSILON;
        self.replicated().into_iter().filter(miscounted).map(sentence).collect()
    }

    /// The matches in a line.
    pub fn summary(&self) -> String {
        let replicated = self.replicated().into_iter().map(|found| {
            let closeness = match (found.same_bits, found.follows) {
                (true, _) => "bit for bit".to_owned(),
                (false, true) => format!("within {:.1e}", found.difference.max_abs),
                (false, false) => format!("only nearly: they differ by up to {:.1e}", found.difference.max_abs),
            };
            format!("{} are the {} of the ranks' ({closeness})", plural(found.kind), in_words(found.rule))
        });
        let joined = self.joined().into_iter().filter(|found| !found.same_bits).map(|found| {
            let (kind, max_abs) = (plural(found.kind), found.difference.max_abs);
            if found.follows {
                format!("{kind} are the joined shards, rounded (within {max_abs:.1e})")
            } else {
                format!("{kind} are not the joined shards (they differ by up to {max_abs:.1e})")
            }
        });
        let mut parts: Vec<_> = replicated.chain(joined).collect();
        if self.joined.values().all(|&(_, same_bits)| same_bits) {
            parts.push("all matrices are the joined shards (bit for bit)".to_owned());
        }
        parts.join("; ")
    }
}

/// `mean`, `sum`, `copy on rank 0`.
fn in_words(rule: Rule) -> String {
    match rule {
        Rule::Rank(tp_rank) => format!("copy on rank {tp_rank}"),
        other => other.to_string(),
    }
}

/// The parameters of a kind in a sentence.
fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::VocabParallel => "word embeddings",
        Kind::ColumnParallel => "column-parallel weights",
        Kind::RowParallel => "row-parallel weights",
        Kind::RowParallelBias => "row-parallel biases",
        Kind::NormGain => "norm gains",
        Kind::NormBias => "norm biases",
        Kind::LearnedPositions => "learned positions",
        Kind::Buffer => "buffers",
        Kind::HeadParallel => "alibi slopes",
        Kind::RelativeBias => "relative biases",
        Kind::HeadNorm => "query and key norms",
    }
}
