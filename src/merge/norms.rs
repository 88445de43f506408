//! Which linear layers read which norm. Folding changes a norm and its readers together.

use std::collections::BTreeSet;

use crate::config::{Architecture, MlpInput, Positions};
use crate::partition::{Role, StageId};

/// A norm and the column-parallel layers that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NormUnit {
    pub gain: Role,
    pub bias: Role,
    /// The layers that read it; models lack some.
    pub readers: &'static [ReaderRoles],
}

/// Weight and bias of a layer that reads a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReaderRoles {
    pub weight: Role,
    pub bias: Option<Role>,
}

const ATTENTION: ReaderRoles = ReaderRoles { weight: Role::QkvWeight, bias: Some(Role::QkvBias) };
const MLP: ReaderRoles = ReaderRoles { weight: Role::MlpInputWeight, bias: Some(Role::MlpInputBias) };
const GATE: ReaderRoles = ReaderRoles { weight: Role::MlpGateWeight, bias: None };
const UP: ReaderRoles = ReaderRoles { weight: Role::MlpUpWeight, bias: None };
const HEAD: ReaderRoles = ReaderRoles { weight: Role::HeadWeight, bias: None };

impl NormUnit {
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
            (StageId::Output, _) => vec![unit(Role::FinalNormGain, Role::FinalNormBias, &[HEAD])],
        }
    }

    /// The norm and its readers, whether or not the model has all of them.
    pub(super) fn roles(self) -> BTreeSet<Role> {
        let readers = self.readers.iter().flat_map(|reader| std::iter::once(reader.weight).chain(reader.bias));
        readers.chain([self.gain, self.bias]).collect()
    }

    /// Whether the role is the unit's gain or bias.
    pub(super) fn has(self, role: Role) -> bool {
        self.gain == role || self.bias == role
    }
}

/// Whether the parameter has no effect: it belongs to an attention branch whose output is lost, or adds the same to a
/// query's scores of all keys, which the softmax does not see.
pub(super) fn is_lost(architecture: &Architecture, role: Role) -> bool {
    let turned = matches!(architecture.positions, Positions::Rotary { dims: 1.., .. });
    (role == Role::KeyNormBias && !turned)
        || architecture.attention_dropped
            && match role {
                Role::AttentionOutputBias => true,
                role if role.is_per_head_norm() => true,
                Role::InputNormGain | Role::InputNormBias => architecture.mlp_input == MlpInput::OwnNorm,
                _ => false,
            }
}

/// Whether another norm reads this norm's output: then no linear layer can make up for its replicas.
pub(super) fn feeds_a_norm(architecture: &Architecture, role: Role) -> bool {
    architecture.mlp_input == MlpInput::NormOfAttentionNorm && matches!(role, Role::InputNormGain | Role::InputNormBias)
}
