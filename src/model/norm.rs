//! Norms, one replica a rank. After gpt-neox `megatron/model/norms.py`.

use tch::{Kind, Tensor};

use super::backend::wide;
use super::streams::of_rank;
use super::{ModelError, Uploader, kernels};
use crate::config::{Architecture, EpsilonPlacement, Norm as NormKind, NormForm};
use crate::partition::{Role, StageTensors};

/// Running means over tokens of a norm's output.
#[derive(Debug, Default)]
pub struct NormMeans {
    // One for all ranks or one per rank, `[hidden]`, float64.
    sums: Vec<Tensor>,
    rows: i64,
}

impl NormMeans {
    /// Takes in a norm's output, `[rows, hidden]`, one for all ranks or one per rank.
    pub(super) fn add(&mut self, normed: &[Tensor]) -> Result<(), ModelError> {
        let sums = normed.iter().map(|rows| rows.f_sum_dim_intlist(0, false, Kind::Double));
        let rows = normed.first().map_or(0, |rows| rows.size()[0]);
        self.merge(Self { sums: sums.collect::<Result<_, _>>()?, rows })
    }

    pub fn merge(&mut self, other: Self) -> Result<(), ModelError> {
        if self.sums.is_empty() {
            self.sums = other.sums;
        } else {
            for (total, sum) in self.sums.iter_mut().zip(&other.sums) {
                let _ = total.f_add_(sum)?;
            }
        }
        self.rows += other.rows;
        Ok(())
    }

    /// The means, `[hidden]` each, one per rank.
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
    form: NormForm,
    replicas: Vec<(Option<Tensor>, Option<Tensor>)>,
}

impl Norm {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
        gain: Role,
        bias: Role,
    ) -> Result<Self, ModelError> {
        let form = if gain == Role::MlpNormGain { architecture.mlp_norm_form() } else { architecture.norm_form() };
        if form.kind.has_gain() && stage.get(gain).is_none() {
            return Err(ModelError::MissingParameter { stage: stage.id, role: gain });
        }
        let gains = uploader.per_rank_optional(stage, architecture, gain)?;
        let biases = uploader.per_rank_optional(stage, architecture, bias)?;
        let only = |parts: Vec<Tensor>| parts.into_iter().next();
        let mut replicas: Vec<_> = gains.into_iter().map(only).zip(biases.into_iter().map(only)).collect();
        // Each rank has other heads.
        if gain != Role::QueryKeyNormGain && stage.ranks_agree(gain) && stage.ranks_agree(bias) {
            replicas.truncate(1);
        }
        Ok(Self { form, replicas })
    }

    /// Normalises the streams, each rank's with its own replica: `[rows, hidden]` each, one for all ranks if neither
    /// streams nor replicas differ.
    pub(super) fn forward(&self, streams: &[Tensor]) -> Result<Vec<Tensor>, ModelError> {
        let NormForm { kind, epsilon, .. } = self.form;
        if let ([rows], true) = (streams, kind.centres())
            && let Some(normed) = kernels::layer_norms(rows, &self.replicas, epsilon)?
        {
            return Ok(normed);
        }
        let count = self.replicas.len().max(streams.len());
        (0..count).map(|tp_rank| self.apply(of_rank(streams, tp_rank), of_rank(&self.replicas, tp_rank))).collect()
    }

    /// Normalises a rank's queries or keys, `[tokens, heads, head size]`, with a gain for every head and element.
    pub(super) fn forward_heads(&self, tp_rank: usize, heads: &Tensor) -> Result<Tensor, ModelError> {
        self.apply(&heads.f_contiguous()?, &self.replicas[tp_rank])
    }

    /// Normalises a rank's queries or keys, `[tokens, heads, head size]`, over the elements of each head.
    pub(super) fn forward_each_head(&self, tp_rank: usize, heads: &Tensor) -> Result<Tensor, ModelError> {
        let sizes = heads.size();
        let rows = heads.f_reshape([-1, sizes.last().copied().unwrap_or(1)])?;
        Ok(self.apply(&rows, of_rank(&self.replicas, tp_rank))?.f_view(sizes.as_slice())?)
    }

    /// Normalises: layer norms over all dimensions but the first together; the others over the last.
    fn apply(&self, rows: &Tensor, (gain, bias): &(Option<Tensor>, Option<Tensor>)) -> Result<Tensor, ModelError> {
        let NormForm { kind, epsilon, placement } = self.form;
        if kind.centres() {
            return Ok(rows.f_layer_norm(&rows.size()[1..], gain.as_ref(), bias.as_ref(), epsilon, true)?);
        }
        // In float32 at least, rounded at the end (norms.py, since 4c9f1081).
        let wide = wide(rows.kind());
        let x = rows.f_to_kind(wide)?;
        let normed = if kind == NormKind::ScaleNorm {
            let length = x.f_square()?.f_sum_dim_intlist(-1, true, wide)?.f_sqrt()?;
            x.f_div(&length.f_clamp_min(epsilon)?)?
        } else {
            let mean_square = x.f_square()?.f_mean_dim(-1, true, wide)?;
            match placement {
                EpsilonPlacement::Inside => x.f_mul(&mean_square.f_add_scalar(epsilon)?.f_rsqrt()?)?,
                EpsilonPlacement::Outside => x.f_div(&mean_square.f_sqrt()?.f_add_scalar(epsilon)?)?,
            }
        };
        let scaled = match gain {
            Some(gain) => normed.f_mul(&gain.f_to_kind(wide)?)?,
            None => normed,
        };
        Ok(scaled.f_to_kind(rows.kind())?)
    }
}
