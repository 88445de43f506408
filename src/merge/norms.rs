//! Which linear layers read which norm: what folding changes together.

use crate::config::{Architecture, MlpInput};
use crate::partition::{Role, StageId};

/// A norm and the column-parallel layers that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NormUnit {
    /// The norm's gain.
    pub gain: Role,
    /// The norm's bias; RMS norms have none.
    pub bias: Role,
    /// Weight and bias of each reader.
    pub readers: &'static [(Role, Option<Role>)],
}

const ATTENTION: (Role, Option<Role>) = (Role::QkvWeight, Some(Role::QkvBias));
const MLP: (Role, Option<Role>) = (Role::MlpInputWeight, Some(Role::MlpInputBias));

impl NormUnit {
    /// The norms of a stage.
    pub(super) fn of_stage(architecture: &Architecture, stage: StageId) -> Vec<Self> {
        let unit = |gain, bias, readers| Self { gain, bias, readers };
        match (stage, architecture.mlp_input) {
            (StageId::Embedding, _) => Vec::new(),
            (StageId::Layer(_), MlpInput::AttentionNorm) => {
                vec![unit(Role::InputNormGain, Role::InputNormBias, &[ATTENTION, MLP])]
            }
            (StageId::Layer(_), MlpInput::OwnNorm) => vec![
                unit(Role::InputNormGain, Role::InputNormBias, &[ATTENTION]),
                unit(Role::MlpNormGain, Role::MlpNormBias, &[MLP]),
            ],
            (StageId::Output, _) => {
                vec![unit(Role::FinalNormGain, Role::FinalNormBias, &[(Role::HeadWeight, None)])]
            }
        }
    }

    /// Whether the role is the unit's gain or bias.
    pub(super) fn has(self, role: Role) -> bool {
        self.gain == role || self.bias == role
    }
}
