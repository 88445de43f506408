//! The values of a synthetic model: of the size that trained weights have, so that norms, softmax and biases all matter.

use super::options::SynthOptions;
use super::random::{self, Normals};
use crate::config::{Architecture, Positions, Residual};
use crate::export::ExportError;
use crate::partition::{Kind, Partition, Role, Row, split};
use crate::tensor::HostTensor;

#[derive(Clone, Copy)]
pub(super) struct Planned {
    /// Number of its stage in file names.
    pub stage: usize,
    /// Its row in the partition table.
    pub row: &'static Row,
    pub name: &'static str,
}

pub(super) struct Weights<'a> {
    pub options: &'a SynthOptions,
    pub architecture: &'a Architecture,
}

impl Weights<'_> {
    /// Each rank's share of a parameter. The joined tensor is dropped before this returns.
    pub(super) fn shards(&self, planned: Planned) -> Result<Vec<HostTensor>, ExportError> {
        match planned.row.partition(self.architecture) {
            Some(partition) => self.split(planned, &partition),
            None => self.replicas(planned),
        }
    }

    fn split(&self, planned: Planned, partition: &Partition) -> Result<Vec<HostTensor>, ExportError> {
        let joined = if planned.row.role == Role::AlibiSlopes {
            let slopes = self.architecture.alibi_slopes();
            HostTensor::from_f64(self.options.dtype, vec![slopes.len()], &slopes)
                .map_err(|source| ExportError::Tensor { name: planned.name.to_owned(), source })?
        } else {
            let normals = self.normals(planned, "");
            let deviation = self.deviation(planned.row.role);
            self.tensor(planned, |block, values| normals.fill(block, deviation, values))?
        };
        split(partition, &joined, self.options.tp_size)
            .map_err(|source| ExportError::Partition { name: planned.name.to_owned(), source })
    }

    fn replicas(&self, planned: Planned) -> Result<Vec<HostTensor>, ExportError> {
        let tp_size = self.options.tp_size;
        if let (Kind::Buffer, Positions::Rotary { dims, base, .. }) = (planned.row.kind, self.architecture.positions) {
            let table = HostTensor::from_f64(self.options.dtype, vec![dims / 2], &rotary_frequencies(dims, base))
                .map_err(|source| ExportError::Tensor { name: planned.name.to_owned(), source })?;
            return Ok(vec![table; tp_size]);
        }
        let normals = self.normals(planned, "");
        let deviation = self.deviation(planned.row.role);
        let mean = if planned.row.kind == Kind::NormGain { 1.0 } else { 0.0 };
        let share = self.share(planned.row.kind);
        let common = |block: usize, values: &mut [f32]| {
            normals.fill(block, deviation, values);
            for value in values {
                *value = (*value + mean) * share;
            }
        };
        if self.options.drift == 0.0 {
            return Ok(vec![self.tensor(planned, common)?; tp_size]);
        }
        #[expect(clippy::cast_possible_truncation, reason = "a standard deviation needs no 53 bits")]
        let drift = self.options.drift as f32;
        let replica = |tp_rank: usize| {
            let noise = self.normals(planned, &format!(" rank {tp_rank}"));
            self.tensor(planned, |block, values| {
                common(block, values);
                let mut factors = vec![0.0; values.len()];
                noise.fill(block, drift, &mut factors);
                for (value, factor) in values.iter_mut().zip(factors) {
                    *value += *value * factor;
                }
            })
        };
        (0..tp_size).map(replica).collect()
    }

    fn tensor(&self, planned: Planned, fill: impl Fn(usize, &mut [f32]) + Sync) -> Result<HostTensor, ExportError> {
        random::tensor(self.options.dtype, (planned.row.shape)(self.architecture), fill)
            .map_err(|source| ExportError::Tensor { name: planned.name.to_owned(), source })
    }

    /// Keyed by the first name of the row, which no era's naming changes.
    fn normals(&self, planned: Planned, suffix: &str) -> Normals {
        let (stage, name) = (planned.stage, planned.row.names[0]);
        Normals::new(self.options.seed, &format!("sequential.{stage}.{name}{suffix}"))
    }

    /// With a parallel residual the ranks' row-parallel biases are summed, so each holds an equal share of the model's
    /// bias, and models of any number of ranks are the same function.
    #[expect(clippy::cast_precision_loss, reason = "a count of ranks")]
    fn share(&self, kind: Kind) -> f32 {
        match (kind, self.architecture.residual) {
            (Kind::RowParallelBias, Residual::Parallel) => 1.0 / self.options.tp_size as f32,
            _ => 1.0,
        }
    }

    /// Standard deviation. Weights as gpt-neox initialises them (0.02, and divided by √(2 layers) before the residual
    /// stream); row-parallel biases larger than others, because there a wrong merge must show.
    #[expect(clippy::cast_precision_loss, reason = "a count of layers")]
    fn deviation(&self, role: Role) -> f32 {
        match role {
            Role::AttentionOutputWeight | Role::MlpOutputWeight => {
                0.02 / (2.0 * self.architecture.layer_count as f32).sqrt()
            }
            Role::AttentionOutputBias
            | Role::MlpOutputBias
            | Role::InputNormGain
            | Role::MlpNormGain
            | Role::FinalNormGain => 0.05,
            _ => 0.02,
        }
    }
}

/// gpt-neox's `RotaryEmbedding.inv_freq`: base^(−2i / dims).
#[expect(clippy::cast_precision_loss, reason = "dimensions of a head")]
fn rotary_frequencies(dims: usize, base: f64) -> Vec<f64> {
    (0..dims / 2).map(|index| base.powf(-2.0 * index as f64 / dims as f64)).collect()
}
