//! One parameter of a candidate beside what the ways of merging make of it.

use super::diagnosis::{Diagnosis, Distance, Suspect};
use super::fingerprint::Fingerprint;
use super::reference::{Layout, Reference, in_canonical};
use super::way::{Expectation, Follows, Way};
use crate::config::{Architecture, Residual};
use crate::merge::Rule;
use crate::merge::layout::{ModelStage, common_rows};
use crate::merge::norms::NormUnit;
use crate::merge::reduce::reduce;
use crate::partition::{Kind, Param, ParamValue, Role, StageId, StageTensors};
use crate::tensor::{Agreement, Arithmetic, DType, HostTensor, TensorError, agreement};

/// What was found of a parameter.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub stage: StageId,
    pub role: Role,
    pub kind: Kind,
    /// Inside its layer.
    pub name: String,
    pub elements: usize,
    /// Whether folding changes it.
    pub foldable: bool,
    /// Type of the checkpoint's.
    pub dtype: DType,
    pub follows: Vec<Follows>,
    /// Where it follows no way.
    pub suspicion: Option<Suspicion>,
}

/// What is known of a tensor that no way makes.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    /// With the way whose result it was made of, where there is one.
    pub proven: Option<(Diagnosis, Option<Way>)>,
    pub distances: Vec<(Way, Distance)>,
    /// Of the layers' parameters, with the type that it is to be compared in.
    pub fingerprint: Option<(Fingerprint, DType)>,
}

impl Suspicion {
    fn proven(diagnosis: Diagnosis) -> Self {
        Self { proven: Some((diagnosis, None)), distances: Vec::new(), fingerprint: None }
    }
}

/// The two stages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub reference: &'a Reference<'a>,
    pub layout: Layout,
    /// The candidate as it was read.
    pub read: ModelStage<'a>,
    /// The candidate in the layout.
    pub other: &'a StageTensors,
    /// Type of the candidate's files.
    pub written: DType,
}

impl Pair<'_> {
    fn architecture(&self) -> &Architecture {
        self.reference.architecture
    }

    /// The parameter beside all ways but folding; `None` for one that both lack or that has no effect.
    pub(super) fn look(&self, role: Role, param: &Param) -> Result<Option<Found>, TensorError> {
        let first = param.value.tensors().first().ok_or(TensorError::Empty)?;
        let mut found = Found {
            stage: self.other.id,
            role,
            kind: param.kind,
            name: param.name.clone(),
            elements: first.element_count(),
            foldable: self.reference.folding().contains(&role),
            dtype: first.dtype(),
            follows: Vec::new(),
            suspicion: None,
        };
        let Some(other) = self.other.get(role) else {
            if self.is_neutral(role, param)? {
                return Ok(None);
            }
            found.suspicion = Some(Suspicion::proven(Diagnosis::Missing));
            return Ok(Some(found));
        };
        if self.is_lost_branch(role) {
            let zero = self.as_one(param.kind, other)?.is_zero()?;
            found.suspicion = Some(Suspicion::proven(Diagnosis::Extra));
            return Ok(Some(found).filter(|_| !zero));
        }
        let (own, theirs) = (param.value.tensors(), other.value.tensors());
        let kept = if theirs.len() > 1 && own.len() == theirs.len() { all_agree(own, theirs)? } else { None };
        let one = self.as_one(param.kind, other)?;
        let is_sum = theirs.len() > 1 && self.rule(param.kind) == Rule::Sum;
        for expected in self.reference.expected(role, param)? {
            let (expected, one) = comparable(role, expected, &one)?;
            let expected = if is_sum { expected.beside_sum(theirs)? } else { expected };
            found.follows.extend(expected.follows(&one)?);
        }
        found.follows.extend(kept.map(|agreement| Follows { way: Way::Kept, agreement }));
        if found.follows.is_empty() && self.regroups(role) {
            let (own, other) =
                (canonical_param(self.architecture(), self.other.id, role, param), self.canonical(role, other));
            for expected in self.reference.expected(role, &own)? {
                found.follows.extend(expected.follows(&self.as_one(param.kind, &other)?)?);
            }
        }
        Ok(Some(found))
    }

    /// A parameter that the checkpoint has none of; `None` where it has no effect.
    pub(super) fn look_at_extra(&self, role: Role, other: &Param) -> Result<Option<Found>, TensorError> {
        let first = other.value.tensors().first().ok_or(TensorError::Empty)?;
        let found = Found {
            stage: self.other.id,
            role,
            kind: other.kind,
            name: other.name.clone(),
            elements: first.element_count(),
            foldable: false,
            dtype: first.dtype(),
            follows: Vec::new(),
            suspicion: Some(Suspicion::proven(Diagnosis::Extra)),
        };
        let counts = other.kind != Kind::Buffer && !self.is_neutral(role, other)?;
        Ok(counts.then_some(found))
    }

    /// Adds whether it is what folding makes of it.
    pub(super) fn fold(&self, found: &mut Found) -> Result<(), TensorError> {
        let Some((expected, one)) = self.folded(found)? else {
            // Folding the norm leaves this reader as it is.
            let shards = found.follows.iter().find(|follows| follows.way == Way::Shards).copied();
            found.follows.extend(shards.map(|shards| Follows { way: Way::Folded, ..shards }));
            return Ok(());
        };
        found.follows.extend(expected.follows(&one)?);
        if found.follows.is_empty() && self.regroups(found.role) {
            let (id, role) = (self.other.id, found.role);
            let folded = self.reference.folded(self.layout, self.written).get(role);
            let (Some(folded), Some(other)) = (folded, self.other.get(role)) else { return Ok(()) };
            let folded = canonical_param(self.architecture(), id, role, folded);
            let other = self.as_one(found.kind, &self.canonical(role, other))?;
            for tensor in folded.value.tensors() {
                found.follows.extend(Expectation::copied(Way::Folded, tensor).follows(&other)?);
            }
        }
        Ok(())
    }

    fn folded(&self, found: &Found) -> Result<Option<(Expectation, HostTensor)>, TensorError> {
        let folded = self.reference.folded(self.layout, self.written).get(found.role);
        let tensor = folded.and_then(|param| param.value.tensors().first());
        let (Some(tensor), Some(other)) = (tensor, self.other.get(found.role)) else { return Ok(None) };
        let expected = Expectation::copied(Way::Folded, tensor);
        comparable(found.role, expected, &self.as_one(found.kind, other)?).map(Some)
    }

    /// Says what it is instead, where that can be proven. `folding`: whether folding is one of the ways.
    pub(super) fn diagnose(&self, found: &mut Found, folding: bool) -> Result<(), TensorError> {
        let (role, id) = (found.role, self.other.id);
        let own = self.reference.stage(self.layout).get(role);
        let (Some(own), Some(other)) = (own, self.other.get(role)) else { return Ok(()) };
        let architecture = self.architecture();
        let canonical = |param: &Param| match self.layout {
            Layout::Own => canonical_param(architecture, id, role, param),
            Layout::Canonical => param.clone(),
        };
        let other = if self.layout == Layout::Own { self.canonical(role, other) } else { other.clone() };
        let one = self.as_one(found.kind, &other)?;
        let mut expected = self.reference.expected(role, &canonical(own))?;
        if folding
            && found.foldable
            && let Some(folded) = self.reference.folded(self.layout, self.written).get(role)
        {
            let made = canonical(folded)
                .value
                .tensors()
                .iter()
                .map(|tensor| Expectation::copied(Way::Folded, tensor))
                .collect::<Vec<_>>();
            expected.splice(0..0, made);
        }
        let (mut compared, mut shortened) = (Vec::new(), one.clone());
        for expected in expected {
            let (expected, one) = comparable(role, expected, &one)?;
            compared.push(expected);
            shortened = one;
        }
        let ranks = self.reference.stage(self.layout).tp_size;
        let suspect = Suspect {
            architecture,
            role,
            kind: found.kind,
            ranks,
            found: &shortened,
            gain: self.gain_before(role)?,
            expected: &compared,
        };
        let in_layer = matches!(id, StageId::Layer(_));
        // Fingerprints are of the layout that stages are compared in.
        let plain = self.other.get(role).map(|other| self.as_one(found.kind, other)).transpose()?;
        let fingerprint = match plain.filter(|_| in_layer) {
            Some(plain) => Some((Fingerprint::of(&plain)?, found.dtype.coarser(plain.narrowest()?))),
            None => None,
        };
        found.suspicion = Some(Suspicion { proven: suspect.diagnose()?, distances: suspect.distances()?, fingerprint });
        Ok(())
    }

    /// The candidate's gain of the norm that a matrix reads, where the norm has a bias.
    fn gain_before(&self, role: Role) -> Result<Option<Vec<f64>>, TensorError> {
        let units = NormUnit::of_stage(self.architecture(), self.other.id);
        let unit = units.into_iter().find(|unit| unit.readers.iter().any(|reader| reader.weight == role));
        let gain = unit.filter(|unit| self.other.get(unit.bias).is_some()).and_then(|unit| self.other.get(unit.gain));
        gain.map(|gain| self.as_one(gain.kind, gain)?.to_f64()).transpose()
    }

    fn canonical(&self, role: Role, param: &Param) -> Param {
        canonical_param(self.read.architecture, self.other.id, role, param)
    }

    /// Whether rows that lie alike in both files are not the same rows, heads being of another number.
    fn regroups(&self, role: Role) -> bool {
        let (own, other) = (self.architecture(), self.read.architecture);
        self.layout == Layout::Own
            && matches!(role, Role::QkvWeight | Role::QkvBias)
            && (own.head_count, own.head_size) != (other.head_count, other.head_size)
    }

    /// Whether the parameter makes the output of an attention branch that the checkpoint computes and loses, and the
    /// candidate adds.
    fn is_lost_branch(&self, role: Role) -> bool {
        self.architecture().attention_dropped
            && !self.read.architecture.attention_dropped
            && matches!(role, Role::AttentionOutputWeight | Role::AttentionOutputBias)
    }

    /// The value that a model of several ranks uses: the sum where each adds its own before the all-reduce, else the mean.
    fn as_one(&self, kind: Kind, param: &Param) -> Result<HostTensor, TensorError> {
        match &param.value {
            ParamValue::Joined(tensor) => Ok(tensor.clone()),
            ParamValue::Replicas(replicas) => reduce(replicas, self.rule(kind), Arithmetic::Float64),
        }
    }

    fn rule(&self, kind: Kind) -> Rule {
        Rule::Auto.resolve(kind, self.architecture().residual)
    }

    /// Whether the model is the same without the parameter: a bias of zeros, a gain of ones, a norm of the MLP that is the
    /// attention's.
    fn is_neutral(&self, role: Role, param: &Param) -> Result<bool, TensorError> {
        let all = |neutral: f64| -> Result<bool, TensorError> {
            for tensor in param.value.tensors() {
                if tensor.to_f64()?.iter().any(|&value| value - neutral != 0.0) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let is_bias = matches!(param.kind, Kind::RowParallelBias | Kind::NormBias)
            || matches!(role, Role::QkvBias | Role::MlpInputBias);
        let attention_norm = match role {
            Role::MlpNormGain => Some(Role::InputNormGain),
            Role::MlpNormBias => Some(Role::InputNormBias),
            _ => None,
        };
        let holder = if self.other.get(role).is_some() { self.other } else { self.reference.stage(self.layout) };
        let is_shared = attention_norm.and_then(|norm| holder.get(norm)).is_some_and(|norm| {
            let (own, norm) = (param.value.tensors(), norm.value.tensors());
            own.len() == norm.len() && own.iter().zip(norm).all(|(own, norm)| own.same_bits(norm))
        });
        Ok(is_shared || (is_bias && all(0.0)?) || (param.kind == Kind::NormGain && all(1.0)?))
    }
}

/// Padding rows of the vocabulary may have been cut off or added: then the rows that both have.
fn comparable(role: Role, expected: Expectation, found: &HostTensor) -> Result<(Expectation, HostTensor), TensorError> {
    let of_vocabulary = matches!(role, Role::WordEmbedding | Role::HeadWeight);
    if !of_vocabulary || expected.tensor.shape().get(1..) != found.shape().get(1..) {
        return Ok((expected, found.clone()));
    }
    let (tensor, found) = common_rows(&expected.tensor, found)?;
    Ok((Expectation::copied(expected.way, &tensor), found))
}

/// How closely each replica agrees with its counterpart; `None` where one does not.
fn all_agree(own: &[HostTensor], other: &[HostTensor]) -> Result<Option<Agreement>, TensorError> {
    let mut all: Option<Agreement> = None;
    for (own, other) in own.iter().zip(other) {
        let Some(found) = agreement(own, other, None)? else { return Ok(None) };
        all = Some(all.map_or(found, |all| all.and(found)));
    }
    Ok(all)
}

fn canonical_param(architecture: &Architecture, id: StageId, role: Role, param: &Param) -> Param {
    let alone = StageTensors { id, tp_size: 1, params: std::iter::once((role, param.clone())).collect() };
    in_canonical(architecture, &alone).params.remove(&role).unwrap_or_else(|| param.clone())
}

/// Of a sum and a mean: how many times the model's parameter the way makes, but for drift.
pub(super) fn factor(way: Way, kind: Kind, residual: Residual, ranks: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    let multiple = |rule: Rule| if rule == Rule::Sum { ranks as f64 } else { 1.0 };
    match way {
        Way::Rule(rule) => multiple(rule) / multiple(Rule::Auto.resolve(kind, residual)),
        Way::Shards | Way::Folded | Way::Kept => 1.0,
    }
}
