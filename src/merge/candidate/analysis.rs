//! A candidate's stages, one after another, beside the checkpoint's.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::conclusion::{Conclusion, Evidence, Hypothesis, conclude};
use super::parameter::{Found, Pair};
use super::reference::{Fingerprints, Layout, Reference, in_canonical};
use super::way::Way;
use crate::config::Residual;
use crate::merge::MergeError;
use crate::merge::layout::ModelStage;
use crate::partition::{Kind, Param, Role, StageId};
use crate::tensor::{DType, HostTensor, TensorError};

/// The comparison of a candidate with the unmerged model, over the stages so far.
#[derive(Debug, Clone, Default)]
pub struct CandidateAnalysis {
    hypotheses: Vec<Hypothesis>,
    found: Vec<Found>,
    /// By layer.
    layers: BTreeMap<usize, Fingerprints>,
    /// Whether folded tensors were seen.
    folds: bool,
    written: Option<DType>,
    ranks: usize,
    residual: Option<Residual>,
    streams_can_differ: bool,
}

impl CandidateAnalysis {
    /// Adds a stage of the candidate, of which nothing but fingerprints is kept.
    ///
    /// # Errors
    /// Replicas that do not fit together, or integers.
    pub fn add(&mut self, reference: &Reference<'_>, candidate: ModelStage<'_>) -> Result<(), MergeError> {
        let (architecture, id) = (reference.architecture, candidate.tensors.id);
        let layout = Layout::common(architecture, candidate.architecture);
        let ours = reference.stage(layout);
        let other = match layout {
            Layout::Own => candidate.tensors.clone(),
            Layout::Canonical => in_canonical(candidate.architecture, candidate.tensors),
        };
        if self.hypotheses.is_empty() {
            self.hypotheses = Hypothesis::all(ours.tp_size)?;
        }
        self.ranks = ours.tp_size;
        self.residual = Some(architecture.residual);
        self.streams_can_differ = architecture.streams_can_differ();
        let of_first = || other.params.values().find_map(|param| param.value.tensors().first()).map(HostTensor::dtype);
        let written = *self.written.get_or_insert_with(|| of_first().unwrap_or(DType::F32));
        let pair = Pair { reference, layout, read: candidate, other: &other, written };

        let failed = |name: &str| {
            let name = name.to_owned();
            move |source: TensorError| MergeError::Tensor { stage: id, name, source }
        };
        let counts = |(_, param): &(&Role, &Param)| param.kind != Kind::Buffer;
        let own: Vec<_> = ours.params.iter().filter(counts).collect();
        let looked = own.par_iter().map(|&(&role, param)| pair.look(role, param).map_err(failed(&param.name)));
        let mut found: Vec<Found> = looked.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        for (&role, param) in other.params.iter().filter(|(role, _)| ours.get(**role).is_none()) {
            found.extend(pair.look_at_extra(role, param).map_err(failed(&param.name))?);
        }

        let open = |found: &Found| found.follows.is_empty() && found.suspicion.is_none();
        let folding = self.folds || found.iter().any(|found| found.foldable && open(found));
        if folding {
            let foldable = found.par_iter_mut().filter(|found| found.foldable && found.suspicion.is_none());
            foldable.map(|found| pair.fold(found).map_err(failed(&found.name.clone()))).collect::<Result<(), _>>()?;
            let folded = |found: &Found| matches!(found.follows[..], [only] if only.way == Way::Folded);
            self.folds |= found.iter().any(folded);
        }
        for found in found.iter_mut().filter(|found| open(found)) {
            pair.diagnose(found, folding).map_err(failed(&found.name.clone()))?;
        }
        if let StageId::Layer(layer) = id {
            let made = reference.fingerprints(layout, written, folding).map_err(failed("fingerprint"))?;
            self.layers.insert(layer, made);
        }
        self.found.extend(found);
        Ok(())
    }

    /// What the candidate is.
    pub fn conclude(&self) -> Conclusion {
        conclude(&Evidence {
            hypotheses: &self.hypotheses,
            found: &self.found,
            layers: &self.layers,
            ranks: self.ranks,
            residual: self.residual.unwrap_or(Residual::Sequential),
            streams_can_differ: self.streams_can_differ,
        })
    }
}
