//! What a merge made elsewhere did: which rule its replicated parameters follow, and whether its matrices are the joined
//! shards. Told from the values alone, stage by stage.

use std::collections::BTreeMap;

use super::stage::reduce;
use super::{MergeError, Rule};
use crate::config::{Architecture, Residual};
use crate::partition::{Kind, Param, ParamValue, PartitionError, Role, StageTensors, canonical};
use crate::tensor::{Arithmetic, DType, Difference, HostTensor, Piece, TensorError, concatenate, difference};

/// What was done to the replicated parameters of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Treatment {
    /// The kind.
    pub kind: Kind,
    /// Names of the parameters inside their layers.
    pub parameters: Vec<String>,
    /// The rule whose result is closest; the one that the forward pass asks for where several are equally close.
    pub rule: Rule,
    /// How far the values are from that result.
    pub difference: Difference,
    /// Whether they are that result, bit for bit.
    pub same_bits: bool,
    /// Whether rounding explains the difference.
    pub follows: bool,
    /// How many times the model's parameter the rule makes, but for drift.
    pub factor: f64,
}

/// What was done to the partitioned parameters of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Joining {
    /// The kind.
    pub kind: Kind,
    /// How far the values are from the joined shards.
    pub difference: Difference,
    /// Whether they are the joined shards, bit for bit.
    pub same_bits: bool,
    /// Whether rounding explains the difference.
    pub follows: bool,
}

/// The comparison of a merge made elsewhere with the unmerged model, over the stages so far.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
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

impl Elsewhere {
    /// Takes a stage into account: the unmerged one, and the same of the model made elsewhere.
    ///
    /// # Errors
    /// Replicas that do not fit together.
    pub fn add(
        &mut self,
        (architecture, unmerged): (&Architecture, &StageTensors),
        (other_architecture, other): (&Architecture, &StageTensors),
    ) -> Result<(), MergeError> {
        self.tp_size = unmerged.tp_size;
        self.biases_before_reduction = architecture.residual == Residual::Parallel;
        let same_layout =
            architecture.qkv == other_architecture.qkv && architecture.mlp_matrices == other_architecture.mlp_matrices;
        let in_one_layout = |architecture: &Architecture, stage: &StageTensors| {
            if same_layout { Ok(stage.clone()) } else { canonical(architecture, stage) }
        };
        let failed = |source| MergeError::Fold { stage: unmerged.id, source };
        let ours = in_one_layout(architecture, unmerged).map_err(failed)?;
        let theirs = in_one_layout(other_architecture, other).map_err(failed)?;
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

    /// What a model of several ranks counts: their sum where each adds its own before the all-reduce, else their mean.
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
        if !kind.is_replicated() || replicas.first().is_none_or(|replica| replica.shape() != other.shape()) {
            return Ok(());
        }
        if let Some(replica) = replicas.first() {
            self.note_types(replica, other);
        }
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

    /// What was done to every kind of replicated parameter.
    #[must_use]
    pub fn treatments(&self) -> Vec<Treatment> {
        let treatment = |(&kind, known): (&Kind, &Replicated)| {
            // The first of the closest: `min_by` would give the first as well, but says so only in passing.
            let closest = known.rules.iter().copied().reduce(
                |best, next| {
                    if next.1.squared < best.1.squared { next } else { best }
                },
            );
            let (rule, difference, same_bits) = closest?;
            let expected = known.rules.first().map_or(1.0, |&(rule, ..)| self.multiple(rule));
            Some(Treatment {
                kind,
                parameters: known.parameters.clone(),
                rule,
                difference,
                same_bits,
                follows: same_bits || difference.relative() <= self.tolerance,
                factor: self.multiple(rule) / expected,
            })
        };
        self.replicated.iter().filter_map(treatment).collect()
    }

    /// What was done to every kind of partitioned parameter.
    #[must_use]
    pub fn joinings(&self) -> Vec<Joining> {
        let joining = |(&kind, &(difference, same_bits)): (&Kind, &(Difference, bool))| Joining {
            kind,
            difference,
            same_bits,
            follows: same_bits || difference.relative() <= self.tolerance,
        };
        self.joined.iter().map(joining).collect()
    }

    /// How many times a replica the rule makes.
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    fn multiple(&self, rule: Rule) -> f64 {
        if rule == Rule::Sum { self.tp_size as f64 } else { 1.0 }
    }

    /// Biases that are counted another number of times than the model counts them, a sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let miscounted = |treatment: &Treatment| (treatment.factor - 1.0).abs() > f64::EPSILON;
        let sentence = |treatment: Treatment| {
            let Treatment { kind, parameters, rule, factor, .. } = treatment;
            let place = match (kind, self.biases_before_reduction) {
                (Kind::RowParallelBias, true) => "every rank adds its own before the all-reduce",
                (Kind::RowParallelBias, false) => "the model adds them once, after the all-reduce",
                _ => "the model uses them once",
            };
            let factor = (factor * 1000.0).round() / 1000.0;
            format!(
                "its {} are the {} of the ranks', although {place}: {} {factor} times what the model has",
                plural(kind),
                in_words(rule),
                parameters.join(" and ")
            )
        };
        self.treatments().into_iter().filter(miscounted).map(sentence).collect()
    }

    /// What it did, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let replicated = self.treatments().into_iter().map(|treatment| {
            let Treatment { kind, rule, difference, same_bits, follows, .. } = treatment;
            let closeness = match (same_bits, follows) {
                (true, _) => "bit for bit".to_owned(),
                (false, true) => format!("within {:.1e}", difference.max_abs),
                (false, false) => format!("only nearly: they differ by up to {:.1e}", difference.max_abs),
            };
            format!("{} are the {} of the ranks' ({closeness})", plural(kind), in_words(rule))
        });
        let joined = self.joinings().into_iter().filter(|joining| !joining.same_bits).map(|joining| {
            let Joining { kind, difference, follows, .. } = joining;
            if follows {
                format!("{} are the joined shards, rounded (within {:.1e})", plural(kind), difference.max_abs)
            } else {
                format!("{} are not the joined shards (they differ by up to {:.1e})", plural(kind), difference.max_abs)
            }
        });
        let mut parts: Vec<_> = replicated.chain(joined).collect();
        if self.joinings().iter().all(|joining| joining.same_bits) {
            parts.push("all matrices are the joined shards (bit for bit)".to_owned());
        }
        parts.join("; ")
    }
}

/// Both stages with their matrices laid out alike.
pub(super) fn in_one_layout(
    (architecture, stage): (&Architecture, &StageTensors),
    (other_architecture, other): (&Architecture, &StageTensors),
) -> Result<(StageTensors, StageTensors), PartitionError> {
    if architecture.qkv == other_architecture.qkv && architecture.mlp_matrices == other_architecture.mlp_matrices {
        return Ok((stage.clone(), other.clone()));
    }
    Ok((canonical(architecture, stage)?, canonical(other_architecture, other)?))
}

/// What a converter may have done with the copies of `tp_size` ranks; first what the forward pass asks for.
pub(super) fn rules_of(kind: Kind, residual: Residual, tp_size: usize) -> Vec<Rule> {
    let mut rules = vec![Rule::Auto.resolve(kind, residual)];
    let ranks = (0..tp_size).map(Rule::Rank);
    for rule in [Rule::Mean, Rule::Sum].into_iter().chain(ranks) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// The rows that both have.
pub(super) fn common_rows(left: &HostTensor, right: &HostTensor) -> Result<(HostTensor, HostTensor), TensorError> {
    let rows = |tensor: &HostTensor| tensor.shape().first().copied().unwrap_or(0);
    let common = rows(left).min(rows(right));
    let first = |tensor| concatenate(0, &[Piece { tensor, range: 0..common }]);
    Ok((first(left)?, first(right)?))
}

/// `mean`, `sum`, `copy on rank 0`.
fn in_words(rule: Rule) -> String {
    match rule {
        Rule::Rank(tp_rank) => format!("copy on rank {tp_rank}"),
        other => other.to_string(),
    }
}

/// The parameters of a kind as a sentence has them.
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
