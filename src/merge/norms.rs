//! Which linear layers read which norm: what folding changes together.

use std::collections::BTreeSet;

use crate::config::{Architecture, MlpInput};
use crate::partition::{Role, StageId};

/// A norm and the column-parallel layers that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NormUnit {
    /// The norm's gain.
    pub gain: Role,
    /// The norm's bias; RMS norms have none.
    pub bias: Role,
    /// Weight and bias of each reader; models lack some.
    pub readers: &'static [Reader],
}

type Reader = (Role, Option<Role>);

const ATTENTION: Reader = (Role::QkvWeight, Some(Role::QkvBias));
const MLP: Reader = (Role::MlpInputWeight, Some(Role::MlpInputBias));
const GATE: Reader = (Role::MlpGateWeight, None);
const UP: Reader = (Role::MlpUpWeight, None);

impl NormUnit {
    /// The norms of a stage.
    pub(super) fn of_stage(architecture: &Architecture, stage: StageId) -> Vec<Self> {
        let unit = |gain, bias, readers| Self { gain, bias, readers };
        match (stage, architecture.mlp_input) {
            (StageId::Embedding, _) => Vec::new(),
            (StageId::Layer(_), MlpInput::AttentionNorm) => {
                vec![unit(Role::InputNormGain, Role::InputNormBias, &[ATTENTION, MLP, GATE, UP])]
            }
            (StageId::Layer(_), MlpInput::OwnNorm | MlpInput::NormOfAttentionNorm) => vec![
                unit(Role::InputNormGain, Role::InputNormBias, &[ATTENTION]),
                unit(Role::MlpNormGain, Role::MlpNormBias, &[MLP, GATE, UP]),
            ],
            (StageId::Output, _) => {
                vec![unit(Role::FinalNormGain, Role::FinalNormBias, &[(Role::HeadWeight, None)])]
            }
        }
    }

    /// The norm and its readers, whether or not the model has all of them.
    pub(super) fn roles(self) -> BTreeSet<Role> {
        let readers = self.readers.iter().flat_map(|&(weight, bias)| std::iter::once(weight).chain(bias));
        readers.chain([self.gain, self.bias]).collect()
    }

    /// Whether the role is the unit's gain or bias.
    pub(super) fn has(self, role: Role) -> bool {
        self.gain == role || self.bias == role
    }
}

/// Whether what has this role makes no difference: it serves an attention branch that is lost.
pub(super) fn is_lost(architecture: &Architecture, role: Role) -> bool {
    architecture.attention_dropped
        && match role {
            Role::AttentionOutputBias => true,
            Role::InputNormGain | Role::InputNormBias => architecture.mlp_input == MlpInput::OwnNorm,
            _ => false,
        }
}

/// Whether another norm reads what the norm of this role puts out: then no linear layer can make up for its replicas.
pub(super) fn feeds_a_norm(architecture: &Architecture, role: Role) -> bool {
    architecture.mlp_input == MlpInput::NormOfAttentionNorm && matches!(role, Role::InputNormGain | Role::InputNormBias)
}
