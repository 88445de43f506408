//! Norms, one replica a rank. After gpt-neox `megatron/model/norms.py`.

use tch::{Kind, Tensor};

use super::streams::of_rank;
use super::weights::to_i64;
use super::{ModelError, Uploader};
use crate::config::{Architecture, Norm as NormKind};
use crate::partition::{Role, StageTensors};

/// Running means over tokens of what a norm puts out.
#[derive(Debug, Default)]
pub struct NormMeans {
    // One for all ranks or one per rank, `[hidden]`, float64.
    sums: Vec<Tensor>,
    rows: i64,
}

impl NormMeans {
    /// Takes in a norm's output, `[rows, hidden]`, one for all ranks or one per rank.
    pub(super) fn add(&mut self, normed: &[Tensor]) -> Result<(), ModelError> {
        let sums =
            normed.iter().map(|rows| rows.f_sum_dim_intlist(0, false, Kind::Double)).collect::<Result<Vec<_>, _>>()?;
        if self.sums.is_empty() {
            self.sums = sums;
        } else {
            for (total, sum) in self.sums.iter_mut().zip(&sums) {
                let _ = total.f_add_(sum)?;
            }
        }
        self.rows += normed.first().map_or(0, |rows| rows.size()[0]);
        Ok(())
    }

    /// The means, `[hidden]` each, one per rank.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn per_rank(&self, tp_size: usize) -> Result<Vec<Vec<f64>>, ModelError> {
        if self.sums.is_empty() {
            return Ok(Vec::new());
        }
        (0..tp_size)
            .map(|tp_rank| {
                let mean = of_rank(&self.sums, tp_rank).f_div_scalar(self.rows.max(1))?;
                Ok(Vec::<f64>::try_from(&mean)?)
            })
            .collect()
    }
}

/// A norm with one gain (and bias) per rank; one for all where the replicas agree.
#[derive(Debug)]
pub(super) struct Norm {
    kind: NormKind,
    epsilon: f64,
    hidden: i64,
    replicas: Vec<(Tensor, Option<Tensor>)>,
}

impl Norm {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
        gain: Role,
        bias: Role,
    ) -> Result<Self, ModelError> {
        let gains = uploader.per_rank(stage, architecture, gain)?;
        let biases = uploader.per_rank_optional(stage, architecture, bias)?;
        let mut replicas = Vec::with_capacity(gains.len());
        for (gain, bias) in gains.into_iter().zip(biases) {
            let bias = bias.and_then(|parts| parts.into_iter().next());
            replicas.extend(gain.into_iter().next().map(|gain| (gain, bias)));
        }
        if stage.ranks_agree(gain) && stage.ranks_agree(bias) {
            replicas.truncate(1);
        }
        let (kind, epsilon) = (architecture.norm, architecture.norm_epsilon);
        Ok(Self { kind, epsilon, hidden: to_i64(architecture.hidden_size), replicas })
    }

    /// Normalises the streams, each rank's with its own replica: `[rows, hidden]` each, one for all ranks if neither
    /// streams nor replicas differ.
    pub(super) fn forward(&self, streams: &[Tensor]) -> Result<Vec<Tensor>, ModelError> {
        let count = self.replicas.len().max(streams.len());
        (0..count).map(|tp_rank| self.one(of_rank(streams, tp_rank), of_rank(&self.replicas, tp_rank))).collect()
    }

    fn one(&self, rows: &Tensor, (gain, bias): &(Tensor, Option<Tensor>)) -> Result<Tensor, ModelError> {
        match self.kind {
            NormKind::RmsNorm => {
                // x · rsqrt(mean(x²) + ε) · gain, in float32 at least, rounded at the end (norms.py, since 4c9f1081).
                let wide = if rows.kind() == Kind::Double { Kind::Double } else { Kind::Float };
                let x = rows.f_to_kind(wide)?;
                let mean_square = x.f_square()?.f_mean_dim(-1, true, wide)?;
                let scale = mean_square.f_add_scalar(self.epsilon)?.f_rsqrt()?;
                Ok(x.f_mul(&scale)?.f_mul(&gain.f_to_kind(wide)?)?.f_to_kind(rows.kind())?)
            }
            _ => Ok(rows.f_layer_norm([self.hidden], Some(gain), bias.as_ref(), self.epsilon, true)?),
        }
    }
}
