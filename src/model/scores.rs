//! Changes to attention scores besides multiplying queries and keys: the scale, relative position biases (alibi and
//! T5's buckets) and the sliding window. After gpt-neox `megatron/model/transformer.py` (`ParallelSelfAttention`),
//! `positional_embeddings.py` (`AliBi`) and `megatron/mpu/layers.py` (`ParallelRelativePositionBias`).

use tch::{Device, Kind, Tensor};

use super::backend::wide;
use super::extent::to_i64;
use super::{Backend, ModelError, Uploader};
use crate::config::{Architecture, Positions};
use crate::partition::{Role, StageId, StageTensors};

#[derive(Debug)]
pub(super) struct Scores {
    /// Factor of query · key where it is not 1 / √(head size).
    pub(super) scale: Option<f64>,
    relative: Relative,
    // Keys further back than this are not seen.
    window: Option<i64>,
    backend: Backend,
}

/// A bias for every head and distance; the weights are one tensor a rank.
#[derive(Debug)]
enum Relative {
    Absent,
    /// `−slope · factor · distance`, slopes `[heads]`.
    Slopes {
        ranks: Vec<Tensor>,
        factor: f64,
    },
    /// `weight[bucket(distance)] · factor`, weights `[buckets, heads]`.
    Buckets {
        ranks: Vec<Tensor>,
        factor: f64,
        buckets: i64,
        max_distance: i64,
    },
}

impl Scores {
    pub(super) fn new(
        stage: &StageTensors,
        architecture: &Architecture,
        uploader: &mut Uploader,
    ) -> Result<Self, ModelError> {
        let StageId::Layer(layer) = stage.id else {
            return Err(ModelError::MissingParameter { stage: stage.id, role: Role::QkvWeight });
        };
        let flash = architecture.is_flash(layer);
        #[expect(clippy::cast_precision_loss, reason = "a number of layers")]
        // Scores are divided by the layer's number, the biases added, and all multiplied by it: only the biases notice.
        let coefficient = if architecture.query_key_layer_scaling && !flash { layer.max(1) as f64 } else { 1.0 };
        #[expect(clippy::cast_precision_loss, reason = "elements of a head")]
        let head_size = architecture.head_size as f64;
        // Maximal update parametrisation replaces the divisor, layer number and all, but not the multiplication.
        let replaced = architecture.multipliers.scores_by_head_size && !flash;
        let scale = replaced.then_some(coefficient / head_size);
        let backend = uploader.backend;
        let mut ranks = |role| -> Result<Vec<Tensor>, ModelError> {
            let parts = uploader.per_rank_as(stage, architecture, role, wide(backend.kind))?;
            Ok(parts.into_iter().flatten().collect())
        };
        let relative = match architecture.positions {
            Positions::Alibi => Relative::Slopes { ranks: ranks(Role::AlibiSlopes)?, factor: coefficient },
            // FlashAttention is not given these.
            Positions::RelativeBuckets { buckets, max_distance } if !flash => Relative::Buckets {
                ranks: ranks(Role::RelativeBias)?,
                factor: coefficient * head_size.sqrt(),
                buckets: to_i64(buckets),
                max_distance: to_i64(max_distance),
            },
            _ => Relative::Absent,
        };
        let window = architecture.sliding_window.filter(|_| flash).map(to_i64);
        Ok(Self { scale, relative, window, backend })
    }

    /// The bias added to the scores of passages of this length, `[1, heads or 1, length, length]`, −∞ where a key is not
    /// seen; `None` where causality is all there is.
    pub(super) fn bias(&self, tp_rank: usize, length: i64) -> Result<Option<Tensor>, ModelError> {
        let hidden_by_window = self.window.filter(|&width| width + 1 < length);
        if hidden_by_window.is_none() && matches!(self.relative, Relative::Absent) {
            return Ok(None);
        }
        let device = self.backend.device;
        let steps = Tensor::f_arange(length, (Kind::Int64, device))?;
        // [query, key], negative where the key comes later.
        let distances = steps.f_unsqueeze(1)?.f_sub(&steps)?;
        let by_distance = self.by_distance(tp_rank, length)?;
        let heads = by_distance.size()[0];
        let near = distances.f_clamp_min(0)?.f_view([-1])?;
        let bias = by_distance.f_index_select(1, &near)?.f_view([1, heads, length, length])?;
        let mut unseen = distances.f_lt(0)?;
        if let Some(width) = hidden_by_window {
            unseen = unseen.f_logical_or(&distances.f_gt(width)?)?;
        }
        Ok(Some(bias.f_masked_fill(&unseen, f64::NEG_INFINITY)?.f_to_kind(self.backend.kind)?))
    }

    /// The relative bias for every head and distance, `[heads or 1, length]`.
    fn by_distance(&self, tp_rank: usize, length: i64) -> Result<Tensor, ModelError> {
        let on_device = (wide(self.backend.kind), self.backend.device);
        Ok(match &self.relative {
            Relative::Absent => Tensor::f_zeros([1, length], on_device)?,
            Relative::Slopes { ranks, factor } => {
                let distances = Tensor::f_arange(length, on_device)?.f_mul_scalar(-factor)?;
                ranks[tp_rank].f_unsqueeze(1)?.f_mul(&distances)?
            }
            Relative::Buckets { ranks, factor, buckets, max_distance } => {
                let bucket = buckets_of(length, *buckets, *max_distance)?.f_to_device(self.backend.device)?;
                ranks[tp_rank].f_index_select(0, &bucket)?.f_transpose(0, 1)?.f_mul_scalar(*factor)?
            }
        })
    }
}

/// T5's causal buckets of the distances 0, 1, 2, …: half of them hold one distance each, the others grow with its
/// logarithm. In float32, as gpt-neox computes them: the border of a bucket depends on it.
pub(super) fn buckets_of(length: i64, buckets: i64, max_distance: i64) -> Result<Tensor, ModelError> {
    let exact = (buckets / 2).max(1);
    #[expect(clippy::cast_precision_loss, reason = "numbers of tokens")]
    let octaves = (max_distance as f64 / exact as f64).ln();
    let distances = Tensor::f_arange(length, (Kind::Int64, Device::Cpu))?;
    let grown = distances
        .f_to_kind(Kind::Float)?
        .f_div_scalar(exact)?
        .f_log()?
        .f_div_scalar(octaves)?
        .f_mul_scalar(buckets - exact)?;
    // Distance 0 has no logarithm, and needs none.
    let far = grown.f_clamp_min(0)?.f_to_kind(Kind::Int64)?.f_add_scalar(exact)?.f_clamp_max(buckets - 1)?;
    Ok(distances.f_where_self(&distances.f_lt(exact)?, &far)?)
}
