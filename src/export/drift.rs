//! Replicas that differ from rank to rank by a seeded amount, which test checkpoints are made with.

use super::ExportError;
use super::plan::PlannedParam;
use super::synth::random::{BLOCK, Normals, tensor};
use crate::partition::Kind;
use crate::tensor::{HostTensor, TensorError};

/// How far each rank's replicas are from the model's: every element is multiplied by 1 + a normal number of this standard
/// deviation, which the seed, the parameter's name, the rank and the element's place decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// Of norms and learned positions.
    pub replicas: f64,
    /// Of row-parallel biases; where the ranks' are added up, of each rank's share.
    pub biases: f64,
    pub seed: u64,
}

impl Drift {
    /// # Errors
    /// [`ExportError::Setting`], for what is no amount.
    pub fn check(&self) -> Result<(), ExportError> {
        let amounts = [("drift", self.replicas), ("drift of biases", self.biases)];
        match amounts.into_iter().find(|(_, amount)| !(0.0..=1.0).contains(amount)) {
            None => Ok(()),
            Some((setting, amount)) => {
                Err(ExportError::Setting { setting, expected: "a fraction from 0 to 1", found: amount.to_string() })
            }
        }
    }

    /// How far the replicas of a parameter of this kind are apart.
    pub(super) fn of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::RowParallelBias => self.biases,
            kind if kind.is_replicated() => self.replicas,
            _ => 0.0,
        }
    }

    /// A rank's replica of a parameter.
    pub(super) fn replica(
        &self,
        param: &PlannedParam,
        value: &HostTensor,
        tp_rank: usize,
    ) -> Result<HostTensor, TensorError> {
        let amount = self.of(param.kind);
        if amount == 0.0 {
            return Ok(value.clone());
        }
        let normals =
            Normals::new(self.seed, &format!("sequential.{}.{} rank {tp_rank}", param.file_stage, param.name));
        let values = value.to_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "a standard deviation, and a product that is rounded")]
        let fill = |block: usize, drifted: &mut [f32]| {
            normals.fill(block, amount as f32, drifted);
            for (drifted, value) in drifted.iter_mut().zip(&values[block * BLOCK..]) {
                *drifted = (value * (1.0 + f64::from(*drifted))) as f32;
            }
        };
        tensor(value.dtype(), value.shape().to_vec(), fill)
    }
}
