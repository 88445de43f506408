//! Two models tensor by tensor, in whatever format: parameters are paired by their role, stage by stage.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::layout::{ModelStage, common_rows};
use super::reduce::{reduce, rules_of};
use super::{MergeError, Rule};
use crate::checkpoint::ModelSource;
use crate::config::{Architecture, Head};
use crate::partition::{Param, ParamValue, Role, StageId};
use crate::tensor::{Arithmetic, DType, Difference, HostTensor, TensorError, difference};

/// How two models differ.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ModelDiff {
    /// The first model.
    pub left: DiffSide,
    /// The second.
    pub right: DiffSide,
    /// Whether no setting and no bit of any parameter differs.
    pub identical: bool,
    /// Settings that differ.
    pub settings: Vec<DiffSetting>,
    /// Every parameter, in the order of the model.
    pub parameters: Vec<ParameterDiff>,
}

/// One of the two models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffSide {
    /// Its folder.
    pub path: String,
    /// Such as `gpt-neox, 2 ranks`.
    pub format: String,
    /// Data type of its word embedding.
    pub dtype: DType,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffSetting {
    /// Its name.
    pub setting: String,
    /// The first model's value.
    pub left: String,
    /// The second's.
    pub right: String,
}

/// A parameter of one of the models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DiffTensor {
    /// Its name in the file, inside its stage.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents of the joined tensor, or of one replica.
    pub shape: Vec<usize>,
    /// Copies on tensor-parallel ranks; 1 for a joined tensor.
    pub replicas: usize,
}

/// One parameter in both models.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ParameterDiff {
    /// Its stage: `embedding`, `layer N` or `output`.
    pub stage: String,
    /// In the first model; absent where that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<DiffTensor>,
    /// In the second model; absent where that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<DiffTensor>,
    /// Whether type, shape and every bit are the same, on every rank.
    pub identical: bool,
    /// Where one model has a copy a rank and the other has one in all: the rule whose result is closest to that one,
    /// `rank K`, `mean` or `sum`. The values are compared with that result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How far the values are from each other; absent where shapes differ. Of a vocabulary of another size, the rows that
    /// both have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<ValueDiff>,
}

/// How far the values of two tensors are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct ValueDiff {
    /// Elements compared.
    pub count: u64,
    /// Elements that differ.
    pub differing: u64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Mean absolute difference.
    pub mean_abs: f64,
    /// Length of the difference over length of the first, both as vectors; absent where the first is zero.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<f64>,
    /// Most steps of the coarser of the two types between two elements.
    pub max_ulps: u64,
}

impl From<Difference> for ValueDiff {
    fn from(difference: Difference) -> Self {
        let relative = difference.relative();
        Self {
            count: difference.count,
            differing: difference.differing,
            max_abs: difference.max_abs,
            mean_abs: difference.mean_abs(),
            relative: relative.is_finite().then_some(relative),
            max_ulps: difference.max_ulps,
        }
    }
}

/// Compares two models. A stage of each is in memory at a time.
///
/// # Errors
/// A file that cannot be read, a weight that is NaN or infinite, or tensors that do not fit together.
pub fn diff_models(left: &dyn ModelSource, right: &dyn ModelSource) -> Result<ModelDiff, MergeError> {
    let settings = settings(left.architecture(), right.architecture());
    let (left_ids, right_ids) = (left.stage_ids(), right.stage_ids());
    // The deeper model has all stages; the output comes last.
    let ids = if left_ids.len() >= right_ids.len() { &left_ids } else { &right_ids };
    let mut parameters = Vec::new();
    for &id in ids {
        let read = |model: &dyn ModelSource, ids: &[StageId]| {
            if ids.contains(&id) { model.read_stage(id).map(Some) } else { Ok(None) }
        };
        let (ours, theirs) = rayon::join(|| read(left, &left_ids), || read(right, &right_ids));
        match (ours?, theirs?) {
            (Some(ours), Some(theirs)) => {
                let left = ModelStage { architecture: left.architecture(), tensors: &ours };
                let right = ModelStage { architecture: right.architecture(), tensors: &theirs };
                parameters.extend(diff_stages(left, right)?);
            }
            (Some(stage), None) => {
                parameters.extend(stage.params.values().map(|param| alone(id, Some(param), None)));
            }
            (None, Some(stage)) => {
                parameters.extend(stage.params.values().map(|param| alone(id, None, Some(param))));
            }
            (None, None) => {}
        }
    }
    let side = |model: &dyn ModelSource| DiffSide {
        path: model.folder().display().to_string(),
        format: model.describe(),
        dtype: model.dtype(),
    };
    let identical = settings.is_empty() && parameters.iter().all(|parameter| parameter.identical);
    Ok(ModelDiff { left: side(left), right: side(right), identical, settings, parameters })
}

fn settings(left: &Architecture, right: &Architecture) -> Vec<DiffSetting> {
    let tied = |architecture: &Architecture| (architecture.head == Head::Tied).to_string();
    let longest = |architecture: &Architecture| architecture.max_position_embeddings.to_string();
    let further = [
        ("tied_embeddings".to_owned(), tied(left), tied(right)),
        ("max_position_embeddings".to_owned(), longest(left), longest(right)),
    ];
    left.differences(right)
        .into_iter()
        .chain(further.into_iter().filter(|(_, left, right)| left != right))
        .map(|(setting, left, right)| DiffSetting { setting, left, right })
        .collect()
}

fn diff_stages(left: ModelStage<'_>, right: ModelStage<'_>) -> Result<Vec<ParameterDiff>, MergeError> {
    let id = left.tensors.id;
    let (ours, theirs) = left.in_one_layout(right).map_err(|source| MergeError::Layout { stage: id, source })?;
    let roles: BTreeSet<Role> = ours.params.keys().chain(theirs.params.keys()).copied().collect();
    roles
        .into_iter()
        .map(|role| match (ours.get(role), theirs.get(role)) {
            (Some(own), Some(other)) => diff_params(left.architecture, id, role, own, other)
                .map_err(|source| MergeError::Tensor { stage: id, name: own.name.clone(), source }),
            (own, other) => Ok(alone(id, own, other)),
        })
        .collect()
}

fn form(param: &Param) -> Option<DiffTensor> {
    let tensors = param.value.tensors();
    let first = tensors.first()?;
    Some(DiffTensor {
        name: param.name.clone(),
        dtype: first.dtype(),
        shape: first.shape().to_vec(),
        replicas: tensors.len(),
    })
}

fn alone(id: StageId, left: Option<&Param>, right: Option<&Param>) -> ParameterDiff {
    let (left, right) = (left.and_then(form), right.and_then(form));
    ParameterDiff { stage: id.to_string(), left, right, identical: false, rule: None, values: None }
}

fn diff_params(
    architecture: &Architecture,
    id: StageId,
    role: Role,
    left: &Param,
    right: &Param,
) -> Result<ParameterDiff, TensorError> {
    let mut found = alone(id, Some(left), Some(right));
    let (ours, theirs) = (left.value.tensors(), right.value.tensors());
    let joined = |param: &Param| matches!(param.value, ParamValue::Joined(_));
    match (ours, theirs) {
        ([own], [other]) if own.shape() != other.shape() => {
            if joined(left) && matches!(role, Role::WordEmbedding | Role::HeadWeight) {
                let (own, other) = common_rows(own, other)?;
                found.values =
                    (own.shape() == other.shape()).then(|| difference(&own, &other)).transpose()?.map(Into::into);
            }
        }
        ([first, ..], [other, ..]) if first.shape() != other.shape() => {}
        (ours, theirs) if ours.len() == theirs.len() => {
            let mut total = Difference::default();
            for (own, other) in ours.iter().zip(theirs) {
                total = total.and(difference(own, other)?);
            }
            found.identical = ours.iter().zip(theirs).all(|(own, other)| own.same_bits(other));
            found.values = Some(total.into());
        }
        (replicas, [one]) | ([one], replicas) => {
            let agree = replicas.iter().all(|replica| replica.same_bits(one));
            let (rule, closest) = closest(architecture, left, replicas, one)?;
            found.identical = agree;
            found.rule = (!agree).then(|| rule.to_string());
            found.values = Some(closest.into());
        }
        (ours, theirs) => {
            // Copies on different numbers of ranks: compared are the values that each model uses.
            let rule = Rule::Auto.resolve(left.kind, architecture.residual);
            let one = |replicas: &[HostTensor]| reduce(replicas, rule, Arithmetic::Float64);
            found.rule = Some(rule.to_string());
            found.values = Some(difference(&one(ours)?, &one(theirs)?)?.into());
        }
    }
    Ok(found)
}

/// The rule whose result is closest to `one`.
fn closest(
    architecture: &Architecture,
    param: &Param,
    replicas: &[HostTensor],
    one: &HostTensor,
) -> Result<(Rule, Difference), TensorError> {
    let mut best: Option<(Rule, Difference)> = None;
    for rule in rules_of(param.kind, architecture.residual, replicas.len()) {
        let found = difference(&reduce(replicas, rule, Arithmetic::Float64)?, one)?;
        if best.is_none_or(|(_, known)| found.squared < known.squared) {
            best = Some((rule, found));
        }
    }
    best.ok_or(TensorError::Empty)
}
