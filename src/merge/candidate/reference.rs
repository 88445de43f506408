//! A stage of the checkpoint, and what the ways of merging make of it, each made once however many candidates ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use rayon::prelude::*;

use super::fingerprint::Fingerprint;
use super::way::{Expectation, Way};
use crate::config::{Architecture, MlpMatrices};
use crate::merge::fold::fold;
use crate::merge::norms::NormUnit;
use crate::partition::{Param, ParamValue, Role, StageTensors, canonical};
use crate::tensor::{DType, HostTensor, TensorError};

/// How the rows of matrices lie while stages are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As in the checkpoint.
    Own,
    /// As in [`canonical`].
    Canonical,
}

impl Layout {
    /// In which a model can be compared with the checkpoint.
    pub(super) fn common(checkpoint: &Architecture, other: &Architecture) -> Self {
        let same = checkpoint.qkv == other.qkv && checkpoint.mlp_matrices == other.mlp_matrices;
        if same && checkpoint.mlp_matrices != MlpMatrices::Separate { Self::Own } else { Self::Canonical }
    }
}

/// A stage of the checkpoint.
#[derive(Debug)]
pub struct Reference<'a> {
    pub(super) architecture: &'a Architecture,
    own: &'a StageTensors,
    /// Norms whose replicas differ.
    drifted: Vec<NormUnit>,
    canonical: OnceLock<StageTensors>,
    /// In the checkpoint's type, and in float32.
    folded: [OnceLock<StageTensors>; 2],
    canonical_folded: [OnceLock<StageTensors>; 2],
    fingerprints: [OnceLock<Fingerprints>; 2],
}

/// Of every parameter of a layer, for every way.
pub(super) type Fingerprints = BTreeMap<Role, Vec<(Way, Fingerprint)>>;

impl<'a> Reference<'a> {
    pub fn new(architecture: &'a Architecture, stage: &'a StageTensors) -> Self {
        let units = NormUnit::of_stage(architecture, stage.id).into_iter();
        let drifted = units.filter(|unit| !(stage.ranks_agree(unit.gain) && stage.ranks_agree(unit.bias)));
        Self {
            architecture,
            own: stage,
            drifted: drifted.collect(),
            canonical: OnceLock::new(),
            folded: [const { OnceLock::new() }; 2],
            canonical_folded: [const { OnceLock::new() }; 2],
            fingerprints: [const { OnceLock::new() }; 2],
        }
    }

    pub(super) fn stage(&self, layout: Layout) -> &StageTensors {
        match layout {
            Layout::Own => self.own,
            Layout::Canonical => self.canonical.get_or_init(|| in_canonical(self.architecture, self.own)),
        }
    }

    /// The parameters that folding changes.
    pub(super) fn folding(&self) -> BTreeSet<Role> {
        self.drifted.iter().flat_map(|unit| unit.roles()).collect()
    }

    /// What folding makes of the parameters that it changes, for a model whose files have type `written`: like `merge`, it
    /// folds in the wider type.
    pub(super) fn folded(&self, layout: Layout, written: DType) -> &StageTensors {
        let stored = self.own.params.values().find_map(|param| param.value.tensors().first()).map(HostTensor::dtype);
        let wide = stored.is_some_and(|stored| stored.size() == 2 && stored != written);
        let folded = self.folded[usize::from(wide)].get_or_init(|| self.fold(wide));
        match layout {
            Layout::Own => folded,
            Layout::Canonical => {
                self.canonical_folded[usize::from(wide)].get_or_init(|| in_canonical(self.architecture, folded))
            }
        }
    }

    /// A norm that cannot be folded is left out.
    fn fold(&self, wide: bool) -> StageTensors {
        let mut stage = self.own.clone();
        if wide {
            let folding = self.folding();
            for (_, param) in stage.params.iter_mut().filter(|(role, _)| folding.contains(role)) {
                let cast = |tensor: &HostTensor| tensor.cast(DType::F32).unwrap_or_else(|_| tensor.clone());
                param.value = match &param.value {
                    ParamValue::Joined(tensor) => ParamValue::Joined(cast(tensor)),
                    ParamValue::Replicas(replicas) => ParamValue::Replicas(replicas.iter().map(cast).collect()),
                };
            }
        }
        let made = self.drifted.par_iter().filter_map(|&unit| fold(&stage, self.architecture, unit).ok());
        let made: Vec<_> = made.flat_map_iter(|folded| folded.params).collect();
        let param = |(role, tensor): (Role, HostTensor)| {
            let Param { name, kind, .. } = stage.params.get(&role)?.clone();
            Some((role, Param { name, kind, value: ParamValue::Joined(tensor) }))
        };
        StageTensors { id: stage.id, tp_size: 1, params: made.into_iter().filter_map(param).collect() }
    }

    /// What every way but folding makes of a parameter.
    pub(super) fn expected(&self, role: Role, param: &Param) -> Result<Vec<Expectation>, TensorError> {
        match &param.value {
            ParamValue::Joined(tensor) => Ok(vec![Expectation::copied(Way::Shards, tensor)]),
            ParamValue::Replicas(replicas) => {
                Expectation::of_replicas(param.kind, role, self.architecture.residual, replicas)
            }
        }
    }

    /// Fingerprints of all that the ways make of this stage; of folding where that was asked for.
    pub(super) fn fingerprints(
        &self,
        layout: Layout,
        written: DType,
        folding: bool,
    ) -> Result<Fingerprints, TensorError> {
        let plain = &self.fingerprints[usize::from(layout == Layout::Canonical)];
        let mut all = if let Some(known) = plain.get() {
            known.clone()
        } else {
            let made = self.stage(layout).params.par_iter().map(|(&role, param)| {
                let expected = self.expected(role, param)?;
                let of = |made: &Expectation| Ok((made.way, Fingerprint::of(&made.tensor)?));
                Ok((role, expected.iter().map(of).collect::<Result<Vec<_>, TensorError>>()?))
            });
            let made: Fingerprints = made.collect::<Result<_, TensorError>>()?;
            plain.get_or_init(|| made).clone()
        };
        if folding {
            for (&role, param) in &self.folded(layout, written).params {
                for tensor in param.value.tensors() {
                    all.entry(role).or_default().push((Way::Folded, Fingerprint::of(tensor)?));
                }
            }
        }
        Ok(all)
    }
}

/// In the common layout; rows whose number does not fit the architecture as they are, which the comparison then shows.
pub(super) fn in_canonical(architecture: &Architecture, stage: &StageTensors) -> StageTensors {
    let (attention, others) = stage.params.iter().partition::<BTreeMap<_, _>, _>(|(role, _)| is_qkv(**role));
    let parts = [attention, others].into_iter().map(|params| {
        let params = params.into_iter().map(|(&role, param)| (role, param.clone())).collect();
        let part = StageTensors { params, ..*stage };
        canonical(architecture, &part).unwrap_or(part).params
    });
    StageTensors { params: parts.flatten().collect(), ..*stage }
}

fn is_qkv(role: Role) -> bool {
    matches!(role, Role::QkvWeight | Role::QkvBias)
}
